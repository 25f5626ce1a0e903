/* SPDX-License-Identifier: MIT */
/*
 * What goes from one daemon to the next: grafts of one that has died, of one that hands over while
 * it lives, and the way back. While the other one lives what it has not let go of is its own: a
 * flow in PASS or SPLIT has its sockets there. When it has, the pair is kept, or free.
 *
 * Must never take what somebody who lives still writes to.
 */
#include <stdlib.h>
#include <string.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "flow/client_connection_limit.h"
#include "flow/graft_keeper_parts.h"

enum foreign {
	OURS,
	THEIRS,
	FREED, /* it was free when it was looked at last: next time nobody writes to it any more */
};

/* --- adoption --------------------------------------------------------------------------------- */

static const struct lb_rule *find_rule(struct lb_graft_keeper *k, uint32_t hash)
{
	for (size_t i = 0; i < k->opts.rules_count && k->opts.rules[i].config; i++)
		if (lb_graft_keeper_hash(k->opts.rules[i].config->name) == hash)
			return &k->opts.rules[i];
	return NULL;
}

/* Its port is taken, also when no backend has that address: one may come. */
static void take_port(struct lb_graft_keeper *k, uint32_t pair, const struct lb_addr *peer)
{
	const struct lb_graft_config *config = &k->grafts->config;
	struct lb_graft_owner *owner = owner_of(k, pair);

	if (lb_ports_open(k->opts.ports, peer, config->port_min, config->port_max, &owner->ports))
		return;
	lb_ports_take(owner->ports, lb_graft_port(entry_of(k, pair)));
}

static void adopt(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft_owner *owner = owner_of(k, pair);
	struct lb_graft *g = entry_of(k, pair);
	const struct lb_rule *rule = find_rule(k, g->rule_hash);
	struct lb_addr client, peer;

	lb_graft_peer(g, LB_LEG_BACKEND, &peer);
	owner->rule = rule;
	if (rule) {
		struct lb_backend *found = lb_pool_find(rule->pool, &peer);

		lb_count(&counters_of(k, pair)->active, 1);
		lb_rule_count_route(rule, k->opts.env->counters, 1);
		if (found)
			lb_select_adopt(rule->select, found);
		owner->backend = found;
		lb_pool_put(&found);
	}
	lb_graft_client(g, &client);
	if (rule && lb_rule_whole(rule)->client_connection_limit)
		(void)lb_client_connection_limit_adopt(lb_rule_whole(rule)->client_connection_limit,
						       &client);
	__atomic_fetch_add(&k->opts.env->limits->grafts, 1, __ATOMIC_RELAXED);
	take_port(k, pair, &peer);
	g->due_ns = 0;
	g->end_reason = 0;
	k->adopted++;
	/* One that has ended is the first sweep's: a start that fails must not write it down. */
}

/*
 * Whoever had it is dead, and so are its sockets: a flow in PASS was theirs and died with them; one
 * in SPLIT has lost what they still held, unless nothing was, which nobody can tell any more.
 */
static void bury(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft *g = entry_of(k, pair);

	lb_graft_unhook(k->grafts, pair);
	if (g->stage != LB_GRAFT_PASS && g->counted != LB_GRAFT_LINGERS)
		lb_graft_reset_peers(g);
	memset(g, 0, sizeof(*g));
}

/* It has ended and is written down, and waits for the end of its linger. */
static void adopt_lingering(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_addr peer;

	lb_graft_peer(entry_of(k, pair), LB_LEG_BACKEND, &peer);
	take_port(k, pair, &peer);
	lb_graft_keeper_queue(k, pair);
}

static void take_stock_of(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft *g = entry_of(k, pair);

	if (is_keepers(g)) {
		adopt(k, pair);
	} else if (g->counted == LB_GRAFT_LINGERS && g->due_ns) {
		adopt_lingering(k, pair);
	} else if (g->stage != LB_GRAFT_FREE && k->foreign) {
		k->foreign[pair] = THEIRS;
		k->foreign_count++;
	} else if (g->stage != LB_GRAFT_FREE) {
		bury(k, pair);
	}
}

void lb_graft_keeper_take_stock(struct lb_graft_keeper *k)
{
	for (uint32_t i = 0; i < lb_graft_table_pairs(k->grafts->table); i++)
		take_stock_of(k, i);
	lb_grafts_count_free(k->grafts);
}

/* --- while both live -------------------------------------------------------------------------- */

void lb_graft_keeper_look_at_foreign(struct lb_graft_keeper *k, uint32_t pair, bool gone)
{
	struct lb_graft *g = entry_of(k, pair);

	if (!is_keepers(g) && g->stage != LB_GRAFT_FREE && !gone) {
		k->foreign[pair] = THEIRS;
		return;
	}
	if (g->stage == LB_GRAFT_FREE && k->foreign[pair] != FREED && !gone) {
		k->foreign[pair] = FREED;
		return;
	}
	k->foreign[pair] = OURS;
	k->foreign_count--;
	if (is_keepers(g)) {
		adopt(k, pair);
		return;
	}
	if (g->stage != LB_GRAFT_FREE)
		bury(k, pair);
	lb_grafts_add_free(k->grafts, pair);
}

void lb_graft_keeper_lend(struct lb_graft_keeper *k)
{
	lb_graft_keeper_unwatch(k);
	for (uint32_t i = 0; i < lb_graft_table_pairs(k->grafts->table); i++) {
		struct lb_graft_owner *owner = owner_of(k, i);
		struct lb_counters *c = counters_of(k, i);

		/* One that a session has just left to the other daemon never counted here. */
		if (is_kept(k, i) && (owner->rule || owner->ports)) {
			fold(k, i);
			if (c)
				lb_count(&c->active, (uint64_t)-1);
			lb_graft_keeper_disown(k, i);
		}
		lb_ports_close(&owner->ports);
	}
	k->ended_count = 0;
	k->lent = true;
}

void lb_graft_keeper_take(struct lb_graft_keeper *k)
{
	k->lent = false;
	for (uint32_t i = 0; i < lb_graft_table_pairs(k->grafts->table); i++) {
		struct lb_graft *g = entry_of(k, i);

		/* One that has just been left to us has its owner. */
		if (is_keepers(g) && !owner_of(k, i)->rule)
			adopt(k, i);
		else if (g->counted == LB_GRAFT_LINGERS && g->due_ns)
			adopt_lingering(k, i);
	}
	/* Without memory for it nobody sees them end: the next start does. */
	(void)lb_graft_keeper_watch(k);
}

void lb_graft_keeper_inherit(struct lb_graft_keeper *k)
{
	/* They are lent: whoever has them inherits them from us. */
	for (uint32_t i = 0; k->foreign && !k->lent && i < lb_graft_table_pairs(k->grafts->table);
	     i++)
		if (k->foreign[i])
			lb_graft_keeper_look_at_foreign(k, i, true);
}
