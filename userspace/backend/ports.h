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
struct lb_ports_shelf;

/* 0 or -ENOMEM. */
int lb_ports_shelf_new(struct lb_ports_shelf **ret);
/* Frees what is still on it, too. NULL is fine. No worker may use it any more. */
void lb_ports_shelf_free(struct lb_ports_shelf **shelf);
/* How many books stand on it. */
uint32_t lb_ports_shelf_count(struct lb_ports_shelf *shelf);

/*
 * The book of <backend> on the <shelf>, held for the caller, made when it is not there yet. The
 * range is <min>..<max>, both included. 0 or -ENOMEM. To be given back with lb_ports_close(), or
 * lb_ports_shelf_free() does.
 */
int lb_ports_open(struct lb_ports_shelf *shelf, const struct lb_addr *backend, uint16_t min,
		  uint16_t max, struct lb_ports **ret);
/* Holds a book that is held already once more. Returns it. */
struct lb_ports *lb_ports_hold(struct lb_ports *p);
/* The last one takes it off the shelf: no graft may have a port of it. NULL inside is fine. */
void lb_ports_close(struct lb_ports **p);

/* The next port in turn that no graft has, host byte order; 0 when all are taken. */
uint16_t lb_ports_next(struct lb_ports *p);
/*
 * That one was in use: the next one is far from it. Ports that wait in TIME_WAIT, after a restart,
 * stand side by side, as they were given.
 */
void lb_ports_skip(struct lb_ports *p);
/* A graft has taken or left <port>. Harmless for ports outside of the range. */
void lb_ports_take(struct lb_ports *p, uint16_t port);
void lb_ports_leave(struct lb_ports *p, uint16_t port);
/* True when <port> is one of ours and no graft has it. */
bool lb_ports_may_graft(const struct lb_ports *p, uint16_t port);

#endif
