/* SPDX-License-Identifier: MIT */
/*
 * Which keys are taken up, and which nodes there are. See share.h. Must never forget a key that
 * owes anybody anything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "cluster/share_state.h"

/* Keys that are looked at to make room for another one. */
#define LOOKS    8u
#define ROOM_FEW 8u

/* --- keys ------------------------------------------------------------------------------------- */

static uint32_t *head_of(const struct lb_share *s, uint64_t key)
{
	return &s->heads[lb_hash_mix(key) % s->params.keys_max];
}

struct key *share_find(const struct lb_share *s, uint64_t key)
{
	uint32_t at = *head_of(s, key);

	while (at && s->keys[at - 1].key != key)
		at = s->keys[at - 1].next;
	return at ? &s->keys[at - 1] : NULL;
}

static void unlink_key(struct lb_share *s, const struct key *k)
{
	uint32_t *at = head_of(s, k->key);

	while (&s->keys[*at - 1] != k)
		at = &s->keys[*at - 1].next;
	*at = k->next;
}

/* Nobody would notice: its bucket is full, it owes nothing and nobody owes it. */
static bool idle(struct lb_share *s, struct key *k, uint64_t now_us)
{
	if (k->demand || k->asked)
		return false;
	share_refill(s, k, now_us);
	for (uint32_t i = 0; i < s->nodes_count; i++) {
		const struct pair *p = &k->pairs[i];

		if (p->feared || (p->borrowed && now_us < p->borrowed_us) || now_us < p->wanted_us)
			return false;
	}
	return k->held ? share_held_idle(s, k) : k->tokens == share_burst(k);
}

/* With room for its pairs, of no use to anybody. NULL: none. */
static struct key *place(struct lb_share *s, uint64_t now_us)
{
	struct key *k = &s->keys[s->keys_count];

	if (s->keys_count < s->params.keys_max) {
		k->pairs = calloc(s->pairs_room ? s->pairs_room : 1, sizeof(*k->pairs));
		if (!k->pairs)
			return NULL;
		s->keys_count++;
		return k;
	}
	for (uint32_t i = 0; i < LOOKS; i++) {
		k = &s->keys[s->next_key];
		s->next_key = s->next_key + 1 < s->params.keys_max ? s->next_key + 1 : 0;
		if (!idle(s, k, now_us))
			continue;
		unlink_key(s, k);
		memset(k->pairs, 0, s->pairs_room * sizeof(*k->pairs));
		return k;
	}
	return NULL;
}

struct key *share_add(struct lb_share *s, uint64_t key, bool held, uint32_t most, uint64_t now_us)
{
	struct key *k = place(s, now_us);
	uint32_t *head = head_of(s, key);

	if (!k)
		return NULL;
	*k = (struct key){
		.next = *head, .key = key, .held = held, .limit.most = most, .pairs = k->pairs};
	*head = (uint32_t)(k - s->keys) + 1;
	share_begin(s, k, now_us);
	return k;
}

/* --- nodes ------------------------------------------------------------------------------------ */

struct node *share_node(const struct lb_share *s, uint64_t id)
{
	for (uint32_t i = 0; i < s->nodes_count; i++)
		if (s->nodes[i].id == id)
			return &s->nodes[i];
	return NULL;
}

/* Each key has room for as many nodes. */
static int widen(struct lb_share *s, uint32_t room)
{
	for (uint32_t i = 0; i < s->keys_count; i++) {
		struct pair *wider = realloc(s->keys[i].pairs, room * sizeof(*wider));

		if (!wider)
			return -ENOMEM;
		memset(wider + s->pairs_room, 0, (room - s->pairs_room) * sizeof(*wider));
		s->keys[i].pairs = wider;
	}
	s->pairs_room = room;
	return 0;
}

/* NULL: none, *err says why. */
static struct node *new_node(struct lb_share *s, int *err)
{
	struct node *n = share_node(s, 0);

	if (n)
		return n;
	*err = s->nodes_count == s->params.nodes_max ? -ENOSPC : 0;
	if (!*err && s->nodes_count == s->pairs_room)
		*err = widen(s, s->pairs_room ? 2 * s->pairs_room : ROOM_FEW);
	return *err ? NULL : &s->nodes[s->nodes_count++];
}

int lb_share_join(struct lb_share *s, uint64_t id, uint64_t now_us)
{
	struct node *n = share_node(s, id);
	int err = 0;

	if (!n) {
		n = new_node(s, &err);
		if (!n)
			return err;
		share_resize(s, s->known + 1, now_us);
	}
	n->id = id;
	n->there = true;
	return 0;
}

void lb_share_silent(struct lb_share *s, uint64_t id)
{
	struct node *n = share_node(s, id);

	if (n)
		n->there = false;
}

void lb_share_leave(struct lb_share *s, uint64_t id, uint64_t now_us)
{
	struct node *n = share_node(s, id);
	uint32_t at;

	if (!n)
		return;
	at = (uint32_t)(n - s->nodes);
	for (uint32_t i = 0; i < s->keys_count; i++) {
		share_refill(s, &s->keys[i], now_us);
		s->keys[i].pairs[at] = (struct pair){};
	}
	*n = (struct node){};
	/* Who has not heard that it went may still spend what it had lent. */
	s->leaving++;
	s->left_us = now_us + share_loan_us(s);
}
