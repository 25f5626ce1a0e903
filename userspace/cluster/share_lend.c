/* SPDX-License-Identifier: MIT */
/*
 * Who is lent how much. See share.h. Must never offer what some other node may still spend, nor
 * take back what has not been heard to be taken back.
 */
#include "cluster/share_state.h"

/* What node <i> is short of, as far as it has said so lately. */
static uint64_t shortage(const struct lb_share *s, const struct key *k, uint32_t i, uint64_t now_us)
{
	const struct pair *p = &k->pairs[i];
	uint64_t need = p->demand + p->demand / 10, safe = share_safe(s, k);

	if (!s->nodes[i].id || !s->nodes[i].there || now_us >= p->wanted_us || need <= safe)
		return 0;
	return need - safe;
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

uint64_t share_offer(const struct lb_share *s, const struct key *k, uint32_t node, uint64_t now_us)
{
	uint64_t spare = less(share_safe(s, k), share_need(s, k));
	uint64_t wanted = shortage(s, k, node, now_us), all = wanted, feared = 0, offer;

	if (k->young || !wanted || !spare)
		return 0;
	for (uint32_t i = 0; i < s->nodes_count; i++) {
		if (i == node)
			continue;
		all += shortage(s, k, i, now_us);
		feared += k->pairs[i].feared;
	}
	offer = (uint64_t)((unsigned __int128)spare * wanted / all);
	offer = offer < wanted ? offer : wanted;
	return offer < less(spare, feared) ? offer : less(spare, feared);
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

		if (p->feared <= p->lent || stamp_us < p->lowered_us)
			continue;
		share_refill(s, k, now_us);
		p->feared = p->lent;
		share_refill(s, k, now_us);
	}
}
