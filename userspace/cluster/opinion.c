/* SPDX-License-Identifier: MIT */
/* See opinion.h. Must never say how a backend is, only whether others say the same. */
#include "cluster/opinion.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"

#define AGE_MS 10u

struct node {
	uint64_t id;
	char name[LB_WIRE_NAME_MAX];
};

struct rumour {
	uint64_t node; /* 0: none */
	uint64_t at_ms;
	bool good;
};

struct subject {
	uint64_t id, fresh_ms;
	uint32_t holders;
	struct rumour rumours[LB_OPINION_CHECKERS];
	/* This node's own last answer, and whether others are still to be told. */
	uint64_t noted_ms;
	bool good, untold;
};

struct lb_opinions {
	pthread_mutex_t lock; /* of all below */
	uint64_t self;
	size_t section_max;
	void (*heard)(void *arg);
	void *arg;
	struct node *nodes; /* the others */
	uint32_t nodes_count, nodes_room;
	struct subject *subjects; /* by id */
	uint32_t count, room;
	uint32_t next; /* to be told first */
};

int lb_opinions_new(struct lb_opinions **ret, uint64_t self, size_t section_max)
{
	struct lb_opinions *o;

	if (section_max < LB_OPINION_BYTES || section_max > LB_WIRE_PLAIN_MAX)
		return -EINVAL;
	o = calloc(1, sizeof(*o));
	if (!o)
		return -ENOMEM;
	pthread_mutex_init(&o->lock, NULL);
	o->self = self;
	o->section_max = section_max;
	*ret = o;
	return 0;
}

void lb_opinions_free(struct lb_opinions **po)
{
	struct lb_opinions *o = *po;

	if (!o)
		return;
	*po = NULL;
	pthread_mutex_destroy(&o->lock);
	free(o->nodes);
	free(o->subjects);
	free(o);
}

void lb_opinions_listen(struct lb_opinions *o, void (*heard)(void *arg), void *arg)
{
	pthread_mutex_lock(&o->lock);
	o->heard = heard;
	o->arg = arg;
	pthread_mutex_unlock(&o->lock);
}

/* --- nodes ------------------------------------------------------------------------------------ */

static struct node *find_node(struct lb_opinions *o, uint64_t id)
{
	for (uint32_t i = 0; i < o->nodes_count; i++)
		if (o->nodes[i].id == id)
			return &o->nodes[i];
	return NULL;
}

static bool are_few(const struct lb_opinions *o)
{
	return o->nodes_count && o->nodes_count < LB_OPINION_NODES;
}

static uint64_t liking(uint64_t subject, uint64_t node)
{
	return lb_hash_mix(subject ^ lb_hash_mix(node));
}

/* <node> is there. */
static bool is_checker(const struct lb_opinions *o, uint64_t subject, uint64_t node)
{
	uint64_t own = liking(subject, node);
	uint32_t before = node != o->self && liking(subject, o->self) > own;

	for (uint32_t i = 0; i < o->nodes_count && before < LB_OPINION_CHECKERS; i++)
		before += liking(subject, o->nodes[i].id) > own;
	return before < LB_OPINION_CHECKERS;
}

static int add_node(struct lb_opinions *o, uint64_t id, const char *name)
{
	if (o->nodes_count == o->nodes_room) {
		uint32_t room = o->nodes_room ? 2 * o->nodes_room : 16;
		struct node *more = reallocarray(o->nodes, room, sizeof(*more));

		if (!more)
			return -ENOMEM;
		o->nodes = more;
		o->nodes_room = room;
	}
	o->nodes[o->nodes_count].id = id;
	(void)snprintf(o->nodes[o->nodes_count++].name, LB_WIRE_NAME_MAX, "%s", name);
	return 0;
}

int lb_opinions_join(struct lb_opinions *o, uint64_t id, const char *name)
{
	int err = 0;

	pthread_mutex_lock(&o->lock);
	if (id != o->self && !find_node(o, id))
		err = add_node(o, id, name);
	pthread_mutex_unlock(&o->lock);
	return err;
}

void lb_opinions_leave(struct lb_opinions *o, uint64_t id)
{
	struct node *n;

	pthread_mutex_lock(&o->lock);
	n = find_node(o, id);
	if (n)
		*n = o->nodes[--o->nodes_count];
	pthread_mutex_unlock(&o->lock);
}

/* --- subjects --------------------------------------------------------------------------------- */

/* The first one that is not before <id>. */
static uint32_t place_of(const struct lb_opinions *o, uint64_t id)
{
	uint32_t from = 0, to = o->count;

	while (from < to) {
		uint32_t middle = (from + to) / 2;

		if (o->subjects[middle].id < id)
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

static struct subject *find(struct lb_opinions *o, uint64_t id)
{
	uint32_t i = place_of(o, id);

	return i < o->count && o->subjects[i].id == id ? &o->subjects[i] : NULL;
}

static struct subject *insert(struct lb_opinions *o, uint64_t id)
{
	uint32_t i = place_of(o, id);

	if (o->count == o->room) {
		uint32_t room = o->room ? 2 * o->room : 16;
		struct subject *more = reallocarray(o->subjects, room, sizeof(*more));

		if (!more)
			return NULL;
		o->subjects = more;
		o->room = room;
	}
	memmove(&o->subjects[i + 1], &o->subjects[i], (o->count - i) * sizeof(*o->subjects));
	o->count++;
	o->subjects[i] = (struct subject){.id = id};
	return &o->subjects[i];
}

int lb_opinions_watch(struct lb_opinions *o, uint64_t subject, uint64_t fresh_ms)
{
	struct subject *s;

	pthread_mutex_lock(&o->lock);
	s = find(o, subject);
	if (!s)
		s = insert(o, subject);
	if (s) {
		s->holders++;
		s->fresh_ms = fresh_ms;
	}
	pthread_mutex_unlock(&o->lock);
	return s ? 0 : -ENOMEM;
}

void lb_opinions_unwatch(struct lb_opinions *o, uint64_t subject)
{
	struct subject *s;

	pthread_mutex_lock(&o->lock);
	s = find(o, subject);
	if (s && !--s->holders) {
		memmove(s, s + 1, (size_t)(&o->subjects[--o->count] - s) * sizeof(*s));
	}
	pthread_mutex_unlock(&o->lock);
}

void lb_opinions_note(struct lb_opinions *o, uint64_t subject, bool good, uint64_t now_ms)
{
	struct subject *s;

	pthread_mutex_lock(&o->lock);
	s = find(o, subject);
	if (s) {
		s->good = good;
		s->noted_ms = now_ms;
		s->untold = true;
	}
	pthread_mutex_unlock(&o->lock);
}

static bool is_fresh(const struct subject *s, const struct rumour *r, uint64_t now_ms)
{
	return r->node && now_ms < r->at_ms + s->fresh_ms;
}

static bool vouch(struct lb_opinions *o, const struct subject *s, bool up, uint64_t now_ms,
		  struct lb_opinion *ret)
{
	const struct rumour *last = NULL;
	const struct node *n;

	if (!are_few(o) || is_checker(o, s->id, o->self))
		return false;
	for (unsigned int i = 0; i < LB_OPINION_CHECKERS; i++) {
		const struct rumour *r = &s->rumours[i];

		/* Whoever has gone, or checks no more, has nothing to say. */
		if (!is_fresh(s, r, now_ms) || !find_node(o, r->node) ||
		    !is_checker(o, s->id, r->node))
			continue;
		if (r->good != up)
			return false;
		if (!last || r->at_ms > last->at_ms)
			last = r;
	}
	n = last ? find_node(o, last->node) : NULL;
	if (!n)
		return false;
	ret->until_ms = last->at_ms + s->fresh_ms;
	memcpy(ret->node, n->name, sizeof(ret->node));
	return true;
}

bool lb_opinions_vouch(struct lb_opinions *o, uint64_t subject, bool up, uint64_t now_ms,
		       struct lb_opinion *ret)
{
	const struct subject *s;
	bool good;

	pthread_mutex_lock(&o->lock);
	s = find(o, subject);
	good = s && vouch(o, s, up, now_ms, ret);
	pthread_mutex_unlock(&o->lock);
	return good;
}

/* --- messages --------------------------------------------------------------------------------- */

static void put(uint8_t *at, uint64_t v, unsigned int bytes)
{
	while (bytes--) {
		at[bytes] = (uint8_t)v;
		v >>= 8;
	}
}

static uint64_t get(const uint8_t *at, unsigned int bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | *at++;
	return v;
}

/* Where what <node> says is kept: with its last word, or instead of who has nothing to say. */
static struct rumour *slot_of(struct lb_opinions *o, struct subject *s, uint64_t node)
{
	struct rumour *oldest = NULL;

	for (unsigned int i = 0; i < LB_OPINION_CHECKERS; i++) {
		struct rumour *r = &s->rumours[i];

		if (r->node == node)
			return r;
		if (!r->node || !find_node(o, r->node) || !is_checker(o, s->id, r->node))
			oldest = r;
	}
	return oldest;
}

/* Whether that is another word than the one before. */
static bool hear(struct lb_opinions *o, uint64_t node, const uint8_t *entry, uint64_t now_ms)
{
	struct subject *s = find(o, get(entry, 8));
	uint64_t age = get(&entry[9], 2) * AGE_MS;
	struct rumour *r, fresh = {.node = node, .good = entry[8] & 1};
	bool new;

	fresh.at_ms = now_ms > age ? now_ms - age : 0;
	if (!s || !is_checker(o, s->id, node))
		return false;
	r = slot_of(o, s, node);
	/* An older word that was late. */
	if (!r || (r->node == node && fresh.at_ms < r->at_ms))
		return false;
	new = r->node != node || r->good != fresh.good || !is_fresh(s, r, now_ms);
	*r = fresh;
	return new;
}

void lb_opinions_receive(struct lb_opinions *o, uint64_t id, const uint8_t *bytes, size_t len,
			 uint64_t now_ms)
{
	void (*heard)(void *arg) = NULL;
	bool any = false;

	if (len % LB_OPINION_BYTES)
		return;
	pthread_mutex_lock(&o->lock);
	if (are_few(o) && find_node(o, id))
		for (size_t at = 0; at < len; at += LB_OPINION_BYTES)
			any |= hear(o, id, bytes + at, now_ms);
	heard = any ? o->heard : NULL;
	pthread_mutex_unlock(&o->lock);
	if (heard)
		heard(o->arg);
}

/* What is new, beginning where the last message has ended. */
static size_t collect(struct lb_opinions *o, uint64_t now_ms, uint8_t *bytes)
{
	size_t len = 0;
	uint32_t i;

	for (i = 0; i < o->count && len + LB_OPINION_BYTES <= o->section_max; i++) {
		struct subject *s = &o->subjects[(o->next + i) % o->count];
		uint64_t age = (now_ms - s->noted_ms) / AGE_MS;

		if (!s->untold)
			continue;
		s->untold = false;
		if (!is_checker(o, s->id, o->self))
			continue;
		put(&bytes[len], s->id, 8);
		bytes[len + 8] = s->good;
		put(&bytes[len + 9], age < UINT16_MAX ? age : UINT16_MAX, 2);
		len += LB_OPINION_BYTES;
	}
	o->next = o->count ? (o->next + i) % o->count : 0;
	return len;
}

void lb_opinions_tick(struct lb_opinions *o, uint64_t now_ms,
		      void (*say)(void *arg, uint64_t id, const uint8_t *bytes, size_t len),
		      void *arg)
{
	uint8_t bytes[LB_WIRE_PLAIN_MAX];
	uint64_t to[LB_OPINION_NODES];
	uint32_t count = 0;
	size_t len = 0;

	pthread_mutex_lock(&o->lock);
	if (are_few(o)) {
		len = collect(o, now_ms, bytes);
		for (; count < o->nodes_count; count++)
			to[count] = o->nodes[count].id;
	}
	pthread_mutex_unlock(&o->lock);
	for (uint32_t i = 0; i < count && len; i++)
		say(arg, to[i], bytes, len);
}
