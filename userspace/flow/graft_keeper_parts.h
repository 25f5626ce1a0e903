/* SPDX-License-Identifier: MIT */
/* What the keeper is made of: for graft_keeper.c and graft_heir.c. */
#ifndef LB_FLOW_GRAFT_KEEPER_PARTS_H
#define LB_FLOW_GRAFT_KEEPER_PARTS_H

#include <lb/graft.h>

#include "flow/graft_account.h"
#include "flow/graft_keeper.h"
#include "flow/grafts.h"

struct lb_graft_keeper {
	struct lb_graft_keeper_opts opts;
	struct lb_grafts *grafts;
	struct lb_watch ring, netlink;
	struct lb_timer sweep, due;
	uint32_t part;  /* of the table: the next to sweep */
	uint32_t stale; /* so many parts on, routes may lead elsewhere than the program sends */
	uint32_t hurry; /* .. and so many are swept without a rest */
	uint64_t hurried_ns;
	uint32_t adopted;
	bool lent; /* another daemon keeps them */
	/* By pair: what of the table the daemon before us still has; NULL: there is none. */
	uint8_t *foreign;
	uint32_t foreign_count;
	/* Ended pairs in the order of their time: every linger is equally long. */
	uint32_t *ended;
	uint32_t ended_at, ended_count, ended_size;
};

static inline struct lb_graft *entry_of(struct lb_graft_keeper *k, uint32_t pair)
{
	return lb_graft_table_pair(k->grafts->table, pair);
}

/* One of its flows, whoever keeps it. */
static inline bool is_keepers(const struct lb_graft *g)
{
	return __atomic_load_n(&g->counted, __ATOMIC_ACQUIRE) == LB_GRAFT_KEPT &&
	       __atomic_load_n(&g->stage, __ATOMIC_ACQUIRE) == LB_GRAFT_FULL;
}

static inline bool is_kept(const struct lb_graft_keeper *k, uint32_t pair)
{
	return !k->lent && !(k->foreign && k->foreign[pair]) &&
	       is_keepers(lb_graft_table_pair(k->grafts->table, pair));
}

static inline uint64_t now_ns(const struct lb_graft_keeper *k)
{
	return lb_loop_now_ns(k->opts.env->carrier.loop);
}

static inline struct lb_graft_owner *owner_of(struct lb_graft_keeper *k, uint32_t pair)
{
	return lb_grafts_owner(k->grafts, pair);
}

static inline struct lb_counters *counters_of(struct lb_graft_keeper *k, uint32_t pair)
{
	return lb_graft_account_counters(k->opts.env, owner_of(k, pair));
}

static inline void fold(struct lb_graft_keeper *k, uint32_t pair)
{
	lb_graft_account_fold(k->opts.env, owner_of(k, pair), entry_of(k, pair));
}

/* --- graft_keeper.c --------------------------------------------------------------------------- */

/* It counts no more, neither for its backend nor for its client. */
void lb_graft_keeper_disown(struct lb_graft_keeper *k, uint32_t pair);
/* It has ended, and is removed when its time (due_ns) has come. */
void lb_graft_keeper_queue(struct lb_graft_keeper *k, uint32_t pair);
/* Hears of ends and of routes, and sweeps. 0 or -errno; to be taken back in any case. */
int lb_graft_keeper_watch(struct lb_graft_keeper *k);
void lb_graft_keeper_unwatch(struct lb_graft_keeper *k);

/* --- graft_heir.c ----------------------------------------------------------------------------- */

/* Takes over what the table holds, and counts what is free. */
void lb_graft_keeper_take_stock(struct lb_graft_keeper *k);
/* Whether the daemon before us has let go of <pair>. <gone>: it has of all. */
void lb_graft_keeper_look_at_foreign(struct lb_graft_keeper *k, uint32_t pair, bool gone);

#endif
