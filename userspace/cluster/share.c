/* SPDX-License-Identifier: MIT */
/* Keys, their buckets, and who is there. See share.h. */
#include "cluster/share.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cluster/share_state.h"

/* Keys that are looked at to make room for another one. */
#define LOOKS 8u

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
	return limit->per_second * 1000ull / lb_share_size(s);
}

uint64_t share_safe(const struct lb_share *s, const struct key *k)
{
	return lb_share_safe(s, &k->limit);
}

uint64_t share_need(const struct lb_share *s, const struct key *k)
{
	/* Never nothing at all: the first who comes again should find something. */
	return k->demand + k->demand / 10 + share_safe(s, k) / 100;
}

/* --- keys ------------------------------------------------------------------------------------- */

struct key *share_find(const struct lb_share *s, uint64_t key)
{
	for (uint32_t i = 0; i < s->params.keys_max; i++)
		if (s->keys[i].used && s->keys[i].key == key)
			return &s->keys[i];
	return NULL;
}

static uint64_t burst_of(const struct key *k)
{
	unsigned __int128 all = (unsigned __int128)k->limit.burst * TOKEN * k->share;
	uint64_t tokens = (uint64_t)(all / (k->limit.per_second * 1000ull));

	return tokens > TOKEN ? tokens : TOKEN;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static void count_share(struct lb_share *s, struct key *k, uint64_t now_us)
{
	uint64_t safe = share_safe(s, k), feared = 0, borrowed = 0;

	k->share_us = UINT64_MAX;
	for (uint32_t i = 0; i < s->params.nodes_max; i++) {
		struct pair *p = &k->pairs[i];

		if (p->feared && now_us >= p->feared_us)
			p->feared = p->lent = 0;
		feared += p->feared;
		if (!p->borrowed || now_us >= p->borrowed_us)
			continue;
		borrowed += p->borrowed;
		k->share_us = earlier(k->share_us, p->borrowed_us);
	}
	k->share = (safe > feared ? safe - feared : 0) + borrowed;
}

void share_refill(struct lb_share *s, struct key *k, uint64_t now_us)
{
	/* Beyond the end of a loan the share is another one: it counts from now. */
	uint64_t until = earlier(now_us, k->share_us);
	unsigned __int128 tokens = k->tokens, burst = burst_of(k);

	if (until > k->refilled_us) {
		tokens += (unsigned __int128)k->share * (until - k->refilled_us);
		k->tokens = (uint64_t)(tokens < burst ? tokens : burst);
	}
	if (now_us > k->refilled_us)
		k->refilled_us = now_us;
	count_share(s, k, now_us);
	k->tokens = earlier(k->tokens, burst_of(k));
}

/* Nobody would notice: its bucket is full, it owes nothing and nobody owes it. */
static bool idle(struct lb_share *s, struct key *k, uint64_t now_us)
{
	if (k->demand || k->asked)
		return false;
	share_refill(s, k, now_us);
	for (uint32_t i = 0; i < s->params.nodes_max; i++) {
		const struct pair *p = &k->pairs[i];

		if (p->feared || (p->borrowed && now_us < p->borrowed_us) || now_us < p->wanted_us)
			return false;
	}
	return k->tokens == burst_of(k);
}

static struct key *place(struct lb_share *s, uint64_t now_us)
{
	for (uint32_t i = 0; i < s->params.keys_max; i++)
		if (!s->keys[i].used)
			return &s->keys[i];
	for (uint32_t i = 0; i < LOOKS; i++) {
		struct key *k = &s->keys[s->next_key];

		s->next_key = s->next_key + 1 < s->params.keys_max ? s->next_key + 1 : 0;
		if (idle(s, k, now_us))
			return k;
	}
	return NULL;
}

struct key *share_add(struct lb_share *s, uint64_t key, uint32_t per_second, uint64_t now_us)
{
	struct key *k = place(s, now_us);
	struct pair *pairs;

	if (!k)
		return NULL;
	pairs = k->pairs ? k->pairs : malloc(s->params.nodes_max * sizeof(*pairs));
	if (!pairs)
		return NULL;
	memset(pairs, 0, s->params.nodes_max * sizeof(*pairs));
	*k = (struct key){.used = true,
			  .key = key,
			  .limit.per_second = per_second,
			  .refilled_us = now_us,
			  .pairs = pairs};
	count_share(s, k, now_us);
	return k;
}

static struct key *key_for(struct lb_share *s, uint64_t key, const struct lb_share_limit *limit,
			   uint64_t now_us)
{
	struct key *k = share_find(s, key);

	if (!k)
		k = share_add(s, key, limit->per_second, now_us);
	if (!k)
		return NULL;
	if (k->limit.per_second != limit->per_second) {
		/* Another limit: what was lent of the old one is feared all the same. */
		share_refill(s, k, now_us);
		k->limit.per_second = limit->per_second;
		count_share(s, k, now_us);
	}
	if (!k->limit.burst && limit->burst) {
		/* Full at first, but not if it may have been judged by its safe share before. */
		k->limit.burst = limit->burst;
		k->tokens = s->counts.untracked ? 0 : burst_of(k);
	}
	k->limit.burst = limit->burst;
	return k;
}

enum lb_share_verdict lb_share_take(struct lb_share *s, uint64_t key,
				    const struct lb_share_limit *limit, uint64_t now_us)
{
	struct key *k = key_for(s, key, limit, now_us);

	if (!k) {
		s->counts.untracked++;
		return LB_SHARE_UNTRACKED;
	}
	k->asked++;
	share_refill(s, k, now_us);
	if (k->tokens < TOKEN)
		return LB_SHARE_REFUSED;
	k->tokens -= TOKEN;
	return LB_SHARE_TAKEN;
}

/* All shares anew, for another number of nodes. */
static void resize(struct lb_share *s, uint32_t known, uint64_t now_us)
{
	for (uint32_t i = 0; i < s->params.keys_max; i++)
		if (s->keys[i].used)
			share_refill(s, &s->keys[i], now_us);
	s->known = known;
	for (uint32_t i = 0; i < s->params.keys_max; i++)
		if (s->keys[i].used)
			share_refill(s, &s->keys[i], now_us);
}

/* --- time ------------------------------------------------------------------------------------- */

/* Up at once, down slowly, unless all have gone: who is short should not wait for who is not. */
static void estimate(struct key *k, uint64_t span_us)
{
	uint64_t rate = k->asked * TOKEN / span_us;

	if (rate >= k->demand || !rate)
		k->demand = (rate + k->demand) / 2;
	else
		k->demand = (3 * k->demand + rate) / 4;
	k->asked = 0;
}

void lb_share_tick(struct lb_share *s, uint64_t now_us)
{
	uint32_t told = 0;

	if (now_us <= s->tick_us)
		return;
	for (uint32_t i = 0; i < s->params.keys_max; i++) {
		if (!s->keys[i].used)
			continue;
		estimate(&s->keys[i], now_us - s->tick_us);
		share_refill(s, &s->keys[i], now_us);
	}
	s->tick_us = now_us;
	if (s->leaving && now_us >= s->left_us) {
		resize(s, s->known - s->leaving, now_us);
		s->leaving = 0;
	}
	for (uint32_t i = 0; i < s->params.nodes_max && told < LB_SHARE_FANOUT; i++) {
		uint32_t node = s->next_node++ % s->params.nodes_max;

		if (s->nodes[node].id && s->nodes[node].there)
			told += share_tell(s, node, now_us);
	}
}

/* --- nodes ------------------------------------------------------------------------------------ */

static struct node *node_of(const struct lb_share *s, uint64_t id)
{
	for (uint32_t i = 0; i < s->params.nodes_max; i++)
		if (s->nodes[i].id == id)
			return &s->nodes[i];
	return NULL;
}

int lb_share_join(struct lb_share *s, uint64_t id, uint64_t now_us)
{
	struct node *n = node_of(s, id);

	if (!n) {
		n = node_of(s, 0);
		if (!n)
			return -ENOSPC;
		resize(s, s->known + 1, now_us);
	}
	n->id = id;
	n->there = true;
	return 0;
}

void lb_share_silent(struct lb_share *s, uint64_t id)
{
	struct node *n = node_of(s, id);

	if (n)
		n->there = false;
}

void lb_share_leave(struct lb_share *s, uint64_t id, uint64_t now_us)
{
	struct node *n = node_of(s, id);
	uint32_t at;

	if (!n)
		return;
	at = (uint32_t)(n - s->nodes);
	for (uint32_t i = 0; i < s->params.keys_max; i++)
		if (s->keys[i].used) {
			share_refill(s, &s->keys[i], now_us);
			s->keys[i].pairs[at] = (struct pair){};
		}
	*n = (struct node){};
	/* Who has not heard that it went may still spend what it had lent. */
	s->leaving++;
	s->left_us = now_us + share_loan_us(s);
}

/* --- what is told of it ----------------------------------------------------------------------- */

/* In parts of 2^32; nodes that have not said with how many they count are taken to count as we. */
static uint64_t safe_parts(const struct lb_share *s)
{
	uint64_t ours = (1ull << 32) / lb_share_size(s), sum = ours * s->known;

	for (uint32_t i = 0; i < s->params.nodes_max; i++)
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
		(unsigned __int128)limit->per_second * window_us / 1000000 + limit->burst;

	return (uint64_t)(tokens * safe_parts(s) >> 32) + 1 + lb_share_size(s);
}

void lb_share_each(struct lb_share *s, uint64_t now_us,
		   void (*fn)(void *arg, const struct lb_share_view *view), void *arg)
{
	for (uint32_t i = 0; i < s->params.keys_max; i++) {
		struct key *k = &s->keys[i];
		struct lb_share_view v = {.key = k->key, .limit = k->limit};

		if (!k->used)
			continue;
		share_refill(s, k, now_us);
		v.demand = k->demand;
		v.safe = share_safe(s, k);
		v.share = k->share;
		for (uint32_t j = 0; j < s->params.nodes_max; j++) {
			v.lent += k->pairs[j].feared;
			v.borrowed += now_us < k->pairs[j].borrowed_us ? k->pairs[j].borrowed : 0;
		}
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
	if (!s->nodes || !s->keys)
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
	for (uint32_t i = 0; s->keys && i < s->params.keys_max; i++)
		free(s->keys[i].pairs);
	free(s->keys);
	free(s->nodes);
	free(s);
}
