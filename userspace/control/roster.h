/* SPDX-License-Identifier: MIT */
/*
 * What the entries of one rule's `backends` stand for at the moment, numeric addresses and names,
 * and the pool that follows from it: a backend for each address. One that stays is the same object;
 * one whose address is gone leaves the pool, its flows live on.
 *
 * The loop's thread only (control/backends.h), or before it runs.
 */
#ifndef LB_CONTROL_ROSTER_H
#define LB_CONTROL_ROSTER_H

#include "backend/name.h"
#include "backend/ports.h"
#include "control/health.h"
#include "flow/env.h"

struct lb_drains;
struct lb_same_host;
struct lb_roster;

/* What rosters share. All borrowed. */
struct lb_roster_env {
	struct lb_loop *loop;
	struct lb_names *names;
	struct lb_health_service *health;     /* NULL: nothing is watched yet */
	struct lb_drains *drains;             /* NULL: .. */
	const struct lb_same_host *same_host; /* NULL: not in service */
	struct lb_graft_config graft;         /* the range of local ports */
	struct lb_ports_shelf *ports;
	uint32_t pending; /* names that have not been looked up once */
	/* The last of them has: NULL, or called in the loop. */
	void (*ready)(struct lb_roster_env *env);
	bool runs; /* the workers run: changes are worth a line in the log */
};

/* For the names of all rosters: the owner of a name is one of theirs. */
extern const struct lb_names_opts lb_roster_names;

/*
 * The entries of <config>, which is or is to be <rule>'s. <old>: the roster of the rule that is in
 * force, NULL when it has none: what both have stays as it is and is not looked up again. Nothing
 * is in force yet. 0 or -ENOMEM.
 */
int lb_roster_new(struct lb_roster **ret, struct lb_roster_env *env, const struct lb_rule *rule,
		  const struct lb_rule_config *config, struct lb_roster *old);
/*
 * One that is not in force takes with it what it has made, names and entries; the pool stays as it
 * is. NULL is fine.
 */
void lb_roster_free(struct lb_roster **pr);
/*
 * The first entry that must have an address and has none; NULL: there is none. *cause says why, in
 * a few words. Once env->pending is 0.
 */
const char *lb_roster_missing(const struct lb_roster *r, const char **cause);

/*
 * Takes the place of <old>, which is freed (NULL: there was none). rule->config is the new one
 * already; <checks_changed>: it checks otherwise than the old one. 0, or -ENOMEM: then what is
 * missing is tried again.
 */
int lb_roster_commit(struct lb_roster *r, struct lb_roster **old, bool checks_changed);
/* Brings the pool up to date. 0 or -ENOMEM: then it is tried again. */
int lb_roster_apply(struct lb_roster *r);
/* The rule is served no more: none of its backends is watched any more. They stay in the pool. */
void lb_roster_retire(struct lb_roster *r);
/* .. and has no flow any more: all leave it. Without memory they are still there. */
void lb_roster_empty(struct lb_roster_env *env, const struct lb_rule *rule);
/* How many of its entries are names. */
uint32_t lb_roster_names_count(const struct lb_roster *r);

#endif
