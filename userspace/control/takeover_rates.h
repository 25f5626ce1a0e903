/* SPDX-License-Identifier: MIT */
/*
 * What clients lack of their tokens (flow/rate_limit.h) goes from one daemon to the next: a rule's
 * buckets are one message. Main thread.
 */
#ifndef LB_CONTROL_TAKEOVER_RATES_H
#define LB_CONTROL_TAKEOVER_RATES_H

struct lb_service;
struct lb_takeover_message;

/* Those of all rules, to <fd>. 0 or -errno: the other one is gone. */
int lb_takeover_rates_send(struct lb_service *s, int fd);
/* What is not understood is not taken. */
void lb_takeover_rates_take(struct lb_service *s, const struct lb_takeover_message *m);

#endif
