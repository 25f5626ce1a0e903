/* SPDX-License-Identifier: MIT */
/*
 * The graft carrier's side in the daemon (include/lb/graft.h says what a graft is).
 *
 *   relay --earned--> watched --seen--> SPLIT --nothing owed--> FULL
 *     ^                  |                |                       |
 *     |    not eligible  |                |  the flow ends        |  the session is over; the flow
 *     +------------------+                v                       v  goes on: graft_keeper.c
 *
 * While a pair is watched relay still carries it and its table entry is in stage PASS: that the
 * program sees both legs' packets is proven before anything depends on it.
 *
 * Worker's thread only.
 */
#ifndef LB_FLOW_GRAFT_H
#define LB_FLOW_GRAFT_H

#include <stdbool.h>

#include "flow/carrier.h"

/*
 * Called by relay after its work: begins to watch, or goes on to SPLIT. True when the graft carrier
 * has taken over: the caller must not touch the pair any more.
 */
bool lb_graft_consider(struct lb_pair *p);
/* The pair ends, or will not be grafted: takes back what watching put in place. */
void lb_graft_unwatch(struct lb_pair *p);

/* For graft_watch.c and graft.c: polls, at growing distances (p->poll_ms). */
void lb_graft_poll_soon(struct lb_pair *p);
/*
 * SPLIT begins: every packet of both legs is forwarded from now on. Relay holds nothing. 0, or
 * -errno with nothing changed.
 */
int lb_graft_split(struct lb_pair *p);

#endif
