/* SPDX-License-Identifier: MIT */
/* Decides what is written down about a flow. Must never change the flow, nor block. */
#include "flow/account.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "flow/session.h"

#define REFUSAL_BURST 100u
#define REFUSAL_NS    100000000ull /* ten a second */

const uint64_t lb_duration_bounds_ms[LB_DURATION_BUCKETS] = {
	5, 25, 100, 250, 1000, 5000, 30000, 120000, 600000, 3600000,
};

const uint64_t lb_connect_bounds_us[LB_CONNECT_BUCKETS] = {
	100, 250, 1000, 2500, 10000, 50000, 250000, 1000000, 3000000, 10000000,
};

_Static_assert(sizeof(struct lb_counters) % sizeof(uint64_t) == 0, "counters only");

void lb_account_add(struct lb_counters *to, const struct lb_counters *from)
{
	uint64_t *sum = (uint64_t *)to;
	const uint64_t *part = (const uint64_t *)from;

	for (size_t i = 0; i < sizeof(*to) / sizeof(*sum); i++)
		sum[i] += lb_count_read(&part[i]);
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

void lb_account_fold(struct lb_session *s)
{
	struct lb_counters *c = &s->env->counters[s->rule->index];
	const struct lb_carrier *carrier = s->pair.carrier;

	if (!s->carrying)
		return;
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

/* <count> if it is beyond all <bounds>. */
static unsigned int bucket_of(const uint64_t *bounds, unsigned int count, uint64_t value)
{
	unsigned int i = 0;

	while (i < count && value > bounds[i])
		i++;
	return i;
}

static uint64_t duration_ms(const struct lb_session *s)
{
	return (lb_loop_now_ns(s->env->carrier.loop) - s->accept_ns) / 1000000;
}

void lb_account_count_connect(struct lb_counters *c, uint64_t us)
{
	lb_count(&c->connects[bucket_of(lb_connect_bounds_us, LB_CONNECT_BUCKETS, us)], 1);
	lb_count(&c->connect_sum_us, us);
}

void lb_account_count_end(struct lb_counters *c, enum lb_reason reason, uint64_t duration_ms)
{
	lb_count(&c->active, (uint64_t)-1);
	lb_count(&c->ends[reason], 1);
	lb_count(&c->durations[bucket_of(lb_duration_bounds_ms, LB_DURATION_BUCKETS, duration_ms)],
		 1);
	lb_count(&c->duration_sum_ms, duration_ms);
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
	char line[LB_ACCOUNT_LINE_MAX];

	lb_account_fold(s);
	lb_account_count_end(c, reason, duration_ms(s));
	if (s->carrying) {
		lb_count(&c->flows[lb_carrier_of(&s->pair)->id], 1);
		lb_count(&c->whys[s->pair.why], 1);
	}
	if (!s->env->log_line)
		return;
	fill(&record, s, reason);
	if (is_refusal(reason) && !may_log_refusal(s->env, c, &record))
		return;
	s->env->log_line(s->env, line, lb_account_format(&record, line, sizeof(line)));
}

/* --- the line --------------------------------------------------------------------------------- */

struct text {
	char *at;
	size_t left; /* with the NUL */
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(t->at, t->left, fmt, args);
	va_end(args);
	if (n < 0)
		return;
	if ((size_t)n >= t->left)
		n = (int)t->left - 1;
	t->at += n;
	t->left -= (size_t)n;
}

/* Quoted when it would not stand alone; names hold no control characters. */
static void add_word(struct text *t, const char *word)
{
	if (*word && !strpbrk(word, " \"=\\")) {
		add(t, "%s", word);
		return;
	}
	add(t, "\"");
	for (; *word; word++)
		add(t, strchr("\"\\", *word) ? "\\%c" : "%c", *word);
	add(t, "\"");
}

static void add_time(struct text *t)
{
	struct timespec now;
	struct tm tm;
	char text[32];

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	add(t, "time=%s.%03ldZ", text, now.tv_nsec / 1000000);
}

size_t lb_account_format(const struct lb_flow_record *r, char *line, size_t size)
{
	struct text t = {.at = line, .left = size};
	char addr[LB_ADDR_STR_MAX];

	add_time(&t);
	add(&t, " rule=");
	add_word(&t, r->rule);
	add(&t, " client=%s", lb_addr_format(r->client, addr));
	if (r->certified && *r->certified) {
		add(&t, " certified=");
		add_word(&t, r->certified);
	}
	add(&t, " backend=");
	add_word(&t, r->backend ? r->backend : "-");
	add(&t, " carrier=%s why=%s reason=%s", r->carrier ? r->carrier : "-",
	    r->carrier ? lb_why_word(r->why) : "-", lb_reason_word(r->reason));
	if (r->error)
		add(&t, " error=%s", strerrorname_np(r->error));
	if (r->detail) {
		add(&t, " detail=");
		add_word(&t, r->detail);
	}
	add(&t, " up=%llu down=%llu", (unsigned long long)r->bytes[0],
	    (unsigned long long)r->bytes[1]);
	add(&t, " duration_ms=%llu", (unsigned long long)r->duration_ms);
	if (r->connected)
		add(&t, " connect_ms=%.1f", (double)r->connect_us / 1e3);
	else
		add(&t, " connect_ms=-");
	add(&t, " tries=%u", r->tries);
	if (r->unlogged)
		add(&t, " unlogged=%llu", (unsigned long long)r->unlogged);
	return size - t.left;
}
