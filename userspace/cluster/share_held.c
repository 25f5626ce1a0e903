/* SPDX-License-Identifier: MIT */
/*
 * Limits of connections: whose those are that this node has. See share.h. Must never let one in by
 * what is only kept, nor say that it keeps less than it has.
 */
#include "base/hash.h"
#include "cluster/share_state.h"

#define WHOLE 1000u
/* Who was refused may come again so much later, and should find that it was heard. */
#define LACK_US 3000000u

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* What it lends this node. */
static uint64_t told(const struct pair *p, uint64_t now_us)
{
	return now_us < p->borrowed_us ? p->borrowed : 0;
}

/* How many nodes are before this one, for <k>: the same order everywhere. */
static uint32_t rank(const struct lb_share *s, const struct key *k)
{
	uint64_t own = lb_hash_mix(k->key ^ s->params.self);
	uint32_t before = 0;

	for (uint32_t i = 0; i < s->nodes_count; i++)
		before += s->nodes[i].id && lb_hash_mix(k->key ^ s->nodes[i].id) < own;
	return before;
}

uint64_t share_held_safe(const struct lb_share *s, const struct key *k)
{
	uint32_t size = lb_share_size(s), over = k->limit.most % size;
	/* Of nodes that nobody has seen yet nobody knows where they come. */
	bool ranked = over && size == s->known && !s->leaving;

	return WHOLE * ((uint64_t)k->limit.most / size + (ranked && rank(s, k) < over));
}

uint32_t share_held_max(const struct key *k, uint64_t share)
{
	return (uint32_t)smaller(share / WHOLE, k->limit.most);
}

uint64_t share_held_whole(uint64_t part)
{
	return (part + WHOLE - 1) / WHOLE * WHOLE;
}

uint64_t share_held_wish(uint64_t demand)
{
	return demand ? demand + demand / 4 / WHOLE * WHOLE + WHOLE : 0;
}

/* What is ours of those in use is not lent, and what was lent is somebody else's. */
static uint64_t borrowed_use(const struct lb_share *s, const struct key *k)
{
	uint64_t own = share_held_safe(s, k);

	for (uint32_t i = 0; i < s->nodes_count; i++)
		own -= smaller(own, share_away(k, i));
	return k->used - smaller(k->used, own);
}

/* What is lent now comes first: no more was let in than that. The rest was lent once, or never. */
static void cover(const struct lb_share *s, struct key *k, uint64_t now_us)
{
	uint64_t left = borrowed_use(s, k), lent = 0;

	for (uint32_t i = 0; i < s->nodes_count; i++)
		lent += told(&k->pairs[i], now_us);
	lent = smaller(lent, left);
	left -= lent;
	for (uint32_t i = 0; i < s->nodes_count; i++) {
		struct pair *p = &k->pairs[i];
		uint64_t now = smaller(told(p, now_us), lent);
		uint64_t once = smaller(p->kept - smaller(p->kept, now), left);

		lent -= now;
		left -= once;
		p->kept = now + once;
	}
	k->excess = left;
}

static void ask(const struct lb_share *s, const struct key *k, uint64_t max,
		struct lb_share_use *use)
{
	if (k->label.rule[0] && s->params.use)
		s->params.use(s->params.arg, &k->label, share_held_max(k, max), use);
}

/* Of many who come again and again one is left when there is room, and nobody came. */
static void count_lack(struct key *k, uint32_t used, uint64_t now_us)
{
	if (k->asked) {
		k->lacked = WHOLE * (uint64_t)k->asked;
		k->short_us = now_us + LACK_US;
	} else if (WHOLE * (uint64_t)used < k->share) {
		k->lacked = smaller(k->lacked, WHOLE);
	}
}

void share_held_tick(struct lb_share *s, struct key *k, uint64_t now_us)
{
	struct lb_share_use use = {};

	k->young = false;
	share_refill(s, k, now_us);
	ask(s, k, k->share, &use);
	if (use.most && use.most != k->limit.most)
		share_set_limit(s, k, use.most, now_us);
	count_lack(k, use.used, now_us);
	k->asked = 0;
	k->used = WHOLE * (uint64_t)use.used;
	k->demand = k->used + WHOLE * (uint64_t)use.wanted;
	if (now_us < k->short_us)
		k->demand += k->lacked;
	k->demand = smaller(k->demand, WHOLE * (uint64_t)k->limit.most);
	cover(s, k, now_us);
}

uint64_t share_held_spare(struct lb_share *s, struct key *k, uint32_t node, uint64_t amount,
			  uint64_t now_us)
{
	uint64_t away = share_away(k, node), more = amount > away ? amount - away : 0, left;
	struct lb_share_use use = {};

	if (!more)
		return amount;
	share_refill(s, k, now_us);
	left = k->share - smaller(k->share, more);
	ask(s, k, left, &use);
	/* Those that came in between have it. */
	if (WHOLE * (uint64_t)use.used <= left)
		return amount;
	return amount - smaller(more, WHOLE * (uint64_t)use.used - left);
}

uint64_t share_held_demand(const struct key *k, uint32_t node, uint64_t now_us)
{
	uint64_t demand = k->demand;

	for (uint32_t i = 0; i < node && k->held; i++)
		demand -= smaller(demand, told(&k->pairs[i], now_us));
	return demand;
}

uint64_t share_held_claim(const struct key *k, uint32_t node, uint64_t now_us)
{
	const struct pair *p = &k->pairs[node];
	uint64_t lent = told(p, now_us);

	return p->kept > lent ? p->kept : lent;
}

void share_held_heard(struct key *k, uint32_t node, uint64_t stamp_us, uint64_t kept,
		      uint64_t excess)
{
	uint64_t all = WHOLE * (uint64_t)k->limit.most;
	struct pair *p = &k->pairs[node];

	p->claimed = smaller(kept, all);
	p->excess = smaller(excess, all);
	if (stamp_us >= p->lowered_us && p->feared > p->lent)
		p->feared = p->lent;
}

void share_held_new_life(struct key *k, uint32_t node)
{
	struct pair *p = &k->pairs[node];

	if (k->held)
		p->lent = p->feared = p->claimed = p->excess = 0;
}

bool share_held_idle(const struct lb_share *s, const struct key *k)
{
	for (uint32_t i = 0; i < s->nodes_count; i++)
		if (share_barred(k, i) || k->pairs[i].kept)
			return false;
	return !k->used && !k->excess;
}
