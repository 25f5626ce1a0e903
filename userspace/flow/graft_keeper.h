/* SPDX-License-Identifier: MIT */
/*
 * Keeps the flows that are grafted for good: they have no session and no socket, only their entry
 * in the table, which outlives the daemon. The keeper counts their bytes, sees their end, logs it,
 * and ends those that are idle, too old, or cut.
 *
 * One keeper, in one worker's thread; every function is for that thread only.
 */
#ifndef LB_FLOW_GRAFT_KEEPER_H
#define LB_FLOW_GRAFT_KEEPER_H

#include <stddef.h>
#include <stdint.h>

#include "flow/env.h"

struct lb_graft_keeper;

struct lb_graft_keeper_opts {
	struct lb_flow_env *env; /* of the worker it lives in; env->carrier.grafts is set */
	const struct lb_rule *rules;
	size_t rules_count; /* as many as there may ever be; none in service has no config */
	struct lb_ports_shelf *ports; /* local ports of adopted flows are taken */
	/* The daemon before us lives: what is neither kept nor free is its own until it says so. */
	bool shared;
};

/*
 * Takes over what the table holds: grafts of an earlier daemon go on, what had not got that far is
 * ended. Before any worker runs. 0 or -errno.
 */
int lb_graft_keeper_new(struct lb_graft_keeper **ret, const struct lb_graft_keeper_opts *opts);
/* Leaves the table as it is. NULL is fine. */
void lb_graft_keeper_free(struct lb_graft_keeper **keeper);

/* Brings the byte counters up to date with every living graft. */
void lb_graft_keeper_fold(struct lb_graft_keeper *k);
/*
 * Counts <which> of the grafts; with <cut> it ends them with <reason> and RST to both peers. The
 * first rule's include those whose own is gone. What had ended before is written down as it ended.
 */
size_t lb_graft_keeper_judge(struct lb_graft_keeper *k, struct lb_flows which,
			     enum lb_reason reason, bool cut);
static inline void lb_graft_keeper_cut(struct lb_graft_keeper *k, struct lb_flows which,
				       enum lb_reason reason)
{
	(void)lb_graft_keeper_judge(k, which, reason, true);
}
/* --- one by one, see flow/survey.h --- */

/* As many places the table has. */
uint32_t lb_graft_keeper_pairs(const struct lb_graft_keeper *k);
/* The first living graft from <from> on, <to> when there is none before it. */
uint32_t lb_graft_keeper_next(const struct lb_graft_keeper *k, uint32_t from, uint32_t to);

/* The byte counters are up to date with it. */
void lb_graft_keeper_fold_one(struct lb_graft_keeper *k, uint32_t pair);
/* Ends it with <reason> and RST to both peers. */
void lb_graft_keeper_end(struct lb_graft_keeper *k, uint32_t pair, enum lb_reason reason);

/* --- from one daemon to the next --- */

/*
 * Another daemon keeps the grafts from now on: here they count no more, and nothing is done about
 * them. lb_grafts_lend() first, and every worker has ended the turn in which it could not know.
 */
void lb_graft_keeper_lend(struct lb_graft_keeper *k);
/* That one has come to nothing: as after a start. lb_grafts_lend() first, as above. */
void lb_graft_keeper_take(struct lb_graft_keeper *k);
/* The daemon before us, of a <shared> keeper, is gone, and so is what it still had. */
void lb_graft_keeper_inherit(struct lb_graft_keeper *k);

/* Flows taken over from an earlier daemon at the start. */
uint32_t lb_graft_keeper_adopted(const struct lb_graft_keeper *k);

/* What the table remembers of a rule's name. */
uint32_t lb_graft_keeper_hash(const char *name);

#endif
