/* SPDX-License-Identifier: MIT */
/*
 * A cluster in one process: nodes with clocks of their own, and a network that loses, delays,
 * doubles and reorders datagrams, or is cut in two. All of it comes from one seed: a run is the
 * same each time.
 */
#ifndef LB_TESTS_CLUSTER_SIM_H
#define LB_TESTS_CLUSTER_SIM_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "cluster/member.h"

#define SIM_SECOND 1000000ull
#define SIM_START  1700000000000ull /* wall clock, ms */
#define SIM_PORT   7946

struct sim;

struct sim_node {
	struct sim *sim;
	uint32_t index;
	bool up;
	uint32_t group;  /* nodes of different groups do not reach each other */
	int64_t skew_us; /* its clock less the simulator's */
	uint64_t wake_us;
	uint64_t stopped_us; /* until then it does nothing, and what comes waits */
	uint64_t id;
	struct lb_addr addr;
	struct lb_membership *g;
	uint64_t sent, sent_bytes, bytes_max; /* of a datagram */
	uint32_t incarnations;                /* lives so far */
	void *user;
};

struct sim_event {
	uint64_t at_us, order;
	uint32_t node, from;
	size_t len; /* 0: the node wakes */
	uint8_t *bytes;
};

struct sim {
	uint32_t count;
	struct sim_node *nodes;
	uint64_t now_us, random, order;
	struct sim_event *heap;
	size_t heap_count, heap_room;
	/* The network. */
	uint32_t loss_permille, double_permille;
	uint64_t delay_us, jitter_us;
	/* What was seen. */
	uint64_t watched;    /* id */
	uint32_t known_dead; /* nodes that hold it dead */
	uint64_t false_deaths, suspicions, joins, datagrams;
	/* For tests that use sections. */
	void (*on_shares)(struct sim_node *n, uint64_t sender, const uint8_t *bytes, size_t len);
	void (*on_changed)(struct sim_node *n, uint64_t id, enum lb_member_event e);
};

static inline uint64_t sim_random(struct sim *s, uint64_t below)
{
	return lb_hash_mix(lb_random_next(&s->random)) % below;
}

/* --- events, a binary heap ------------------------------------------------------------------- */

static inline bool sim_before(const struct sim_event *a, const struct sim_event *b)
{
	return a->at_us != b->at_us ? a->at_us < b->at_us : a->order < b->order;
}

static inline void sim_push(struct sim *s, struct sim_event e)
{
	size_t i = s->heap_count++;

	if (i == s->heap_room) {
		s->heap_room = s->heap_room ? 2 * s->heap_room : 1024;
		s->heap = realloc(s->heap, s->heap_room * sizeof(*s->heap));
		assert_non_null(s->heap);
	}
	e.order = s->order++;
	for (; i && sim_before(&e, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
		s->heap[i] = s->heap[(i - 1) / 2];
	s->heap[i] = e;
}

static inline struct sim_event sim_pop(struct sim *s)
{
	struct sim_event first = s->heap[0], last = s->heap[--s->heap_count];
	size_t i = 0;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= s->heap_count)
			break;
		if (child + 1 < s->heap_count && sim_before(&s->heap[child + 1], &s->heap[child]))
			child++;
		if (!sim_before(&s->heap[child], &last))
			break;
		s->heap[i] = s->heap[child];
		i = child;
	}
	s->heap[i] = last;
	return first;
}

/* --- nodes ------------------------------------------------------------------------------------ */

static inline uint64_t sim_clock(const struct sim_node *n)
{
	return (uint64_t)((int64_t)(n->sim->now_us + 1000 * SIM_SECOND) + n->skew_us);
}

static inline void sim_deliver(struct sim *s, uint32_t from, uint32_t to, const uint8_t *bytes,
			       size_t len)
{
	struct sim_event e = {.node = to, .from = from, .len = len};

	e.at_us = s->now_us + s->delay_us + (s->jitter_us ? sim_random(s, s->jitter_us) : 0);
	e.bytes = malloc(len);
	assert_non_null(e.bytes);
	memcpy(e.bytes, bytes, len);
	s->datagrams++;
	sim_push(s, e);
}

static inline void sim_send(void *arg, const struct lb_addr *to, const uint8_t *bytes, size_t len)
{
	struct sim_node *n = arg;
	struct sim *s = n->sim;
	uint32_t index = ntohl(to->in4.sin_addr.s_addr) - 0x0a000001;

	n->sent++;
	n->sent_bytes += len;
	n->bytes_max = len > n->bytes_max ? len : n->bytes_max;
	if (index >= s->count || sim_random(s, 1000) < s->loss_permille)
		return;
	sim_deliver(s, n->index, index, bytes, len);
	if (sim_random(s, 1000) < s->double_permille)
		sim_deliver(s, n->index, index, bytes, len);
}

static inline void sim_changed(void *arg, const struct lb_member_view *m, enum lb_member_event e)
{
	struct sim_node *n = arg;
	struct sim *s = n->sim;
	const struct sim_node *of = &s->nodes[ntohl(m->addr->in4.sin_addr.s_addr) - 0x0a000001];

	if (s->on_changed)
		s->on_changed(n, m->id, e);
	s->joins += e == LB_MEMBER_JOINED;
	s->suspicions += e == LB_MEMBER_SUSPECTED;
	if (e != LB_MEMBER_DIED)
		return;
	s->known_dead += m->id == s->watched;
	s->false_deaths += of->up && of->group == n->group;
}

static inline void sim_shares(void *arg, uint64_t sender, const uint8_t *bytes, size_t len)
{
	struct sim_node *n = arg;

	if (n->sim->on_shares)
		n->sim->on_shares(n, sender, bytes, len);
}

/* A wake that is planned earlier stays; one that is overtaken is recognised by its time. */
static inline void sim_plan(struct sim_node *n)
{
	uint64_t due = lb_member_due(n->g) - sim_clock(n) + n->sim->now_us;

	if (n->wake_us > n->sim->now_us && n->wake_us <= due)
		return;
	n->wake_us = due;
	sim_push(n->sim, (struct sim_event){.at_us = due, .node = n->index});
}

static inline void sim_start(struct sim *s, uint32_t index, uint64_t incarnation)
{
	static const struct lb_member_ops ops = {sim_send, sim_changed, sim_shares};
	struct sim_node *n = &s->nodes[index];
	struct lb_addr peers[3];
	struct lb_member_params p = {
		.incarnation = incarnation,
		.seed = lb_hash_mix(s->random + index + 1) | 1,
		.period_ms = LB_MEMBER_PERIOD_MS,
		.members_max = s->count + 8,
		.ops = &ops,
		.arg = n,
	};

	*n = (struct sim_node){.sim = s,
			       .index = index,
			       .up = true,
			       .user = n->user,
			       .group = n->group,
			       .skew_us = n->skew_us,
			       .incarnations = n->incarnations + 1};
	n->addr.in4 = (struct sockaddr_in){.sin_family = AF_INET,
					   .sin_port = htons(SIM_PORT),
					   .sin_addr.s_addr = htonl(0x0a000001 + index)};
	p.self.addr = n->addr;
	snprintf(p.self.name, sizeof(p.self.name), "node-%u", index);
	snprintf(p.self.version, sizeof(p.self.version), "1.0");
	n->id = lb_wire_id(p.self.name);
	assert_int_equal(lb_member_new(&n->g, &p, sim_clock(n)), 0);
	for (uint32_t i = 0; i < LB_ARRAY_SIZE(peers); i++) {
		peers[i] = n->addr;
		peers[i].in4.sin_addr.s_addr = htonl(0x0a000001 + i % s->count);
	}
	assert_int_equal(lb_member_set_peers(n->g, peers, LB_ARRAY_SIZE(peers)), 0);
	sim_plan(n);
}

/* As kill -9 would. */
static inline void sim_kill(struct sim *s, uint32_t index)
{
	struct sim_node *n = &s->nodes[index];

	n->up = false;
	lb_member_free(&n->g);
}

static inline void sim_init(struct sim *s, uint32_t count, uint64_t seed)
{
	*s = (struct sim){.count = count, .random = seed, .delay_us = 200, .jitter_us = 800};
	s->nodes = calloc(count, sizeof(*s->nodes));
	assert_non_null(s->nodes);
	for (uint32_t i = 0; i < count; i++)
		sim_start(s, i, SIM_START);
}

static inline void sim_fini(struct sim *s)
{
	for (uint32_t i = 0; i < s->count; i++)
		lb_member_free(&s->nodes[i].g);
	while (s->heap_count)
		free(sim_pop(s).bytes);
	free(s->heap);
	free(s->nodes);
}

static inline void sim_happen(struct sim *s, struct sim_event *e)
{
	struct sim_node *n = &s->nodes[e->node];
	const struct sim_node *from = &s->nodes[e->from];

	if (!n->up || (!e->len && n->wake_us != e->at_us) || (e->len && from->group != n->group))
		return;
	if (n->stopped_us > s->now_us) {
		e->at_us = n->stopped_us;
		n->wake_us = e->len ? n->wake_us : e->at_us;
		sim_push(s, *e);
		e->bytes = NULL;
		return;
	}
	if (e->len)
		lb_member_receive(n->g, sim_clock(n), &from->addr, e->bytes, e->len);
	else
		lb_member_run(n->g, sim_clock(n));
	sim_plan(n);
}

static inline void sim_run(struct sim *s, uint64_t us)
{
	uint64_t end = s->now_us + us;

	while (s->heap_count && s->heap[0].at_us <= end) {
		struct sim_event e = sim_pop(s);

		s->now_us = e.at_us;
		sim_happen(s, &e);
		free(e.bytes);
	}
	s->now_us = end;
}

/* --- what a node believes --------------------------------------------------------------------- */

struct sim_look {
	uint64_t id;
	bool found;
	struct lb_member_view view;
};

static inline void sim_look_at(void *arg, const struct lb_member_view *m)
{
	struct sim_look *look = arg;

	if (m->id == look->id) {
		look->found = true;
		look->view = *m;
	}
}

/* -1: it knows no such node. */
static inline int sim_state(struct sim *s, uint32_t at, uint32_t of)
{
	struct sim_look look = {.id = s->nodes[of].id};

	lb_member_each(s->nodes[at].g, sim_look_at, &look);
	return look.found ? (int)look.view.state : -1;
}

/* Nodes that are up and count as many alive as <count>. */
static inline uint32_t sim_agree(struct sim *s, uint32_t count)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < s->count; i++)
		n += s->nodes[i].up && lb_member_alive(s->nodes[i].g) == count;
	return n;
}

/* Runs until all that are up count <count> alive; the time it took, or fails after <max_us>. */
static inline uint64_t sim_until(struct sim *s, uint32_t count, uint64_t max_us)
{
	uint64_t start = s->now_us;
	uint32_t up = 0;

	for (uint32_t i = 0; i < s->count; i++)
		up += s->nodes[i].up;
	while (sim_agree(s, count) != up) {
		if (s->now_us - start > max_us)
			fail_msg("%u of %u count %u alive after %llu ms", sim_agree(s, count), up,
				 count, (unsigned long long)(max_us / 1000));
		sim_run(s, SIM_SECOND / 10);
	}
	return s->now_us - start;
}

#endif
