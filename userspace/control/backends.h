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
struct lb_opinions;
struct lb_roster;
struct lb_same_host;

struct lb_backends_opts {
	struct lb_rule *rules;        /* borrowed, as all here */
	uint32_t rules_max;           /* rule->index is less */
	struct lb_graft_config graft; /* the range of local ports */
	struct lb_ports_shelf *ports;
};

/* 0 or -errno. */
int lb_backends_new(struct lb_backends **ret, const struct lb_backends_opts *opts);

/* --- the start -------------------------------------------------------------------------------- */

/*
 * An empty pool for <rule>, which is to be as <config> says, and its selection. 0, or -errno after
 * a message.
 */
int lb_backends_build(struct lb_rule *rule, const struct lb_rule_config *config);
/*
 * All <rules> are built: fills their pools. Waits for names, each for as long as its rule says, or
 * until SIGTERM or SIGINT is pending. 0, or -errno after a message.
 */
int lb_backends_resolve(struct lb_backends *b, struct lb_rule *rules, size_t count);
/* How many descriptors health checks and look-ups of <rules> take at most. */
uint64_t lb_backends_descriptors(const struct lb_backends *b, const struct lb_rule *rules,
				 size_t count);

/*
 * The places of rules; one that is not served has no roster. The watching thread, as for what is in
 * them.
 */
size_t lb_backends_rules(const struct lb_backends *b, struct lb_rule **rules);
/* Whether the rule in place <index> is in the configuration. */
bool lb_backends_is_served(const struct lb_backends *b, size_t index);
struct lb_drains *lb_backends_drains(const struct lb_backends *b);
/* Runs fn(arg) in the watching thread, soon. Any thread, while it runs. 0 or -ENOMEM. */
int lb_backends_post(struct lb_backends *b, void (*fn)(void *arg), void *arg);

/*
 * The workers run: the watch begins. <same_host>: NULL when not in service; <opinions>: of other
 * nodes, NULL without a cluster. 0, or -errno after a message.
 */
int lb_backends_start(struct lb_backends *b, const struct lb_same_host *same_host,
		      struct lb_opinions *opinions, struct lb_worker *const *workers,
		      uint32_t workers_count);

/* --- a change, while the thread runs ---------------------------------------------------------- */

/* A rule that is to be as <config> says. */
struct lb_backends_change {
	struct lb_rule *rule; /* built; of a rule in service: it has an older configuration */
	const struct lb_rule_config *config;
	bool checks_changed;      /* they are otherwise than before */
	struct lb_roster *roster; /* lb_backends_prepare()'s */
};

/*
 * Looks up the names that are new: whatever may fail. Nothing changes. 0, or -errno after a
 * message: -EADDRNOTAVAIL when a name has no address, -EINTR when SIGTERM or SIGINT is pending. In
 * any case lb_backends_commit() or lb_backends_abort() is next.
 */
int lb_backends_prepare(struct lb_backends *b, struct lb_backends_change *changes, size_t count);
/* All rules have their new configuration, and pools to go with it, when this returns. */
void lb_backends_commit(struct lb_backends *b, struct lb_backends_change *changes, size_t count);
/* Nothing has happened. */
void lb_backends_abort(struct lb_backends *b, struct lb_backends_change *changes, size_t count);
/* <rule> is served no more: its backends stay as they are, unwatched, for the flows it has. */
void lb_backends_retire(struct lb_backends *b, struct lb_rule *rule);
/*
 * .. and has none any more: its pool and selection are freed, and its config is gone. False:
 * somebody still holds a backend of it; to be tried again.
 */
bool lb_backends_demolish(struct lb_backends *b, struct lb_rule *rule);
/* The same for one that was never committed, or when the thread does not run any more. */
void lb_backends_discard(struct lb_rule *rule);

/* --- the end ---------------------------------------------------------------------------------- */

/* Before the workers are stopped. NULL is fine. */
void lb_backends_stop(struct lb_backends *b);
/* After that; pools are left to lb_backends_discard(). NULL is fine. */
void lb_backends_free(struct lb_backends **b);

#endif
