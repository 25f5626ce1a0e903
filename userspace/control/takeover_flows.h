/* SPDX-License-Identifier: MIT */
/*
 * Flows that go from the daemon that drains to the one that serves, a few at a time, each of them
 * answered for: what that one does not take goes on here. See flow/handover.h. Main thread.
 */
#ifndef LB_CONTROL_TAKEOVER_FLOWS_H
#define LB_CONTROL_TAKEOVER_FLOWS_H

#include <stdbool.h>

struct lb_service;
struct lb_takeover_flows;
struct lb_takeover_message;

/* --- the one that drains --- */

/* <fd>: to the other one; borrowed. 0 or -ENOMEM. */
int lb_takeover_flows_new(struct lb_takeover_flows **ret, struct lb_service *s, int fd);
/* Moves what can be moved, for so many milliseconds at most, and looks at all again next time. */
void lb_takeover_flows_step(struct lb_takeover_flows *f, unsigned int ms);
/* The workers still run. NULL inside is fine. */
void lb_takeover_flows_free(struct lb_takeover_flows **f);

/* --- the one that serves --- */

/* Takes the flow of a FLOW message. False: it does not, and the other one keeps it. */
bool lb_takeover_flow_take(struct lb_service *s, struct lb_takeover_message *m);

#endif
