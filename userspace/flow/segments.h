/* SPDX-License-Identifier: MIT */
/*
 * How large the segments may be that we allow our peers to send. A graft hands a segment on as it
 * came, so neither peer may be promised more than the other one's way carries: what lo or a jumbo
 * frame would carry is too much. Must be said before the handshake; any thread.
 */
#ifndef LB_FLOW_SEGMENTS_H
#define LB_FLOW_SEGMENTS_H

#include "backend/pool.h"

/* What the ways to all backends of <pool> carry now. */
int lb_segments_carried(struct lb_pool *pool);
/* Limits the clients of listening socket <fd> to that. */
void lb_segments_limit_clients(int fd, int mss);
/* Limits the backend that <fd> is about to connect to, to what the client at <client_fd> takes. */
void lb_segments_limit_backend(int fd, int client_fd);

#endif
