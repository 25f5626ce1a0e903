/* SPDX-License-Identifier: MIT */
/*
 * Acts on what health checks find, and on what flows tell of their backends (passive_health): one
 * that is down or ejected gets no flow any more; the flows of one that is down are kept or reset as
 * its rule says; the log tells once, with the cause. All of it happens in a thread of its own.
 */
#ifndef LB_CONTROL_HEALTH_H
#define LB_CONTROL_HEALTH_H

#include "flow/env.h"
#include "worker.h"

struct lb_health_service;

/* All borrowed, until lb_health_stop(). */
struct lb_health_opts {
	struct lb_rule *rules;
	size_t rules_count;
	struct lb_worker *const *workers;
	uint32_t workers_count;
};

/*
 * Before the workers run: from now on their flows tell of backends that fail. *ret is NULL when no
 * rule wants any of it. 0 or -errno. Main thread, as for the rest.
 */
int lb_health_new(struct lb_health_service **ret, const struct lb_health_opts *opts);
/* The workers run: the checks begin. NULL is fine. 0 or -errno. */
int lb_health_start(struct lb_health_service *h);
/* Before the workers are stopped. NULL is fine. */
void lb_health_stop(struct lb_health_service *h);
/* After that. NULL is fine. */
void lb_health_free(struct lb_health_service **h);

#endif
