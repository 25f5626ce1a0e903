/* SPDX-License-Identifier: MIT */
/* See limits.h. */
#include "cluster/limits.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cluster/wire.h"

#define MILLION 1000000u

struct message {
	uint64_t node;
	size_t len;
	uint8_t bytes[LB_WIRE_PLAIN_MAX];
};

struct lb_limits {
	pthread_mutex_t lock; /* of all below but the messages */
	struct lb_share *share;
	struct lb_list holders;
	uint32_t size; /* atomic */
	/* The cluster's thread's: what the last tick has to say. */
	size_t messages_count;
	struct message messages[LB_SHARE_FANOUT];
};

/* --- asking ----------------------------------------------------------------------------------- */

static bool has_token(struct lb_limits *l, const struct lb_limits_ask *ask, uint64_t now_us,
		      uint64_t *until_us)
{
	enum lb_share_verdict verdict = lb_share_look(l->share, &ask->share, now_us, until_us);

	if (verdict != LB_SHARE_UNTRACKED || ask->has)
		return verdict != LB_SHARE_REFUSED;
	/* More is wanted than this node may give by itself. */
	*until_us = now_us + LB_SHARE_TICK_MS * 1000ull;
	if (!lb_share_track(l->share, &ask->share, now_us))
		return lb_share_look(l->share, &ask->share, now_us, until_us) == LB_SHARE_HAS;
	return false;
}

size_t lb_limits_take(struct lb_limits *l, const struct lb_limits_ask *asks, size_t count,
		      uint64_t now_us, uint64_t *until_us)
{
	size_t i = 0;

	pthread_mutex_lock(&l->lock);
	while (i < count && has_token(l, &asks[i], now_us, until_us))
		i++;
	for (size_t j = 0; i == count && j < count; j++)
		lb_share_spend(l->share, &asks[j].share);
	pthread_mutex_unlock(&l->lock);
	return i;
}

uint32_t lb_limits_size(const struct lb_limits *l)
{
	return __atomic_load_n(&l->size, __ATOMIC_RELAXED);
}

/* --- connections ------------------------------------------------------------------------------ */

static struct lb_limits_holder *holder_at(struct lb_list *node)
{
	return lb_container_of(node, struct lb_limits_holder, node);
}

void lb_limits_add_holder(struct lb_limits *l, struct lb_limits_holder *h)
{
	pthread_mutex_lock(&l->lock);
	lb_list_append(&l->holders, &h->node);
	pthread_mutex_unlock(&l->lock);
}

void lb_limits_remove_holder(struct lb_limits *l, struct lb_limits_holder *h)
{
	pthread_mutex_lock(&l->lock);
	lb_list_remove(&h->node);
	pthread_mutex_unlock(&l->lock);
}

/* A rule that was removed lives on beside a new one of its name while it has connections. */
static void use(void *arg, const struct lb_share_label *label, uint32_t max,
		struct lb_share_use *ret)
{
	struct lb_limits *l = arg;

	lb_list_for_each (node, &l->holders) {
		struct lb_limits_holder *h = holder_at(node);
		struct lb_share_use one = {};

		if ((uint8_t)h->kind != label->kind || strcmp(h->rule, label->rule) != 0)
			continue;
		h->use(h, label, max, &one);
		ret->most = one.most ? one.most : ret->most;
		ret->used += one.used;
		ret->wanted += one.wanted;
	}
}

uint32_t lb_limits_own(const struct lb_limits *l, uint32_t limit)
{
	return limit / lb_limits_size(l);
}

bool lb_limits_follow(struct lb_limits *l, const struct lb_share_ask *ask, bool near,
		      uint64_t now_us)
{
	uint32_t max;

	return lb_share_max(l->share, ask, now_us, &max) ||
	       (near && !lb_share_track(l->share, ask, now_us));
}

enum lb_limits_verdict
lb_limits_connect(struct lb_limits *l, const struct lb_share_ask *ask, uint64_t now_us,
		  enum lb_limits_verdict (*take)(void *arg, uint32_t max, bool shared), void *arg)
{
	uint32_t max = lb_limits_own(l, ask->limit.most);
	enum lb_limits_verdict v;
	bool shared;

	pthread_mutex_lock(&l->lock);
	shared = lb_share_max(l->share, ask, now_us, &max);
	v = take(arg, max, shared);
	if (v != LB_LIMITS_TAKEN && !shared) {
		shared = !lb_share_track(l->share, ask, now_us);
		/* What is left over when all have their parts may be this node's. */
		if (v == LB_LIMITS_REFUSED && lb_share_max(l->share, ask, now_us, &max))
			v = take(arg, max, true);
	}
	if (v == LB_LIMITS_REFUSED && shared)
		lb_share_want(l->share, ask);
	pthread_mutex_unlock(&l->lock);
	return v;
}

/* --- others ----------------------------------------------------------------------------------- */

static void unlock(struct lb_limits *l)
{
	__atomic_store_n(&l->size, lb_share_size(l->share), __ATOMIC_RELAXED);
	pthread_mutex_unlock(&l->lock);
}

int lb_limits_join(struct lb_limits *l, uint64_t id, uint64_t now_us)
{
	int err;

	pthread_mutex_lock(&l->lock);
	err = lb_share_join(l->share, id, now_us);
	unlock(l);
	return err;
}

void lb_limits_silent(struct lb_limits *l, uint64_t id)
{
	pthread_mutex_lock(&l->lock);
	lb_share_silent(l->share, id);
	unlock(l);
}

void lb_limits_leave(struct lb_limits *l, uint64_t id, uint64_t now_us)
{
	pthread_mutex_lock(&l->lock);
	lb_share_leave(l->share, id, now_us);
	unlock(l);
}

void lb_limits_receive(struct lb_limits *l, uint64_t id, const uint8_t *bytes, size_t len,
		       uint64_t now_us)
{
	pthread_mutex_lock(&l->lock);
	lb_share_receive(l->share, id, bytes, len, now_us);
	unlock(l);
}

static void keep(void *arg, uint64_t node, const uint8_t *bytes, size_t len)
{
	struct lb_limits *l = arg;
	struct message *m;

	if (l->messages_count == LB_ARRAY_SIZE(l->messages) || len > sizeof(m->bytes))
		return;
	m = &l->messages[l->messages_count++];
	m->node = node;
	m->len = len;
	memcpy(m->bytes, bytes, len);
}

void lb_limits_tick(struct lb_limits *l, uint64_t now_us,
		    void (*say)(void *arg, uint64_t id, const uint8_t *bytes, size_t len),
		    void *arg)
{
	l->messages_count = 0;
	pthread_mutex_lock(&l->lock);
	lb_list_for_each (node, &l->holders) {
		struct lb_limits_holder *h = holder_at(node);

		h->look(h, l, lb_share_has_strangers(l->share), now_us);
	}
	lb_share_tick(l->share, now_us);
	unlock(l);
	for (size_t i = 0; i < l->messages_count; i++)
		say(arg, l->messages[i].node, l->messages[i].bytes, l->messages[i].len);
}

/* --- life and reports ------------------------------------------------------------------------- */

int lb_limits_new(struct lb_limits **ret, const struct lb_limits_params *params, uint64_t now_us)
{
	LB_AUTO(lb_limits_free) struct lb_limits *l = calloc(1, sizeof(*l));
	const struct lb_share_params p = {
		.self = params->self,
		.session = params->session,
		.size_min = params->nodes_min,
		.nodes_max = params->nodes_max,
		.keys_max = LB_LIMITS_KEYS_MAX,
		.send = keep,
		.use = use,
		.arg = l,
		.section_max = params->section_max,
	};
	int err;

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	lb_list_init(&l->holders);
	err = lb_share_new(&l->share, &p, now_us);
	if (err)
		return err;
	l->size = lb_share_size(l->share);
	*ret = LB_TAKE_PTR(l);
	return 0;
}

void lb_limits_free(struct lb_limits **pl)
{
	struct lb_limits *l = *pl;

	if (!l)
		return;
	*pl = NULL;
	lb_share_free(&l->share);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

void lb_limits_look(struct lb_limits *l, uint64_t now_us, struct lb_limits_report *report,
		    void (*fn)(void *arg, const struct lb_share_view *view), void *arg)
{
	const struct lb_share_limit million = {.most = MILLION}, nothing = {};
	uint64_t bound;

	pthread_mutex_lock(&l->lock);
	report->counts = *lb_share_counts(l->share);
	report->size = lb_share_size(l->share);
	report->keys = lb_share_keys(l->share);
	report->excess = lb_share_bound(l->share, &nothing, 0);
	bound = lb_share_bound(l->share, &million, MILLION) - report->excess;
	report->excess_ppm = bound > MILLION ? bound - MILLION : 0;
	if (fn)
		lb_share_each(l->share, now_us, fn, arg);
	pthread_mutex_unlock(&l->lock);
}
