/* SPDX-License-Identifier: MIT */
/*
 * Finding somebody, and comparing tables. A table is compared a page of ids at a time, which is
 * what fits into a datagram: who joins asks for page after page, later it is one page in ten
 * periods, with whom chance will have it. See member.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/member_state.h"

#define SYNC_PERIODS 10u
/* In one of so many times it is a configured peer nobody knows alive. */
#define PEER_ONE_IN 4u
/* Peers that are asked at a time while nobody is known. */
#define KNOCKS 2u

/* What this node says of itself, in front: the other one may not know it. */
static void begin_page(struct lb_membership *g, struct lb_wire_out *out,
		       const struct lb_wire_head *head, uint64_t their_incarnation)
{
	struct lb_wire_update u;

	lb_wire_begin(out, head);
	member_contradict(g, out, head->target, their_incarnation);
	member_update_of(g->self, true, &u);
	(void)lb_wire_add_update(out, &u);
}

/* Returns the last id the page speaks for. */
static uint64_t fill_page(const struct lb_membership *g, struct lb_wire_out *out, uint64_t first)
{
	for (uint32_t i = member_lower_bound(g, first); i < g->count; i++) {
		struct lb_wire_update u;

		if (g->sorted[i].m == g->self)
			continue;
		member_update_of(g->sorted[i].m, true, &u);
		if (!lb_wire_add_update(out, &u))
			return g->sorted[i].id - 1;
	}
	return UINT64_MAX;
}

static void ask(struct lb_membership *g, const struct lb_addr *to, uint64_t target)
{
	struct lb_wire_head head = {
		.kind = LB_WIRE_SYNC,
		.seq = g->seq++,
		.sender = g->self->id,
		.incarnation = g->self->incarnation,
		.target = target,
		.first = g->cursor,
		.last = UINT64_MAX,
	};
	struct lb_wire_out out;

	g->syncing = true;
	g->sync_seq = head.seq;
	g->sync_last = UINT64_MAX;
	begin_page(g, &out, &head, UINT64_MAX);
	/* Who does not know the members yet has nothing to say of them. */
	if (g->complete) {
		g->sync_last = fill_page(g, &out, g->cursor);
		lb_wire_set_last(&out, g->sync_last);
	}
	member_send(g, to, &out);
}

static bool is_there(const struct lb_membership *g, const struct member *m)
{
	return m->state == LB_MEMBER_ALIVE;
}

static bool known_alive(const struct lb_membership *g, const struct lb_addr *addr)
{
	for (uint32_t i = 0; i < g->count; i++)
		if (g->sorted[i].m->state <= LB_MEMBER_SUSPECT &&
		    lb_addr_equal(&g->sorted[i].m->addr, addr))
			return true;
	return false;
}

/* The next of the configured peers that is not known, this node itself among the known. */
static void ask_peer(struct lb_membership *g)
{
	for (size_t i = 0; i < g->peers_count; i++) {
		const struct lb_addr *peer = &g->peers[g->next_peer++ % g->peers_count];

		if (known_alive(g, peer))
			continue;
		ask(g, peer, 0);
		return;
	}
}

void member_sync_run(struct lb_membership *g)
{
	uint32_t periods = SYNC_PERIODS;
	struct member *m;

	if (g->now_us < g->sync_due_us)
		return;
	if (g->alive == 1) {
		for (uint32_t i = 0; i < KNOCKS && i < g->peers_count; i++)
			ask_peer(g);
		periods = 1;
	} else if (g->complete && member_random(g, PEER_ONE_IN) == 0) {
		ask_peer(g);
	} else {
		if (member_pick(g, &m, 1, is_there))
			ask(g, &m->addr, m->id);
		/* Where many join at once, one table that was seen whole is soon an old one. */
		periods = g->complete && !g->learned ? SYNC_PERIODS : 1;
		g->learned = false;
	}
	/* A tenth more or less, so that nodes that started together do not go on together. */
	g->sync_due_us = g->now_us + periods * g->period_us * (900 + member_random(g, 200)) / 1000;
}

void member_on_sync(struct lb_membership *g, const struct lb_addr *from,
		    const struct lb_wire_head *head)
{
	struct lb_wire_head reply = {
		.kind = LB_WIRE_SYNC_REPLY,
		.seq = head->seq,
		.sender = g->self->id,
		.incarnation = g->self->incarnation,
		.target = head->sender,
		.first = head->first,
		.last = UINT64_MAX,
	};
	struct lb_wire_out out;

	begin_page(g, &out, &reply, head->incarnation);
	lb_wire_set_last(&out, fill_page(g, &out, head->first));
	member_send(g, from, &out);
}

void member_on_sync_reply(struct lb_membership *g, const struct lb_addr *from,
			  const struct lb_wire_head *head)
{
	uint64_t last = head->last < g->sync_last ? head->last : g->sync_last;

	if (!g->syncing || head->seq != g->sync_seq || head->first != g->cursor)
		return;
	g->syncing = false;
	g->cursor = last + 1;
	if (!g->cursor)
		g->complete = true;
	else if (!g->complete)
		ask(g, from, head->sender);
}

int lb_member_set_peers(struct lb_membership *g, const struct lb_addr *peers, size_t count)
{
	struct lb_addr *copy = NULL;

	if (count) {
		copy = malloc(count * sizeof(*copy));
		if (!copy)
			return -ENOMEM;
		memcpy(copy, peers, count * sizeof(*copy));
	}
	free(g->peers);
	g->peers = copy;
	g->peers_count = count;
	g->next_peer = 0;
	return 0;
}
