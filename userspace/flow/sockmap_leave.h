/* SPDX-License-Identifier: MIT */
/*
 * The way back from sockmap to relay, for flows that are about to be handed to another daemon
 * (handover.h). Worker's thread only.
 */
#ifndef LB_FLOW_SOCKMAP_LEAVE_H
#define LB_FLOW_SOCKMAP_LEAVE_H

#include "flow/carrier.h"

#define LB_SOCKMAP_LEAVE_MS 100u

/*
 * Tries to take both legs out of the map. 0: they are out, and lb_sockmap_become_relay() has to
 * follow in the same turn, once the bytes so far have been counted. -EAGAIN: bytes are still under
 * way inside the kernel. Verdicts are held up meanwhile, for LB_SOCKMAP_LEAVE_MS at
 * most: ask again soon, or
 * the flow goes on as before. -ECONNABORTED: it lost bytes and was ended.
 */
int lb_sockmap_leave(struct lb_pair *p);
void lb_sockmap_become_relay(struct lb_pair *p);

/* sockmap.c asks after each of its turns: verdicts are held up, so look again soon. */
bool lb_sockmap_is_leaving(struct lb_pair *p);

/*
 * Has the program see what has waited since before a socket joined the map: to set SO_RCVLOWAT
 * makes the kernel look at the queue (tcp_set_rcvlowat).
 */
void lb_sockmap_judge_queues(const struct lb_pair *p);

#endif
