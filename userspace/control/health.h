/* SPDX-License-Identifier: MIT */
/*
 * Acts on what health checks find: a backend that is down gets no flow any more, and what it has is
 * kept or reset as its rule says; the log tells once, with the cause. The checks have a thread of
 * their own.
 */
#ifndef LB_CONTROL_HEALTH_H
#define LB_CONTROL_HEALTH_H

#include "flow/env.h"
#include "worker.h"

struct lb_health_service;

/* All borrowed, until lb_health_stop(). */
struct lb_health_opts {
	const struct lb_rule *rules;
	size_t rules_count;
	struct lb_worker *const *workers;
	uint32_t workers_count;
};

/* The workers run. *ret is NULL when no rule wants checks. 0 or -errno. Main thread. */
int lb_health_start(struct lb_health_service **ret, const struct lb_health_opts *opts);
/* Before the workers are stopped. NULL is fine. Main thread. */
void lb_health_stop(struct lb_health_service **h);

#endif
