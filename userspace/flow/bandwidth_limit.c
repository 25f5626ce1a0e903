/* SPDX-License-Identifier: MIT */
/* See bandwidth_limit.h. Must never let two parties share a bucket, nor forgive a debt. */
#include "flow/bandwidth_limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "base/list.h"
#include "flow/client_table.h"

/* Looked at each time one comes: more than one leaves at a time. */
#define SWEPT_AT_ONCE 4

struct lb_bandwidth_party {
	struct lb_client client; /* in the table, when it is one */
	struct lb_addr addr;     /* of a backend */
	struct lb_list node;     /* among the backends; of a client without flows: in <idle> */
	uint32_t flows;
	uint32_t bucket[2]; /* by direction */
};

struct lb_bandwidth_limit {
	pthread_mutex_t lock;
	struct lb_buckets *buckets;
	uint64_t client_rate[2], backend_rate[2];
	struct lb_client_table clients;
	struct lb_list idle; /* clients that owe and have no flow, in no order */
	size_t idle_count;
	struct lb_list backends; /* never forgotten: as many as the configuration ever named */
};

bool lb_bandwidth_limit_is_set(const struct lb_bandwidth_limit_config *c)
{
	return c->enabled && (c->client.upload_per_sec || c->client.download_per_sec ||
			      c->backend.upload_per_sec || c->backend.download_per_sec);
}

uint32_t lb_bandwidth_limit_buckets(size_t backends)
{
	return 2 * ((uint32_t)backends + LB_BANDWIDTH_IDLE_MAX);
}

static void set_rates(struct lb_bandwidth_limit *l, const struct lb_bandwidth_limit_config *c)
{
	l->client_rate[0] = c->enabled ? c->client.upload_per_sec : 0;
	l->client_rate[1] = c->enabled ? c->client.download_per_sec : 0;
	l->backend_rate[0] = c->enabled ? c->backend.upload_per_sec : 0;
	l->backend_rate[1] = c->enabled ? c->backend.download_per_sec : 0;
}

static struct lb_bandwidth_party *party_of(struct lb_client *c)
{
	return lb_container_of(c, struct lb_bandwidth_party, client);
}

static void free_client(struct lb_client *c)
{
	free(party_of(c));
}

int lb_bandwidth_limit_new(struct lb_bandwidth_limit **ret, struct lb_buckets *buckets,
			   const struct lb_bandwidth_limit_config *config)
{
	LB_AUTO(lb_bandwidth_limit_free) struct lb_bandwidth_limit *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	l->buckets = buckets;
	lb_list_init(&l->idle);
	lb_list_init(&l->backends);
	set_rates(l, config);
	err = lb_client_table_init(&l->clients);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(l);
	return 0;
}

void lb_bandwidth_limit_free(struct lb_bandwidth_limit **pl)
{
	struct lb_bandwidth_limit *l = *pl;

	if (!l)
		return;
	*pl = NULL;
	lb_client_table_fini(&l->clients, free_client);
	while (!lb_list_empty(&l->backends)) {
		struct lb_list *node = l->backends.next;

		lb_list_remove(node);
		free(lb_container_of(node, struct lb_bandwidth_party, node));
	}
	pthread_mutex_destroy(&l->lock);
	free(l);
}

static struct lb_bucket *bucket_of(struct lb_bandwidth_limit *l, const struct lb_bandwidth_party *p,
				   unsigned int d)
{
	return lb_buckets_at(l->buckets, p->bucket[d]);
}

static bool owes(struct lb_bandwidth_limit *l, const struct lb_bandwidth_party *p, uint64_t now)
{
	return lb_bucket_owes(bucket_of(l, p, 0), now) || lb_bucket_owes(bucket_of(l, p, 1), now);
}

/* A client without flows. */
static void forget(struct lb_bandwidth_limit *l, struct lb_bandwidth_party *p)
{
	if (!lb_list_empty(&p->node))
		l->idle_count--;
	lb_list_remove(&p->node);
	lb_client_table_remove(&l->clients, &p->client);
	for (unsigned int d = 0; d < 2; d++)
		lb_buckets_put(l->buckets, p->bucket[d]);
	free(p);
}

static struct lb_bandwidth_party *first_idle(struct lb_bandwidth_limit *l)
{
	return lb_container_of(l->idle.next, struct lb_bandwidth_party, node);
}

/* Some of those who have paid. Who still owes goes to the end, and hides nobody for long. */
static void sweep(struct lb_bandwidth_limit *l, uint64_t now, size_t looks)
{
	for (; looks && l->idle_count; looks--) {
		struct lb_bandwidth_party *p = first_idle(l);

		if (!owes(l, p, now)) {
			forget(l, p);
			continue;
		}
		lb_list_remove(&p->node);
		lb_list_append(&l->idle, &p->node);
	}
}

/* With the buckets it needs, or NULL. */
static struct lb_bandwidth_party *party_new(struct lb_bandwidth_limit *l, const uint64_t rate[2],
					    int *err)
{
	struct lb_bandwidth_party *p = calloc(1, sizeof(*p));

	if (!p) {
		*err = -ENOMEM;
		return NULL;
	}
	lb_list_init(&p->node);
	for (unsigned int d = 0; d < 2; d++) {
		p->bucket[d] = lb_buckets_take(l->buckets);
		if (p->bucket[d] == LB_BUCKET_NONE && l->idle_count) {
			forget(l, first_idle(l));
			p->bucket[d] = lb_buckets_take(l->buckets);
		}
		if (p->bucket[d] == LB_BUCKET_NONE) {
			lb_buckets_put(l->buckets, p->bucket[0]);
			free(p);
			*err = -ENOSPC;
			return NULL;
		}
		lb_bucket_init(bucket_of(l, p, d), rate[d]);
	}
	return p;
}

static struct lb_bandwidth_party *enter_client(struct lb_bandwidth_limit *l,
					       const struct lb_addr *addr, int *err)
{
	struct lb_client *c = lb_client_table_find(&l->clients, addr);
	struct lb_bandwidth_party *p;

	if (!c) {
		p = party_new(l, l->client_rate, err);
		if (!p)
			return NULL;
		lb_client_table_add(&l->clients, &p->client, addr);
	} else {
		p = party_of(c);
		if (!p->flows) {
			lb_list_remove(&p->node);
			l->idle_count--;
		}
	}
	p->flows++;
	return p;
}

static void leave_client(struct lb_bandwidth_limit *l, struct lb_bandwidth_party *p, uint64_t now)
{
	if (--p->flows)
		return;
	if (!owes(l, p, now)) {
		forget(l, p);
		return;
	}
	if (l->idle_count == LB_BANDWIDTH_IDLE_MAX)
		forget(l, first_idle(l));
	lb_list_append(&l->idle, &p->node);
	l->idle_count++;
}

static struct lb_bandwidth_party *enter_backend(struct lb_bandwidth_limit *l,
						const struct lb_addr *addr, int *err)
{
	struct lb_bandwidth_party *p;

	lb_list_for_each (node, &l->backends) {
		p = lb_container_of(node, struct lb_bandwidth_party, node);
		if (lb_addr_equal(&p->addr, addr))
			return p;
	}
	p = party_new(l, l->backend_rate, err);
	if (!p)
		return NULL;
	p->addr = *addr;
	lb_list_append(&l->backends, &p->node);
	return p;
}

int lb_bandwidth_limit_enter(struct lb_bandwidth_limit *l, struct lb_bandwidth_share *share,
			     const struct lb_addr *client, const struct lb_addr *backend,
			     uint64_t now)
{
	struct lb_bandwidth_party *of[LB_BUDGET_BUCKETS] = {};
	int err = 0;

	pthread_mutex_lock(&l->lock);
	sweep(l, now, SWEPT_AT_ONCE);
	of[0] = enter_client(l, client, &err);
	of[1] = of[0] ? enter_backend(l, backend, &err) : NULL;
	if (of[0] && !of[1])
		leave_client(l, of[0], now);
	pthread_mutex_unlock(&l->lock);
	if (!of[0] || !of[1])
		return err;
	*share = (struct lb_bandwidth_share){.limit = l, .client = of[0], .backend = of[1]};
	for (unsigned int d = 0; d < 2; d++) {
		for (unsigned int i = 0; i < LB_BUDGET_BUCKETS; i++) {
			share->budget[d].index[i] = of[i]->bucket[d];
			share->budget[d].bucket[i] = bucket_of(l, of[i], d);
		}
	}
	return 0;
}

void lb_bandwidth_limit_leave(struct lb_bandwidth_share *share, uint64_t now)
{
	struct lb_bandwidth_limit *l = share->limit;

	for (unsigned int d = 0; d < 2; d++)
		lb_budget_return(&share->budget[d]);
	pthread_mutex_lock(&l->lock);
	leave_client(l, share->client, now);
	pthread_mutex_unlock(&l->lock);
}

struct change {
	struct lb_bandwidth_limit *l;
	uint64_t now;
};

static void change_client(struct lb_client *c, void *arg)
{
	const struct change *change = arg;

	for (unsigned int d = 0; d < 2; d++)
		lb_bucket_change(bucket_of(change->l, party_of(c), d), change->l->client_rate[d],
				 change->now);
}

void lb_bandwidth_limit_change(struct lb_bandwidth_limit *l,
			       const struct lb_bandwidth_limit_config *config, uint64_t now)
{
	struct change change = {.l = l, .now = now};

	pthread_mutex_lock(&l->lock);
	set_rates(l, config);
	lb_client_table_each(&l->clients, change_client, &change);
	lb_list_for_each (node, &l->backends)
		for (unsigned int d = 0; d < 2; d++)
			lb_bucket_change(
				bucket_of(l, lb_container_of(node, struct lb_bandwidth_party, node),
					  d),
				l->backend_rate[d], now);
	pthread_mutex_unlock(&l->lock);
}

size_t lb_bandwidth_limit_clients(struct lb_bandwidth_limit *l, uint64_t now)
{
	size_t n;

	pthread_mutex_lock(&l->lock);
	sweep(l, now, l->idle_count);
	n = l->clients.count;
	pthread_mutex_unlock(&l->lock);
	return n;
}
