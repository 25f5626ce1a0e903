/* SPDX-License-Identifier: MIT */
/* What sockmap.c and sockmap_leave.c have of each other. Worker's thread only. */
#ifndef LB_FLOW_SOCKMAP_PARTS_H
#define LB_FLOW_SOCKMAP_PARTS_H

#include "flow/carrier.h"

/*
 * All that was handed to the sink of direction <d>, by the program and by us, is in its socket's
 * send queue: nothing is left in the psock's (S1). For a direction whose source has ended this is
 * also S4's answer.
 */
bool lb_sockmap_is_drained(struct lb_pair *p, unsigned int d);
/* So much more was passed than has been read. */
uint64_t lb_sockmap_unread(const struct lb_pair *p, unsigned int d);
/*
 * Reads what direction <d> was passed into what is held, whether its sink takes it or not, as long
 * as less than <most> bytes are held and more than <rest> are unread. 0 or -errno, p->error set
 * unless it is -ENOMEM.
 */
int lb_sockmap_take_in(struct lb_pair *p, unsigned int d, uint32_t most, uint32_t rest);

#endif
