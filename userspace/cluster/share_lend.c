/* SPDX-License-Identifier: MIT */
/*
 * Who is lent how much. See share.h. Must never offer what some other node may still spend, nor
 * take back what has not been heard to be taken back.
 */
#include "cluster/share_state.h"

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static bool is_short(const struct lb_share *s, const struct key *k, uint32_t i, uint64_t now_us)
{
	return s->nodes[i].id && s->nodes[i].there && now_us < k->pairs[i].wanted_us;
}

/* What node <i> is short of, as far as it has said so lately. */
static uint64_t shortage(const struct lb_share *s, const struct key *k, uint32_t i, uint64_t now_us)
{
	uint64_t demand = k->pairs[i].demand;

	if (!is_short(s, k, i, now_us))
		return 0;
	return less(k->held ? demand : demand + demand / 10, share_safe(s, k));
}

/* .. and of connections, may be soon. */
static uint64_t foresight(const struct lb_share *s, const struct key *k, uint32_t i,
			  uint64_t now_us)
{
	if (!k->held || !is_short(s, k, i, now_us))
		return 0;
	return less(share_held_wish(k->pairs[i].demand), share_safe(s, k)) -
	       shortage(s, k, i, now_us);
}

static uint64_t part(uint64_t of, uint64_t wanted, uint64_t all)
{
	uint64_t p = all ? (uint64_t)((unsigned __int128)of * wanted / all) : 0;

	return p < wanted ? p : wanted;
}

uint64_t share_away(const struct key *k, uint32_t node)
{
	const struct pair *p = &k->pairs[node];

	return p->feared > p->claimed ? p->feared : p->claimed;
}

uint64_t share_barred(const struct key *k, uint32_t node)
{
	return share_away(k, node) + k->pairs[node].excess;
}

uint64_t share_offer(const struct lb_share *s, const struct key *k, uint32_t node, uint64_t now_us)
{
	uint64_t spare = less(share_safe(s, k), share_need(s, k));
	uint64_t wanted = shortage(s, k, node, now_us), soon = foresight(s, k, node, now_us);
	uint64_t all = wanted, all_soon = soon, away = 0, offer;

	if (k->young || !(wanted + soon) || !spare)
		return 0;
	for (uint32_t i = 0; i < s->nodes_count; i++) {
		if (i == node)
			continue;
		all += shortage(s, k, i, now_us);
		all_soon += foresight(s, k, i, now_us);
		away += share_barred(k, i);
	}
	offer = part(spare, wanted, all) + part(less(spare, all), soon, all_soon);
	/* Whole ones: rather one more for this node than one for nobody. */
	if (k->held)
		offer = share_held_whole(offer);
	return offer < less(spare, away) ? offer : less(spare, away);
}

void share_lend(struct lb_share *s, struct key *k, uint32_t node, uint64_t amount,
		uint64_t stamp_us, uint64_t now_us)
{
	struct pair *p = &k->pairs[node];
	uint64_t loan_us = share_loan_us(s);

	share_refill(s, k, now_us);
	if (amount < p->lent)
		p->lowered_us = stamp_us;
	p->lent = amount;
	if (amount > p->feared)
		p->feared = amount;
	if (amount)
		p->feared_us = now_us + loan_us + loan_us / 8;
	share_refill(s, k, now_us);
}

void share_heard(struct lb_share *s, uint32_t node, uint64_t stamp_us, uint64_t now_us)
{
	for (uint32_t i = 0; i < s->keys_count; i++) {
		struct key *k = &s->keys[i];
		struct pair *p = &k->pairs[node];

		if (k->held || p->feared <= p->lent || stamp_us < p->lowered_us)
			continue;
		share_refill(s, k, now_us);
		p->feared = p->lent;
		share_refill(s, k, now_us);
	}
}
