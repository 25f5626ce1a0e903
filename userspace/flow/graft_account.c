/* SPDX-License-Identifier: MIT */
/* See graft_account.h. Must never count a byte twice: <folded> says what has been. */
#include "flow/graft_account.h"

#include <lb/graft.h>

#include "flow/account.h"

static uint64_t load64(const __u64 *v)
{
	return __atomic_load_n(v, __ATOMIC_RELAXED);
}

struct lb_counters *lb_graft_account_counters(struct lb_flow_env *env,
					      const struct lb_graft_owner *owner)
{
	return owner->rule ? &env->counters[lb_rule_whole(owner->rule)->index] : NULL;
}

void lb_graft_account_fold(struct lb_flow_env *env, const struct lb_graft_owner *owner,
			   struct lb_graft *g)
{
	struct lb_counters *c = lb_graft_account_counters(env, owner);
	struct lb_backend *backend = owner->backend;
	uint64_t us;

	if (!g->first_told && lb_graft_first_byte(g, &us)) {
		g->first_told = true;
		if (c)
			lb_account_count_first_byte(c, us);
		if (backend)
			lb_account_count_backend_first_byte(backend, us);
	}
	for (unsigned int d = 0; d < 2; d++) {
		uint64_t now = load64(&g->leg[d].bytes), moved = now - g->folded[d];

		g->folded[d] = now;
		if (backend && moved)
			__atomic_fetch_add(&backend->counts.bytes[d], moved, __ATOMIC_RELAXED);
		if (!c)
			continue;
		lb_count(&c->bytes[d], moved);
		lb_count(&c->carrier_bytes[LB_CARRIER_GRAFT], moved);
	}
}

bool lb_graft_has_closed(const struct lb_graft *g)
{
	return g->leg[0].flags & g->leg[1].flags & LB_GRAFT_FIN_ACKED;
}

/* Who ended it. A reset that comes after both have closed is nobody's business any more. */
static enum lb_reason reason_of(const struct lb_graft *g)
{
	if (g->end_reason)
		return (enum lb_reason)(g->end_reason - 1);
	if (lb_graft_has_closed(g))
		return LB_REASON_DONE;
	if (g->leg[LB_LEG_CLIENT].flags & LB_GRAFT_RST)
		return LB_REASON_RESET_BY_CLIENT;
	if (g->leg[LB_LEG_BACKEND].flags & LB_GRAFT_RST)
		return LB_REASON_RESET_BY_BACKEND;
	return LB_REASON_DONE;
}

static uint64_t last_ns(const struct lb_graft *g)
{
	uint64_t a = load64(&g->leg[0].last_ns), b = load64(&g->leg[1].last_ns);

	return a > b ? a : b;
}

void lb_graft_account_end(struct lb_flow_env *env, const struct lb_graft_owner *owner,
			  const struct lb_graft *g, uint64_t now_ns)
{
	struct lb_counters *c = lb_graft_account_counters(env, owner);
	char line[LB_FLOW_LINE_MAX], addr[LB_ADDR_STR_MAX];
	struct lb_addr client, peer;
	struct lb_flow_record r = {
		.rule = owner->rule ? owner->rule->config->name : "-",
		.client = &client,
		.carrier = lb_graft.name,
		.why = LB_WHY_NONE,
		.reason = reason_of(g),
		.bytes = {load64(&g->leg[0].bytes), load64(&g->leg[1].bytes)},
		.duration_ms = (now_ns - g->accept_ns) / 1000000,
		.connect_us = g->connect_us,
		.connected = true,
		.tries = g->tries,
	};

	r.answered = lb_graft_first_byte(g, &r.first_byte_us);
	/* It ended when its last packet came, not when we gave up waiting for another one. That
	 * clock ticks in jiffies: it may be a little before the beginning. */
	if (!g->end_reason)
		r.duration_ms =
			last_ns(g) > g->accept_ns ? (last_ns(g) - g->accept_ns) / 1000000 : 0;
	if (c) {
		lb_account_count_end(c, r.reason, r.duration_ms);
		lb_count(&c->flows[LB_CARRIER_GRAFT], 1);
		lb_count(&c->whys[LB_WHY_NONE], 1);
	}
	lb_account_count_ends(&env->ends, LB_CARRIER_GRAFT, r.reason);
	if (!env->log_line)
		return;
	lb_graft_client(g, &client);
	lb_graft_peer(g, LB_LEG_BACKEND, &peer);
	r.backend = owner->backend ? owner->backend->config->addr : lb_addr_format(&peer, addr);
	env->log_line(env, line, lb_flow_line(&r, env->log_format, line, sizeof(line)));
}
