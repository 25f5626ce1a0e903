/* SPDX-License-Identifier: MIT */
/* The buckets and the time; what is told of them. See share.h. */
#include "cluster/share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "cluster/share_state.h"

/* Who are to come in a tick, and do not. */
#define GONE 8u

uint32_t lb_share_keys(const struct lb_share *s)
{
	return s->keys_count;
}

uint32_t lb_share_size(const struct lb_share *s)
{
	return s->known > s->params.size_min ? s->known : s->params.size_min;
}

/* Long enough for two messages in a row to be lost. */
uint64_t share_loan_us(const struct lb_share *s)
{
	uint64_t rounds = (s->known + LB_SHARE_FANOUT - 1) / LB_SHARE_FANOUT;
	uint64_t ms = 4 * rounds * LB_SHARE_TICK_MS;

	return 1000 * (ms > LB_SHARE_LOAN_MS ? ms : LB_SHARE_LOAN_MS);
}

uint64_t lb_share_safe(const struct lb_share *s, const struct lb_share_limit *limit)
{
	return limit->most * 1000ull / lb_share_size(s);
}

uint64_t share_safe(const struct lb_share *s, const struct key *k)
{
	return k->held ? share_held_safe(s, k) : lb_share_safe(s, &k->limit);
}

uint64_t share_need(const struct lb_share *s, const struct key *k)
{
	if (k->held)
		return k->demand;
	/* Never nothing at all: the first who comes again should find something. */
	return k->demand + k->demand / 10 + share_safe(s, k) / 100;
}

/* --- keys ------------------------------------------------------------------------------------- */

uint64_t share_burst(const struct key *k)
{
	unsigned __int128 all = (unsigned __int128)k->limit.burst * TOKEN * k->share;
	uint64_t tokens = (uint64_t)(all / (k->limit.most * 1000ull));

	return tokens > TOKEN ? tokens : TOKEN;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void count_share(struct lb_share *s, struct key *k, uint64_t now_us)
{
	uint64_t safe = share_safe(s, k), away = 0, borrowed = 0;

	k->share_us = UINT64_MAX;
	for (uint32_t i = 0; i < s->nodes_count; i++) {
		struct pair *p = &k->pairs[i];

		if (p->feared && now_us >= p->feared_us && !k->held)
			p->feared = p->lent = 0;
		away += share_barred(k, i);
		if (!p->borrowed || now_us >= p->borrowed_us)
			continue;
		borrowed += p->borrowed;
		k->share_us = earlier(k->share_us, p->borrowed_us);
	}
	k->share = (safe > away ? safe - away : 0) + borrowed;
}

/* Tokens up to now. Beyond the end of a loan the share is another one: it counts from now. */
static void accrue(struct key *k, uint64_t now_us)
{
	uint64_t until = earlier(now_us, k->share_us);
	unsigned __int128 tokens = k->tokens, burst;

	if (until > k->refilled_us) {
		burst = share_burst(k);
		tokens += (unsigned __int128)k->share * (until - k->refilled_us);
		k->tokens = (uint64_t)(tokens < burst ? tokens : burst);
	}
	if (now_us > k->refilled_us)
		k->refilled_us = now_us;
}

void share_refill(struct lb_share *s, struct key *k, uint64_t now_us)
{
	accrue(k, now_us);
	count_share(s, k, now_us);
	k->tokens = earlier(k->tokens, share_burst(k));
}

void share_begin(struct lb_share *s, struct key *k, uint64_t now_us)
{
	k->refilled_us = k->since_us = now_us;
	k->young = true;
	count_share(s, k, now_us);
}

void share_set_limit(struct lb_share *s, struct key *k, uint32_t most, uint64_t now_us)
{
	/* What was lent of the old one is feared all the same. */
	share_refill(s, k, now_us);
	k->limit.most = most;
	count_share(s, k, now_us);
}

/* Its tokens and its share, by what the limit and the caller's bucket are now. */
static void use(struct lb_share *s, struct key *k, const struct lb_share_ask *ask, uint64_t now_us)
{
	uint64_t full;

	if (k->limit.most != ask->limit.most)
		share_set_limit(s, k, ask->limit.most, now_us);
	if (!k->limit.burst) {
		k->limit.burst = ask->limit.burst;
		k->label = *ask->label;
		full = share_burst(k);
		k->tokens = full > ask->lacks ? full - ask->lacks : 0;
	}
	k->limit.burst = ask->limit.burst;
}

static bool is_same(const struct lb_share_label *a, const struct lb_share_label *b)
{
	return a->kind == b->kind && a->port == b->port &&
	       !memcmp(a->addr, b->addr, sizeof(a->addr)) && !strcmp(a->rule, b->rule);
}

uint64_t lb_share_key(const struct lb_share_label *label)
{
	const uint64_t parts[] = {lb_hash(label->rule, strlen(label->rule)),
				  lb_hash(label->addr, sizeof(label->addr)),
				  (uint64_t)label->kind << 16 | label->port};

	return lb_hash(parts, sizeof(parts));
}

/* NULL: not taken up, or somebody else's. */
static struct key *key_of(struct lb_share *s, const struct lb_share_ask *ask)
{
	struct key *k = share_find(s, ask->key);

	if (!k || k->held != (ask->label->kind != LB_SHARE_RATE))
		return NULL;
	return !k->label.rule[0] || is_same(&k->label, ask->label) ? k : NULL;
}

enum lb_share_verdict lb_share_look(struct lb_share *s, const struct lb_share_ask *ask,
				    uint64_t now_us, uint64_t *until_us)
{
	struct key *k = key_of(s, ask);
	uint64_t wait_us = 1000 * LB_SHARE_TICK_MS;

	if (!k)
		return LB_SHARE_UNTRACKED;
	use(s, k, ask, now_us);
	k->asked++;
	accrue(k, now_us);
	if (now_us >= k->share_us)
		share_refill(s, k, now_us);
	if (k->tokens >= TOKEN)
		return LB_SHARE_HAS;
	/* The share may be another one after the next tick. */
	if (k->share)
		wait_us = earlier(wait_us, (TOKEN - k->tokens + k->share - 1) / k->share);
	*until_us = now_us + wait_us;
	return LB_SHARE_REFUSED;
}

void lb_share_spend(struct lb_share *s, const struct lb_share_ask *ask)
{
	struct key *k = key_of(s, ask);

	if (k)
		k->tokens -= earlier(k->tokens, TOKEN);
}

bool lb_share_max(struct lb_share *s, const struct lb_share_ask *ask, uint64_t now_us,
		  uint32_t *max)
{
	struct key *k = key_of(s, ask);

	if (!k)
		return false;
	use(s, k, ask, now_us);
	share_refill(s, k, now_us);
	*max = share_held_max(k, k->share);
	return true;
}

void lb_share_want(struct lb_share *s, const struct lb_share_ask *ask)
{
	struct key *k = key_of(s, ask);

	if (k)
		k->asked++;
}

int lb_share_track(struct lb_share *s, const struct lb_share_ask *ask, uint64_t now_us)
{
	struct key *k = NULL;

	/* There is one already: somebody else's. */
	if (!share_find(s, ask->key))
		k = share_add(s, ask->key, ask->label->kind != LB_SHARE_RATE, ask->limit.most,
			      now_us);
	if (!k) {
		s->counts.untracked++;
		return -ENOSPC;
	}
	use(s, k, ask, now_us);
	return 0;
}

void share_resize(struct lb_share *s, uint32_t known, uint64_t now_us)
{
	for (uint32_t i = 0; i < s->keys_count; i++)
		share_refill(s, &s->keys[i], now_us);
	s->known = known;
	for (uint32_t i = 0; i < s->keys_count; i++)
		share_refill(s, &s->keys[i], now_us);
}

/* --- time ------------------------------------------------------------------------------------- */

/* Up at once, down slowly: who is short should not wait for who is not. */
static void estimate(struct key *k, uint64_t now_us)
{
	uint64_t span_us = now_us - k->since_us, rate;

	/* Too short a time to tell. */
	if (k->young && span_us < 1000 * LB_SHARE_TICK_MS / 2)
		return;
	rate = k->asked * TOKEN / span_us;
	/* Where so many used to come, nobody is no accident: they have gone. */
	if (k->young || (!rate && k->demand * span_us > GONE * TOKEN))
		k->demand = rate;
	else if (rate >= k->demand || !rate)
		k->demand = (rate + k->demand) / 2;
	else
		k->demand = (3 * k->demand + rate) / 4;
	k->young = false;
	k->asked = 0;
	k->since_us = now_us;
}

bool lb_share_has_strangers(const struct lb_share *s)
{
	return s->strangers;
}

void lb_share_tick(struct lb_share *s, uint64_t now_us)
{
	uint32_t told = 0;

	if (now_us <= s->tick_us)
		return;
	for (uint32_t i = 0; i < s->keys_count; i++) {
		if (s->keys[i].held)
			share_held_tick(s, &s->keys[i], now_us);
		else
			estimate(&s->keys[i], now_us);
		share_refill(s, &s->keys[i], now_us);
	}
	s->tick_us = now_us;
	s->strangers = false;
	if (s->leaving && now_us >= s->left_us) {
		share_resize(s, s->known - s->leaving, now_us);
		s->leaving = 0;
	}
	for (uint32_t i = 0; i < s->nodes_count && told < LB_SHARE_FANOUT; i++) {
		uint32_t node = s->next_node++ % s->nodes_count;

		if (s->nodes[node].id && s->nodes[node].there)
			told += share_tell(s, node, now_us);
	}
}

/* --- what is told of it ----------------------------------------------------------------------- */

/* In parts of 2^32; nodes that have not said with how many they count are taken to count as we. */
static uint64_t safe_parts(const struct lb_share *s)
{
	uint64_t ours = (1ull << 32) / lb_share_size(s), sum = ours * s->known;

	for (uint32_t i = 0; i < s->nodes_count; i++)
		if (s->nodes[i].id && s->nodes[i].size)
			sum = sum - ours + (1ull << 32) / s->nodes[i].size;
	/* Nodes that are expected and have never been heard of have theirs, too. */
	if (s->params.size_min > s->known)
		sum += ours * (s->params.size_min - s->known);
	return sum + s->known;
}

uint64_t lb_share_bound(const struct lb_share *s, const struct lb_share_limit *limit,
			uint64_t window_us)
{
	unsigned __int128 tokens =
		(unsigned __int128)limit->most * window_us / 1000000 + limit->burst;

	return (uint64_t)(tokens * safe_parts(s) >> 32) + 1 + lb_share_size(s);
}

static uint64_t borrowed_of(const struct key *k, uint32_t node, uint64_t now_us)
{
	if (k->held)
		return share_held_claim(k, node, now_us);
	return now_us < k->pairs[node].borrowed_us ? k->pairs[node].borrowed : 0;
}

void lb_share_each(struct lb_share *s, uint64_t now_us,
		   void (*fn)(void *arg, const struct lb_share_view *view), void *arg)
{
	for (uint32_t i = 0; i < s->keys_count; i++) {
		struct key *k = &s->keys[i];
		struct lb_share_view v = {.key = k->key, .label = &k->label, .limit = k->limit};

		share_refill(s, k, now_us);
		v.demand = k->demand;
		v.safe = share_safe(s, k);
		v.share = k->share;
		v.used = k->used;
		for (uint32_t j = 0; j < s->nodes_count; j++) {
			v.lent += share_away(k, j);
			v.borrowed += borrowed_of(k, j, now_us);
		}
		/* What is kept of loans that are over is no share, but those have it. */
		v.share = v.share > k->used ? v.share : k->used;
		fn(arg, &v);
	}
}

const struct lb_share_counts *lb_share_counts(const struct lb_share *s)
{
	return &s->counts;
}

int lb_share_new(struct lb_share **ret, const struct lb_share_params *params, uint64_t now_us)
{
	LB_AUTO(lb_share_free) struct lb_share *s = NULL;

	if (!params->self || !params->size_min || !params->nodes_max || !params->keys_max ||
	    params->keys_max > LB_SHARE_KEYS_MAX)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->params = *params;
	s->known = 1;
	s->tick_us = now_us;
	s->nodes = calloc(params->nodes_max, sizeof(*s->nodes));
	s->keys = calloc(params->keys_max, sizeof(*s->keys));
	s->heads = calloc(params->keys_max, sizeof(*s->heads));
	if (!s->nodes || !s->keys || !s->heads)
		return -ENOMEM;
	*ret = LB_TAKE_PTR(s);
	return 0;
}

void lb_share_free(struct lb_share **ps)
{
	struct lb_share *s = *ps;

	if (!s)
		return;
	*ps = NULL;
	for (uint32_t i = 0; i < s->keys_count; i++)
		free(s->keys[i].pairs);
	free(s->heads);
	free(s->keys);
	free(s->nodes);
	free(s);
}
