/* SPDX-License-Identifier: MIT */
/*
 * See graft_keeper.h. The program tells of an end through the ring; a sweep that visits every pair
 * once in SWEEP_MS finds idle and old ones, and whatever an overflowing ring has hidden.
 *
 * An ended graft lingers: late segments and a lost last ACK are still forwarded, as TIME_WAIT would
 * answer them, and a reset that proves wrong (the flow goes on) is taken back. Then its keys go,
 * and what comes with these addresses afterwards is our stack's.
 *
 * Must never touch a pair that a session still owns: those are not <counted>.
 */
#include "flow/graft_keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <lb/graft.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hash.h"
#include "flow/acl.h"
#include "flow/client_connection_limit.h"
#include "flow/graft_keeper_parts.h"

#define SWEEP_MS    1000u
#define SWEEP_PARTS 8u
#define HURRY_MS    20u
#define LINGER_NS   1000000000ull

uint32_t lb_graft_keeper_hash(const char *name)
{
	return lb_hash_name(name);
}

/* --- counting --------------------------------------------------------------------------------- */

void lb_graft_keeper_fold(struct lb_graft_keeper *k)
{
	for (uint32_t i = 0; i < lb_graft_table_pairs(k->grafts->table); i++)
		if (is_kept(k, i))
			fold(k, i);
}

/* Whose timeouts count: a rule that is gone leaves its flows to the first one. */
static const struct lb_rule *steward_of(struct lb_graft_keeper *k, uint32_t pair)
{
	const struct lb_rule *rule = owner_of(k, pair)->rule;

	if (rule)
		return rule;
	/* There is always one in service. */
	for (rule = k->opts.rules; !rule->config;)
		rule++;
	return rule;
}

void lb_graft_keeper_disown(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft_owner *owner = owner_of(k, pair);
	const struct lb_rule *rule = owner->rule;
	struct lb_addr client;

	/* Who has a backend has a rule. */
	if (rule && owner->backend)
		lb_select_release(rule->select, LB_TAKE_PTR(owner->backend));
	lb_graft_client(entry_of(k, pair), &client);
	if (rule && lb_rule_whole(rule)->client_connection_limit)
		lb_client_connection_limit_release(lb_rule_whole(rule)->client_connection_limit,
						   &client);
	if (rule)
		lb_rule_count_route(rule, k->opts.env->counters, -1);
	owner->rule = NULL;
	__atomic_fetch_sub(&k->opts.env->limits->grafts, 1, __ATOMIC_RELAXED);
}

/* The flow is over; its addresses, and so its port, may linger. */
static void write_down(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft *g = entry_of(k, pair);

	fold(k, pair);
	lb_graft_account_end(k->opts.env, owner_of(k, pair), g, now_ns(k));
	lb_graft_keeper_disown(k, pair);
	g->counted = LB_GRAFT_LINGERS;
}

/* --- the end ---------------------------------------------------------------------------------- */

/* The pair is free afterwards. */
static void remove_pair(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft_owner *owner = owner_of(k, pair);
	/* Ours: who gets the pair next is its owner from that moment. */
	struct lb_ports *ports;

	if (entry_of(k, pair)->counted == LB_GRAFT_KEPT)
		write_down(k, pair);
	ports = LB_TAKE_PTR(owner->ports);
	lb_grafts_release(k->grafts, pair, ports);
	lb_ports_close(&ports);
}

static void end(struct lb_graft_keeper *k, uint32_t pair, enum lb_reason reason)
{
	struct lb_graft *g = entry_of(k, pair);

	g->end_reason = (uint8_t)(reason + 1);
	lb_graft_unhook(k->grafts, pair);
	lb_graft_reset_peers(g);
	/* A reset pair that lingers stands in the queue of the ended: on_due() removes it. */
	if (!g->due_ns)
		remove_pair(k, pair);
}

static void arm_due(struct lb_graft_keeper *k)
{
	uint64_t due, now = now_ns(k);

	if (!k->ended_count)
		return;
	due = entry_of(k, k->ended[k->ended_at])->due_ns;
	lb_timer_start(k->opts.env->carrier.loop, &k->due,
		       due > now ? (due - now) / 1000000 + 1 : 0);
}

void lb_graft_keeper_queue(struct lb_graft_keeper *k, uint32_t pair)
{
	k->ended[(k->ended_at + k->ended_count++) % k->ended_size] = pair;
	if (k->ended_count == 1)
		arm_due(k);
}

static void linger(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft *g = entry_of(k, pair);

	g->due_ns = now_ns(k) + LINGER_NS;
	/* Both FINs are acknowledged: there is nothing left to learn. A reset may prove wrong. */
	if (lb_graft_has_closed(g))
		write_down(k, pair);
	lb_graft_keeper_queue(k, pair);
}

/* It has ended, and nobody will wait for the end of its linger. */
static void write_down_early(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft *g = entry_of(k, pair);

	if (!g->due_ns)
		linger(k, pair);
	if (g->counted == LB_GRAFT_KEPT)
		write_down(k, pair);
}

static void look_at(struct lb_graft_keeper *k, uint32_t pair)
{
	const struct lb_graft *g;

	if (pair >= lb_graft_table_pairs(k->grafts->table) || !is_kept(k, pair))
		return;
	g = entry_of(k, pair);
	if (!g->due_ns && lb_graft_has_ended(g))
		linger(k, pair);
}

/* Who has reset says nothing but resets (RFC 9293, 3.5.2); the other side may challenge it. */
static bool was_wrong(const struct lb_graft_leg *leg, uint64_t now)
{
	return leg->flags & LB_GRAFT_RST &&
	       __atomic_load_n(&leg->last_ns, __ATOMIC_RELAXED) > now - LINGER_NS / 2;
}

static void on_due(struct lb_timer *t)
{
	struct lb_graft_keeper *k = lb_container_of(t, struct lb_graft_keeper, due);
	uint64_t now = now_ns(k);

	while (k->ended_count) {
		uint32_t pair = k->ended[k->ended_at];
		struct lb_graft *g = entry_of(k, pair);
		bool gone = (g->leg[0].flags | g->leg[1].flags) & LB_GRAFT_GONE;

		if (g->due_ns > now)
			break;
		k->ended_at = (k->ended_at + 1) % k->ended_size;
		k->ended_count--;
		g->due_ns = 0;
		if (g->counted == LB_GRAFT_KEPT && !gone && !g->end_reason &&
		    (was_wrong(&g->leg[0], now) || was_wrong(&g->leg[1], now))) {
			for (unsigned int i = 0; i < 2; i++)
				__atomic_fetch_and(&g->leg[i].flags, ~(uint32_t)LB_GRAFT_RST,
						   __ATOMIC_RELAXED);
			continue;
		}
		remove_pair(k, pair);
	}
	arm_due(k);
}

static void on_event(void *arg, const struct lb_graft_event *e)
{
	struct lb_graft_keeper *k = arg;

	if (e->pair < lb_graft_table_pairs(k->grafts->table))
		look_at(k, e->pair);
}

static void on_ring(struct lb_watch *w, uint32_t events)
{
	struct lb_graft_keeper *k = lb_container_of(w, struct lb_graft_keeper, ring);

	/* What a full ring has lost the sweep finds. */
	(void)lb_graft_table_consume(k->grafts->table, on_event, k);
}

static void on_netlink(struct lb_watch *w, uint32_t events)
{
	struct lb_graft_keeper *k = lb_container_of(w, struct lb_graft_keeper, netlink);
	uint64_t grafts = __atomic_load_n(&k->opts.env->limits->grafts, __ATOMIC_RELAXED);

	if (!lb_graft_table_follow(k->grafts->table))
		return;
	k->stale = SWEEP_PARTS;
	/* At once, unless routes change all the time: asking takes about ten microseconds a graft,
	 * so that is a tenth of the time at most. */
	if (now_ns(k) - k->hurried_ns < (HURRY_MS + grafts / 10) * 1000000)
		return;
	k->hurried_ns = now_ns(k);
	k->hurry = SWEEP_PARTS;
	lb_timer_start(k->opts.env->carrier.loop, &k->sweep, 0);
}

/* --- the sweep -------------------------------------------------------------------------------- */

/*
 * A flow follows its routes from one interface to another; where there is none it stays as it is,
 * and so does whether an end is on this host.
 */
static void renew_ways(struct lb_graft_keeper *k, struct lb_graft *g)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct lb_graft_leg *leg = &g->leg[i];
		struct lb_graft_tuple tuple;
		struct lb_graft_route route;

		if (!leg->ifindex)
			continue;
		lb_graft_tuple(g, i ^ 1, &tuple);
		if (!lb_graft_table_route(k->grafts->table, &tuple, &route) && route.ifindex)
			__atomic_store_n(&leg->ifindex, route.ifindex, __ATOMIC_RELAXED);
	}
}

static void visit(struct lb_graft_keeper *k, uint32_t pair)
{
	struct lb_graft *g = entry_of(k, pair);
	const struct lb_timeouts_config *t;

	if (k->foreign && k->foreign[pair])
		lb_graft_keeper_look_at_foreign(k, pair, false);
	if (!is_kept(k, pair) || g->due_ns)
		return;
	if (lb_graft_has_ended(g)) {
		linger(k, pair);
		return;
	}
	if (k->stale)
		renew_ways(k, g);
	t = &steward_of(k, pair)->config->timeouts;
	if (t->max_lifetime_ms && now_ns(k) >= g->accept_ns + t->max_lifetime_ms * 1000000)
		end(k, pair, LB_REASON_MAX_LIFETIME);
	else if (t->idle_ms && now_ns(k) >= lb_graft_last_data_ns(g) + t->idle_ms * 1000000)
		end(k, pair, LB_REASON_IDLE);
}

static void on_sweep(struct lb_timer *t)
{
	struct lb_graft_keeper *k = lb_container_of(t, struct lb_graft_keeper, sweep);
	uint64_t pairs = lb_graft_table_pairs(k->grafts->table);
	uint32_t from = (uint32_t)(pairs * k->part / SWEEP_PARTS);
	uint32_t to = (uint32_t)(pairs * (k->part + 1) / SWEEP_PARTS);

	if (k->foreign_count || __atomic_load_n(&k->opts.env->limits->grafts, __ATOMIC_RELAXED))
		for (uint32_t i = from; i < to; i++)
			visit(k, i);
	k->part = (k->part + 1) % SWEEP_PARTS;
	k->stale -= !!k->stale;
	k->hurry -= !!k->hurry;
	lb_timer_start(k->opts.env->carrier.loop, t, k->hurry ? 1 : SWEEP_MS / SWEEP_PARTS);
}

static bool is_one_of(struct lb_graft_keeper *k, uint32_t pair, struct lb_flows which)
{
	const struct lb_backend *backend = owner_of(k, pair)->backend;
	struct lb_addr client;

	if (which.denied_by) {
		lb_graft_client(entry_of(k, pair), &client);
		if (lb_acl_allows(which.denied_by, &client))
			return false;
	}
	return (!which.rule || lb_rule_is(steward_of(k, pair), which.rule)) &&
	       (!which.backend || (backend && backend->id == which.backend));
}

size_t lb_graft_keeper_judge(struct lb_graft_keeper *k, struct lb_flows which,
			     enum lb_reason reason, bool cut)
{
	size_t n = 0;

	for (uint32_t i = 0; i < lb_graft_table_pairs(k->grafts->table); i++) {
		struct lb_graft *g = entry_of(k, i);

		if (!is_kept(k, i) || g->end_reason || !is_one_of(k, i, which))
			continue;
		n++;
		if (cut && lb_graft_has_ended(g))
			write_down_early(k, i);
		else if (cut)
			end(k, i, reason);
	}
	return n;
}

/* --- one by one ------------------------------------------------------------------------------- */

uint32_t lb_graft_keeper_pairs(const struct lb_graft_keeper *k)
{
	return lb_graft_table_pairs(k->grafts->table);
}

uint32_t lb_graft_keeper_next(const struct lb_graft_keeper *k, uint32_t from, uint32_t to)
{
	for (; from < to; from++) {
		const struct lb_graft *g = lb_graft_table_pair(k->grafts->table, from);

		if (is_kept(k, from) && !g->due_ns && !g->end_reason && !lb_graft_has_ended(g))
			break;
	}
	return from;
}

void lb_graft_keeper_fold_one(struct lb_graft_keeper *k, uint32_t pair)
{
	fold(k, pair);
}

void lb_graft_keeper_end(struct lb_graft_keeper *k, uint32_t pair, enum lb_reason reason)
{
	end(k, pair, reason);
}

void lb_graft_keeper_unwatch(struct lb_graft_keeper *k)
{
	struct lb_loop *loop = k->opts.env->carrier.loop;

	lb_timer_stop(loop, &k->sweep);
	lb_timer_stop(loop, &k->due);
	if (k->ring.fd >= 0)
		lb_watch_remove(loop, &k->ring, false);
	if (k->netlink.fd >= 0)
		lb_watch_remove(loop, &k->netlink, false);
}

int lb_graft_keeper_watch(struct lb_graft_keeper *k)
{
	struct lb_loop *loop = k->opts.env->carrier.loop;
	int err = lb_watch_add(loop, &k->ring, lb_graft_table_ring_fd(k->grafts->table), EPOLLIN,
			       on_ring);

	if (!err)
		err = lb_watch_add(loop, &k->netlink, lb_graft_table_netlink_fd(k->grafts->table),
				   EPOLLIN, on_netlink);
	if (!err)
		lb_timer_start(loop, &k->sweep, SWEEP_MS / SWEEP_PARTS);
	return err;
}

/* --- birth and death -------------------------------------------------------------------------- */

int lb_graft_keeper_new(struct lb_graft_keeper **ret, const struct lb_graft_keeper_opts *opts)
{
	LB_AUTO(lb_graft_keeper_free) struct lb_graft_keeper *k = calloc(1, sizeof(*k));
	int err;

	if (!k)
		return -ENOMEM;
	k->opts = *opts;
	k->grafts = opts->env->carrier.grafts;
	k->ring.fd = k->netlink.fd = -1;
	lb_timer_init(&k->sweep, on_sweep);
	lb_timer_init(&k->due, on_due);
	k->ended_size = lb_graft_table_pairs(k->grafts->table);
	k->ended = calloc(k->ended_size, sizeof(*k->ended));
	if (opts->shared)
		k->foreign = calloc(k->ended_size, sizeof(*k->foreign));
	if (!k->ended || (opts->shared && !k->foreign))
		return -ENOMEM;
	err = lb_graft_keeper_watch(k);
	if (err)
		return err;
	lb_graft_keeper_take_stock(k);
	*ret = LB_TAKE_PTR(k);
	return 0;
}

void lb_graft_keeper_free(struct lb_graft_keeper **keeper)
{
	struct lb_graft_keeper *k = *keeper;

	if (!k)
		return;
	*keeper = NULL;
	lb_graft_keeper_unwatch(k);
	free(k->foreign);
	free(k->ended);
	free(k);
}

uint32_t lb_graft_keeper_adopted(const struct lb_graft_keeper *k)
{
	return k->adopted;
}
