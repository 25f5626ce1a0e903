/* SPDX-License-Identifier: MIT */
/*
 * The backends of all rules: builds their pools, and watches over them in a thread of its own:
 * looks up their names (control/roster), checks their health (control/health). Main thread, if
 * nothing else is said.
 */
#ifndef LB_CONTROL_BACKENDS_H
#define LB_CONTROL_BACKENDS_H

#include "backend/ports.h"
#include "flow/env.h"
#include "worker.h"

struct lb_backends;
struct lb_same_host;

/* All borrowed, until lb_backends_free(). */
struct lb_backends_opts {
	struct lb_rule *rules;
	size_t rules_count;
	const struct lb_graft_config *graft; /* the range of local ports */
	struct lb_ports_shelf *ports;
};

/* 0 or -errno. */
int lb_backends_new(struct lb_backends **ret, const struct lb_backends_opts *opts);
/* An empty pool for <rule>, and its selection. 0, or -errno after a message. */
int lb_backends_build(struct lb_backends *b, struct lb_rule *rule);
/*
 * All of them are built: fills the pools. Waits for names, each for as long as its rule says, or
 * until SIGTERM or SIGINT is pending. 0, or -errno after a message.
 */
int lb_backends_resolve(struct lb_backends *b);
/* How many descriptors health checks and look-ups take at most. */
uint64_t lb_backends_descriptors(const struct lb_backends *b);

/* Those of opts. The watching thread, as for what is in them. */
size_t lb_backends_rules(const struct lb_backends *b, struct lb_rule **rules);
struct lb_drains *lb_backends_drains(const struct lb_backends *b);
/* Runs fn(arg) in the watching thread, soon. Any thread, while it runs. 0 or -ENOMEM. */
int lb_backends_post(struct lb_backends *b, void (*fn)(void *arg), void *arg);

/* The workers run: the watch begins. <same_host>: NULL when not in service. 0, or -errno after a
 * message. */
int lb_backends_start(struct lb_backends *b, const struct lb_same_host *same_host,
		      struct lb_worker *const *workers, uint32_t workers_count);
/* Before the workers are stopped. NULL is fine. */
void lb_backends_stop(struct lb_backends *b);
/* After that, with the pools of all rules. NULL is fine. */
void lb_backends_free(struct lb_backends **b);

#endif
