/* SPDX-License-Identifier: MIT */
/* The members by id, the order of probing, and the news of them. See member.h. */
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cluster/member_state.h"

#define ROOM_FEW 16u

uint32_t member_lower_bound(const struct lb_membership *g, uint64_t id)
{
	uint32_t low = 0, high = g->count;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (g->sorted[mid].id < id)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

struct member *member_find(const struct lb_membership *g, uint64_t id)
{
	uint32_t at = member_lower_bound(g, id);

	return at < g->count && g->sorted[at].id == id ? g->sorted[at].m : NULL;
}

static bool make_room(struct lb_membership *g)
{
	uint32_t room = g->room ? g->room * 2 : ROOM_FEW;
	struct member **order;
	struct slot *sorted;

	if (g->count < g->room)
		return true;
	sorted = reallocarray(g->sorted, room, sizeof(*sorted));
	if (!sorted)
		return false;
	g->sorted = sorted;
	order = reallocarray(g->order, room, sizeof(struct member *));
	if (!order)
		return false;
	g->order = order;
	g->room = room;
	return true;
}

static void place(struct lb_membership *g, struct member *m, uint32_t at)
{
	g->order[at] = m;
	m->place = at;
}

/* At a place by chance, as SWIM wants it: the last to join must not be the last to be probed. */
static void add_to_order(struct lb_membership *g, struct member *m)
{
	uint32_t at = (uint32_t)member_random(g, g->count);

	if (at < g->count - 1)
		place(g, g->order[at], g->count - 1);
	place(g, m, at);
}

struct member *member_add(struct lb_membership *g, uint64_t id, const char *name)
{
	size_t bytes = strlen(name) + 1;
	struct member *m;
	uint32_t at;

	if (g->count >= g->params.members_max || !make_room(g)) {
		g->counts.full++;
		return NULL;
	}
	m = calloc(1, sizeof(*m) + bytes);
	if (!m) {
		g->counts.full++;
		return NULL;
	}
	m->id = id;
	memcpy(m->name, name, bytes);
	m->since_us = g->now_us;
	lb_list_init(&m->node);
	lb_list_init(&m->fate);
	at = member_lower_bound(g, id);
	memmove(&g->sorted[at + 1], &g->sorted[at], (g->count - at) * sizeof(*g->sorted));
	g->sorted[at] = (struct slot){id, m};
	g->count++;
	add_to_order(g, m);
	return m;
}

static void untell(struct lb_membership *g, struct member *m)
{
	g->news_count -= m->news;
	m->news = false;
	lb_list_remove(&m->node);
}

void member_remove(struct lb_membership *g, struct member *m)
{
	uint32_t at = member_lower_bound(g, m->id);

	untell(g, m);
	lb_list_remove(&m->fate);
	g->count--;
	memmove(&g->sorted[at], &g->sorted[at + 1], (g->count - at) * sizeof(*g->sorted));
	if (m->place < g->count)
		place(g, g->order[g->count], m->place);
	free(m);
}

uint32_t member_pick(struct lb_membership *g, struct member **ret, uint32_t max,
		     bool (*fits)(const struct lb_membership *g, const struct member *m))
{
	uint32_t n = 0;

	for (uint32_t tries = 0; n < max && tries < 4 * max + 16; tries++) {
		struct member *m = g->order[member_random(g, g->count)];
		bool fresh = m != g->self && fits(g, m);

		for (uint32_t i = 0; i < n && fresh; i++)
			fresh = ret[i] != m;
		if (fresh)
			ret[n++] = m;
	}
	return n;
}

static void shuffle(struct lb_membership *g)
{
	for (uint32_t i = g->count; i > 1; i--) {
		uint32_t j = (uint32_t)member_random(g, i);
		struct member *m = g->order[i - 1];

		place(g, g->order[j], i - 1);
		place(g, m, j);
	}
	g->next = 0;
}

struct member *member_next(struct lb_membership *g)
{
	for (uint32_t i = 0; i < 2 * g->count; i++) {
		struct member *m;

		if (g->next >= g->count)
			shuffle(g);
		m = g->order[g->next++];
		if (m != g->self && m->state <= LB_MEMBER_SUSPECT)
			return m;
	}
	return NULL;
}

struct member *member_successor(const struct lb_membership *g)
{
	uint32_t at = member_lower_bound(g, g->self->id);

	for (uint32_t i = 1; i < g->count; i++) {
		struct member *m = g->sorted[(at + i) % g->count].m;

		if (m->state == LB_MEMBER_ALIVE)
			return m;
	}
	return NULL;
}

void member_update_of(const struct member *m, bool with_identity, struct lb_wire_update *u)
{
	u->id = m->id;
	u->incarnation = m->incarnation;
	u->state = (enum lb_member_state)m->state;
	u->accusers_count = m->accusers_count;
	memcpy(u->accusers, m->accusers, sizeof(u->accusers));
	u->has_identity = with_identity;
	if (!with_identity)
		return;
	u->identity.addr = m->addr;
	u->identity.config_hash = m->config_hash;
	memcpy(u->identity.version, m->version, sizeof(m->version));
	memcpy(u->identity.name, m->name, strlen(m->name) + 1);
}

/* 4 * log10(nodes + 1), rounded up by digits: each node that hears it tells it so often. */
static uint8_t tells(const struct lb_membership *g)
{
	uint8_t n = 4;

	for (uint32_t power = 10; power <= g->alive && n < TELLS_MAX; power *= 10)
		n += 4;
	return n;
}

static void queue(struct lb_membership *g, struct member *m, uint8_t told)
{
	m->told = told;
	m->news = true;
	lb_list_append(&g->news[told], &m->node);
	g->news_count++;
}

void member_tell(struct lb_membership *g, struct member *m)
{
	untell(g, m);
	queue(g, m, 0);
}

/* What has been told least comes first; nothing twice in one datagram. */
void member_fill(struct lb_membership *g, struct lb_wire_out *out)
{
	uint8_t enough = tells(g);
	struct lb_list told;
	bool room = true;

	if (!g->news_count)
		return;
	lb_list_init(&told);
	for (uint32_t n = 0; n < TELLS_MAX && room; n++) {
		while (!lb_list_empty(&g->news[n])) {
			struct member *m = lb_container_of(g->news[n].next, struct member, node);
			struct lb_wire_update u;

			member_update_of(m, m->state == LB_MEMBER_ALIVE, &u);
			room = lb_wire_add_update(out, &u);
			if (!room)
				break;
			untell(g, m);
			lb_list_append(&told, &m->node);
		}
	}
	while (!lb_list_empty(&told)) {
		struct member *m = lb_container_of(told.next, struct member, node);

		lb_list_remove(&m->node);
		if (m->told + 1 < enough)
			queue(g, m, m->told + 1);
	}
}
