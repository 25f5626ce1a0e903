/* SPDX-License-Identifier: MIT */
/* Decides what is written down about a flow. Must never change the flow, nor block. */
#include "flow/account.h"

#include "flow/session.h"

#define REFUSAL_BURST 100u
#define REFUSAL_NS    100000000ull /* ten a second */

const uint64_t lb_duration_bounds_ms[LB_DURATION_BUCKETS] = {
	5, 25, 100, 250, 1000, 5000, 30000, 120000, 600000, 3600000,
};

_Static_assert(sizeof(struct lb_counters) % sizeof(uint64_t) == 0, "counters only");
_Static_assert(sizeof(struct lb_ends) % sizeof(uint64_t) == 0, "counters only");

static void add(uint64_t *sums, const uint64_t *parts, size_t size)
{
	for (size_t i = 0; i < size / sizeof(*sums); i++)
		sums[i] += lb_count_read(&parts[i]);
}

void lb_account_add(struct lb_counters *to, const struct lb_counters *from)
{
	add((uint64_t *)to, (const uint64_t *)from, sizeof(*to));
}

void lb_account_add_ends(struct lb_ends *to, const struct lb_ends *from)
{
	add((uint64_t *)to, (const uint64_t *)from, sizeof(*to));
}

static void fold_waits(struct lb_session *s, struct lb_counters *c, unsigned int d)
{
	struct lb_budget *b = s->pair.dir[d].budget;

	if (!b)
		return;
	lb_count(&c->bandwidth_waits[d], b->waits);
	lb_count(&c->bandwidth_wait_ns[d], b->waited_ns);
	b->waits = b->waited_ns = 0;
}

/* False: the backend has sent nothing. <s> was carried. */
static bool first_byte_us(const struct lb_session *s, uint64_t *us)
{
	const struct lb_pair *p = &s->pair;
	uint64_t first = s->closed ? p->first_ns : p->carrier->first_ns(p);

	if (!first)
		return false;
	*us = first > s->connected_ns ? (first - s->connected_ns) / 1000 : 0;
	return true;
}

static void fold_first_byte(struct lb_session *s, struct lb_counters *c)
{
	uint64_t us;

	if (s->first_counted || !first_byte_us(s, &us))
		return;
	s->first_counted = true;
	lb_account_count_first_byte(c, us);
	lb_account_count_backend_first_byte(s->backend, us);
}

void lb_account_fold(struct lb_session *s)
{
	struct lb_counters *c = &s->env->counters[s->rule->index];
	const struct lb_carrier *carrier = s->pair.carrier;

	if (!s->carrying)
		return;
	fold_first_byte(s, c);
	for (unsigned int d = 0; d < 2; d++) {
		uint64_t now = s->closed ? s->pair.dir[d].bytes : carrier->bytes(&s->pair, d);

		lb_count(&c->bytes[d], now - s->folded[d]);
		lb_count(&c->carrier_bytes[lb_carrier_of(&s->pair)->id], now - s->folded[d]);
		if (s->backend && now != s->folded[d])
			__atomic_fetch_add(&s->backend->counts.bytes[d], now - s->folded[d],
					   __ATOMIC_RELAXED);
		s->folded[d] = now;
		fold_waits(s, c, d);
	}
}

static uint64_t duration_ms(const struct lb_session *s)
{
	return (lb_loop_now_ns(s->env->carrier.loop) - s->accept_ns) / 1000000;
}

/* Shared by all workers, unlike the counters of a rule. */
static void count_shared(uint64_t *bucket, uint64_t *sum_us, uint64_t us)
{
	__atomic_fetch_add(bucket, 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(sum_us, us, __ATOMIC_RELAXED);
}

void lb_account_count_connect(struct lb_counters *c, struct lb_backend *b, uint64_t us)
{
	unsigned int i = lb_bucket_of(lb_connect_bounds_us, LB_CONNECT_BUCKETS, us);

	lb_count(&c->connects[i], 1);
	lb_count(&c->connect_sum_us, us);
	count_shared(&b->counts.connects[i], &b->counts.connect_sum_us, us);
}

void lb_account_count_first_byte(struct lb_counters *c, uint64_t us)
{
	unsigned int i = lb_bucket_of(lb_first_byte_bounds_us, LB_FIRST_BYTE_BUCKETS, us);

	lb_count(&c->first_bytes[i], 1);
	lb_count(&c->first_byte_sum_us, us);
}

void lb_account_count_backend_first_byte(struct lb_backend *b, uint64_t us)
{
	unsigned int i = lb_bucket_of(lb_first_byte_bounds_us, LB_FIRST_BYTE_BUCKETS, us);

	count_shared(&b->counts.first_bytes[i], &b->counts.first_byte_sum_us, us);
}

void lb_account_count_end(struct lb_counters *c, enum lb_reason reason, uint64_t duration_ms)
{
	lb_count(&c->active, (uint64_t)-1);
	lb_count(&c->ends[reason], 1);
	lb_count(&c->durations[lb_bucket_of(lb_duration_bounds_ms, LB_DURATION_BUCKETS,
					    duration_ms)],
		 1);
	lb_count(&c->duration_sum_ms, duration_ms);
}

void lb_account_count_ends(struct lb_ends *e, unsigned int carrier, enum lb_reason reason)
{
	lb_count(&e->all, 1);
	if (reason == LB_REASON_DRAINED || reason == LB_REASON_KILLED)
		lb_count(&e->cut[carrier], 1);
}

static void fill(struct lb_flow_record *r, const struct lb_session *s, enum lb_reason reason)
{
	const struct lb_pair *p = &s->pair;

	*r = (struct lb_flow_record){
		.rule = s->route->config->name,
		.client = &s->client,
		.certified = s->certified,
		.backend = s->backend ? s->backend->config->addr : NULL,
		.carrier = s->carrying ? lb_carrier_of(p)->name : NULL,
		.why = p->why,
		.reason = reason,
		.error = p->error,
		.detail = p->detail,
		.bytes = {p->dir[0].bytes, p->dir[1].bytes},
		.duration_ms = duration_ms(s),
		.connected = s->connected_ns != 0,
		.connect_us = (s->connected_ns - s->try_ns) / 1000,
		.tries = s->tries,
	};
	r->answered = s->carrying && first_byte_us(s, &r->first_byte_us);
}

static bool is_refusal(enum lb_reason reason)
{
	return reason == LB_REASON_ACL_DENIED || reason == LB_REASON_RATE_LIMITED ||
	       reason == LB_REASON_CLIENT_LIMIT || reason == LB_REASON_PROXY_UNTRUSTED;
}

/* A worker writes so many lines of refusals, and so many more each second. The next one that is
 * written tells how many were not. */
static bool may_log_refusal(struct lb_flow_env *env, struct lb_counters *c,
			    struct lb_flow_record *record)
{
	struct lb_refusal_lines *l = &env->refusal_lines;
	uint64_t now = lb_loop_now_ns(env->carrier.loop);

	if (l->full_ns < now)
		l->full_ns = now;
	if (l->full_ns - now > (REFUSAL_BURST - 1) * REFUSAL_NS) {
		l->unlogged++;
		lb_count(&c->unlogged, 1);
		return false;
	}
	l->full_ns += REFUSAL_NS;
	record->unlogged = l->unlogged;
	l->unlogged = 0;
	return true;
}

void lb_account_end(struct lb_session *s, enum lb_reason reason)
{
	struct lb_counters *c = &s->env->counters[s->rule->index];
	struct lb_flow_record record;
	char line[LB_FLOW_LINE_MAX];

	lb_account_fold(s);
	lb_account_count_end(c, reason, duration_ms(s));
	lb_account_count_ends(&s->env->ends,
			      s->carrying ? lb_carrier_of(&s->pair)->id : LB_CARRIER_MAX_, reason);
	if (s->carrying) {
		lb_count(&c->flows[lb_carrier_of(&s->pair)->id], 1);
		lb_count(&c->whys[s->pair.why], 1);
	}
	if (!s->env->log_line)
		return;
	fill(&record, s, reason);
	if (is_refusal(reason) && !may_log_refusal(s->env, c, &record))
		return;
	s->env->log_line(s->env, line,
			 lb_flow_line(&record, s->env->log_format, line, sizeof(line)));
}
