/* SPDX-License-Identifier: MIT */
/*
 * Local ports for connections to one backend address. A grafted flow has no socket any more, so the
 * kernel would hand its port out again, and the new connection's packets would meet the old one's:
 * connections that may be grafted take their port from here, and a port rests while a graft has it.
 *
 * Books are shared by all rules and workers with the same backend address. Any thread.
 */
#ifndef LB_BACKEND_PORTS_H
#define LB_BACKEND_PORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

struct lb_ports;

/*
 * The book of <backend> in the shelf that *first heads, made when it is not there yet; the shelf
 * owns it. The range is <min>..<max>, both included. Main thread only. 0 or -ENOMEM.
 */
int lb_ports_open(struct lb_ports **first, const struct lb_addr *backend, uint16_t min,
		  uint16_t max, struct lb_ports **ret);
/* The book of <backend>, NULL when there is none. */
struct lb_ports *lb_ports_find(struct lb_ports *first, const struct lb_addr *backend);
/* Frees the shelf; *first becomes NULL. */
void lb_ports_free(struct lb_ports **first);

/* The next port in turn that no graft has, host byte order; 0 when all are taken. */
uint16_t lb_ports_next(struct lb_ports *p);
/* A graft has taken or left <port>. Harmless for ports outside of the range. */
void lb_ports_take(struct lb_ports *p, uint16_t port);
void lb_ports_leave(struct lb_ports *p, uint16_t port);
/* True when <port> is one of ours and no graft has it. */
bool lb_ports_may_graft(const struct lb_ports *p, uint16_t port);

#endif
