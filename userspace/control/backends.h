/* SPDX-License-Identifier: MIT */
/*
 * The backends of all rules: builds their pools, and watches over them in a thread of its own
 * (control/health). Main thread, if nothing else is said.
 */
#ifndef LB_CONTROL_BACKENDS_H
#define LB_CONTROL_BACKENDS_H

#include "backend/ports.h"
#include "flow/env.h"
#include "worker.h"

struct lb_backends;

/* All borrowed, until lb_backends_free(). */
struct lb_backends_opts {
	struct lb_rule *rules;
	size_t rules_count;
	const struct lb_graft_config *graft; /* the range of local ports */
	struct lb_ports_shelf *ports;
};

/* 0 or -errno. */
int lb_backends_new(struct lb_backends **ret, const struct lb_backends_opts *opts);
/* Pool, selection and books of <rule>. 0, or -errno after a message. Before the workers run. */
int lb_backends_build(struct lb_backends *b, struct lb_rule *rule);
/* How many backends have health checks. */
uint32_t lb_backends_checked(const struct lb_backends *b);

/* The workers run: the watch begins. 0, or -errno after a message. */
int lb_backends_start(struct lb_backends *b, struct lb_worker *const *workers,
		      uint32_t workers_count);
/* Before the workers are stopped. NULL is fine. */
void lb_backends_stop(struct lb_backends *b);
/* After that, with the pools of all rules. NULL is fine. */
void lb_backends_free(struct lb_backends **b);

#endif
