/* SPDX-License-Identifier: MIT */
/*
 * What nodes say of their shares, a section of a datagram. All numbers are big-endian.
 *
 *	session 4 | stamp 8 | heard session 4 | heard stamp 8 | loan 4 (ms) | nodes 4
 *	(key 8 | flags 1 | limit 4 | demand 6 | lent 6 | kept 6 | excess 6)*
 *
 * Limits are tokens per second, or connections; the others are in thousandths of those.
 *
 * Must never prolong a loan by a message that is older than another one.
 */
#include <string.h>

#include "cluster/share_state.h"

#define HEAD_BYTES  32u
#define ENTRY_BYTES 37u
#define ENTRIES_MAX 64u
/* 48 bits, more than 2^48 / 1000 a second is not said. */
#define RATE_MAX    ((1ull << 48) - 1)
#define LOAN_MS_MAX 600000u

#define FLAG_HELD   1u /* connections */
#define FLAG_ANSWER 2u /* say what you keep */

struct entry {
	uint32_t key; /* index */
	uint64_t weight;
	uint64_t lent;
};

static void put(uint8_t **at, uint64_t v, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		(*at)[i] = (uint8_t)(v >> 8 * (n - 1 - i));
	*at += n;
}

static uint64_t get(const uint8_t **at, unsigned int n)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < n; i++)
		v = v << 8 | (*at)[i];
	*at += n;
	return v;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* --- out -------------------------------------------------------------------------------------- */

/* Sorted by weight, the heaviest first, the lightest falls off. */
static uint32_t keep(struct entry *entries, uint32_t count, uint32_t max, struct entry e)
{
	uint32_t i = count < max ? count : max - 1;

	if (count == max && entries[i].weight >= e.weight)
		return count;
	for (; i && entries[i - 1].weight < e.weight; i--)
		entries[i] = entries[i - 1];
	entries[i] = e;
	return count < max ? count + 1 : max;
}

/* Somebody is short of it, and one of the two can do something about it. */
static bool matters(const struct lb_share *s, const struct key *k, uint32_t node, uint64_t offer,
		    uint64_t now_us)
{
	const struct pair *p = &k->pairs[node];

	/* What has been taken back is to be heard of, too. */
	if (offer || share_barred(k, node) || now_us < p->borrowed_us)
		return true;
	if (k->held)
		return p->answer || p->kept || k->excess ||
		       share_held_wish(k->demand) > share_safe(s, k);
	return share_need(s, k) > share_safe(s, k);
}

static uint32_t choose(struct lb_share *s, uint32_t node, uint32_t max, struct entry *entries,
		       uint64_t now_us)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < s->keys_count; i++) {
		const struct key *k = &s->keys[i];
		struct entry e = {.key = i};

		e.lent = share_offer(s, k, node, now_us);
		e.weight = larger(k->demand, larger(e.lent, share_away(k, node)));
		if (matters(s, k, node, e.lent, now_us))
			count = keep(entries, count, max, e);
	}
	return count;
}

static void put_entry(struct key *k, uint32_t node, uint64_t lent, uint64_t now_us, uint8_t **at)
{
	struct pair *p = &k->pairs[node];
	bool answer = k->held && (share_barred(k, node) || lent);

	put(at, k->key, 8);
	put(at, (k->held ? FLAG_HELD : 0) | (answer ? FLAG_ANSWER : 0), 1);
	put(at, k->limit.most, 4);
	put(at, smaller(share_held_demand(k, node, now_us), RATE_MAX), 6);
	put(at, lent, 6);
	put(at, smaller(share_held_claim(k, node, now_us), RATE_MAX), 6);
	put(at, smaller(k->excess, RATE_MAX), 6);
	p->answer = false;
}

bool share_tell(struct lb_share *s, uint32_t node, uint64_t now_us)
{
	uint8_t bytes[HEAD_BYTES + ENTRIES_MAX * ENTRY_BYTES], *at = bytes;
	uint32_t max = (uint32_t)((s->params.section_max - HEAD_BYTES) / ENTRY_BYTES), count;
	const struct node *n = &s->nodes[node];
	struct entry entries[ENTRIES_MAX] = {};

	count = choose(s, node, max < ENTRIES_MAX ? max : ENTRIES_MAX, entries, now_us);
	if (!count)
		return false;
	s->stamp_us = larger(now_us, s->stamp_us + 1);
	put(&at, s->params.session, 4);
	put(&at, s->stamp_us, 8);
	put(&at, n->session, 4);
	put(&at, n->stamp_us, 8);
	put(&at, share_loan_us(s) / 1000, 4);
	put(&at, lb_share_size(s), 4);
	for (uint32_t i = 0; i < count; i++) {
		struct key *k = &s->keys[entries[i].key];

		if (k->held)
			entries[i].lent = share_held_spare(s, k, node, entries[i].lent, now_us);
		put_entry(k, node, entries[i].lent, now_us, &at);
		share_lend(s, k, node, entries[i].lent, s->stamp_us, now_us);
	}
	s->counts.sent++;
	s->counts.sent_bytes += (size_t)(at - bytes);
	s->params.send(s->params.arg, n->id, bytes, (size_t)(at - bytes));
	return true;
}

/* --- in --------------------------------------------------------------------------------------- */

struct message {
	uint32_t session, heard_session;
	uint64_t stamp_us, heard_us, loan_us;
	uint32_t size;
	const uint8_t *entries;
	size_t count;
};

static bool read_message(struct message *m, const uint8_t *bytes, size_t len)
{
	const uint8_t *at = bytes;
	uint64_t loan_ms;

	if (len < HEAD_BYTES || (len - HEAD_BYTES) % ENTRY_BYTES != 0)
		return false;
	m->session = (uint32_t)get(&at, 4);
	m->stamp_us = get(&at, 8);
	m->heard_session = (uint32_t)get(&at, 4);
	m->heard_us = get(&at, 8);
	loan_ms = get(&at, 4);
	m->size = (uint32_t)get(&at, 4);
	m->loan_us = loan_ms * 1000;
	m->entries = at;
	m->count = (len - HEAD_BYTES) / ENTRY_BYTES;
	return m->stamp_us && m->size && loan_ms <= LOAN_MS_MAX;
}

/* Its earlier life's loans are unknown to it. */
static void new_life(struct lb_share *s, uint32_t node, uint32_t session, uint64_t now_us)
{
	s->nodes[node].session = session;
	s->nodes[node].stamp_us = s->nodes[node].heard_us = 0;
	for (uint32_t i = 0; i < s->keys_count; i++) {
		share_refill(s, &s->keys[i], now_us);
		s->keys[i].pairs[node].borrowed = 0;
		share_held_new_life(&s->keys[i], node);
		share_refill(s, &s->keys[i], now_us);
	}
}

static void read_entry(struct lb_share *s, uint32_t node, const struct message *m,
		       const uint8_t **at, uint64_t now_us)
{
	uint64_t key = get(at, 8), flags = get(at, 1), limit = get(at, 4), demand = get(at, 6);
	uint64_t lent = get(at, 6), kept = get(at, 6), excess = get(at, 6);
	struct key *k = share_find(s, key);
	bool held = flags & FLAG_HELD;
	struct pair *p;

	if (!limit || limit > LB_SHARE_LIMIT_MAX)
		return;
	if (!k) {
		k = share_add(s, key, held, (uint32_t)limit, now_us);
		s->strangers = s->strangers || held;
	}
	if (!k || k->held != held)
		return;
	/*
	 * Another limit is another configuration: it lends us nothing, and we lend it nothing. But
	 * where nobody asks for the key ours may be what it was long ago.
	 */
	if (k->limit.most != limit && !k->demand && !k->asked)
		share_set_limit(s, k, (uint32_t)limit, now_us);
	if (k->limit.most != limit)
		return;
	p = &k->pairs[node];
	p->demand = demand;
	p->wanted_us = now_us + m->loan_us;
	share_refill(s, k, now_us);
	/* From when we said what it had heard. To hear of nothing of us is to lend nothing. */
	if (lent || p->borrowed)
		p->borrowed_us = s->nodes[node].heard_us + m->loan_us;
	p->borrowed = s->nodes[node].heard_us ? lent : 0;
	if (held) {
		p->answer = flags & FLAG_ANSWER;
		share_held_heard(k, node, m->heard_us, kept, excess);
	}
	share_refill(s, k, now_us);
}

static uint32_t index_of(const struct lb_share *s, uint64_t id)
{
	const struct node *n = id ? share_node(s, id) : NULL;

	return n ? (uint32_t)(n - s->nodes) : s->nodes_count;
}

void lb_share_receive(struct lb_share *s, uint64_t id, const uint8_t *bytes, size_t len,
		      uint64_t now_us)
{
	uint32_t node = index_of(s, id);
	const uint8_t *at;
	struct message m;

	if (!read_message(&m, bytes, len)) {
		s->counts.malformed++;
		return;
	}
	if (node < s->nodes_count && m.session != s->nodes[node].session)
		new_life(s, node, m.session, now_us);
	if (node == s->nodes_count || m.stamp_us <= s->nodes[node].stamp_us) {
		s->counts.stale++;
		return;
	}
	s->counts.received++;
	s->nodes[node].stamp_us = m.stamp_us;
	s->nodes[node].size = m.size;
	/* Not beyond what we have said: that would be a loan from the future. */
	if (m.heard_session != s->params.session || m.heard_us > s->stamp_us)
		m.heard_us = 0;
	if (m.heard_us) {
		s->nodes[node].heard_us = larger(s->nodes[node].heard_us, m.heard_us);
		share_heard(s, node, m.heard_us, now_us);
	}
	at = m.entries;
	for (size_t i = 0; i < m.count; i++)
		read_entry(s, node, &m, &at, now_us);
}
