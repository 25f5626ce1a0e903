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
	const struct lb_graft_config *graft;  /* the range of local ports */
	struct lb_ports_shelf *ports;
	uint32_t pending; /* names that have not been looked up once */
	bool runs;        /* the workers run: changes are worth a line in the log */
};

/* For the names of all rosters: the owner of a name is one of theirs. */
extern const struct lb_names_opts lb_roster_names;

/* The entries of <rule>, whose pool is empty and has a selection. 0 or -ENOMEM. */
int lb_roster_new(struct lb_roster **ret, struct lb_roster_env *env, const struct lb_rule *rule);
/* The pool stays as it is. NULL is fine. */
void lb_roster_free(struct lb_roster **pr);

/* Brings the pool up to date. 0 or -ENOMEM: then it is tried again. */
int lb_roster_apply(struct lb_roster *r);
/*
 * The first entry that must have an address and has none; NULL: there is none. *cause says why, in
 * a few words.
 */
const char *lb_roster_missing(const struct lb_roster *r, const char **cause);
/* How many of its entries are names. */
uint32_t lb_roster_names_count(const struct lb_roster *r);

#endif
