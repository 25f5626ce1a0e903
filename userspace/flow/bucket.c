/* SPDX-License-Identifier: MIT */
/* See bucket.h and include/lb/bucket.h. Must never let a charge get lost. */
#include "flow/bucket.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"

#define SECOND_NS 1000000000ull

struct lb_buckets {
	pthread_mutex_t lock;
	struct lb_bucket *at;
	struct lb_bucket *own; /* what is to be freed */
	uint32_t count;
	uint32_t free_count;
	uint32_t *free; /* a stack */
};

static uint64_t load(const __u64 *v)
{
	return __atomic_load_n(v, __ATOMIC_RELAXED);
}

/* <tat>, or <now> when everything is paid for. */
static uint64_t tat_of(const struct lb_bucket *b, uint64_t now)
{
	uint64_t tat = load(&b->tat);

	return tat > now ? tat : now;
}

uint64_t lb_bucket_cost(uint64_t price, uint32_t bytes)
{
	return bytes * (price >> 32) + ((bytes * (price & 0xffffffff) + (1u << 31)) >> 32);
}

static uint64_t price_of(uint64_t rate)
{
	return rate ? ((SECOND_NS << 32) + rate / 2) / rate : 0;
}

void lb_bucket_init(struct lb_bucket *b, uint64_t rate)
{
	*b = (struct lb_bucket){
		.price = price_of(rate),
		.burst_ns = LB_BUCKET_BURST_NS,
		.rate = rate,
	};
}

void lb_bucket_change(struct lb_bucket *b, uint64_t rate, uint64_t now)
{
	uint64_t old = load(&b->price), price = price_of(rate), tat = load(&b->tat), next;

	if (rate == load(&b->rate))
		return;
	__atomic_store_n(&b->rate, rate, __ATOMIC_RELAXED);
	__atomic_store_n(&b->price, price, __ATOMIC_RELAXED);
	do {
		next = price ? tat : 0;
		if (price && price < old && tat > now)
			next = now + (uint64_t)((unsigned __int128)(tat - now) * price / old);
	} while (!__atomic_compare_exchange_n(&b->tat, &tat, next, false, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
	__atomic_fetch_add(&b->changes, 1, __ATOMIC_RELEASE);
}

uint64_t lb_bucket_credit(const struct lb_bucket *b, uint64_t now)
{
	uint64_t rate = load(&b->rate), owed = tat_of(b, now) - now;

	if (!rate)
		return UINT64_MAX;
	if (owed >= b->burst_ns)
		return 0;
	return (uint64_t)((unsigned __int128)(b->burst_ns - owed) * rate / SECOND_NS);
}

/* Returns what <tat> was. */
static uint64_t add(struct lb_bucket *b, uint64_t cost, uint64_t now)
{
	__u64 tat = load(&b->tat);

	if (tat < now)
		(void)__atomic_compare_exchange_n(&b->tat, &tat, now, false, __ATOMIC_RELAXED,
						  __ATOMIC_RELAXED);
	return __atomic_fetch_add(&b->tat, cost, __ATOMIC_RELAXED);
}

void lb_bucket_charge(struct lb_bucket *b, uint32_t bytes, uint64_t now)
{
	uint64_t price = load(&b->price);

	if (price)
		(void)add(b, lb_bucket_cost(price, bytes), now);
}

uint64_t lb_bucket_reserve(struct lb_bucket *b, uint32_t bytes, uint64_t now, uint64_t *price)
{
	uint64_t cost, end = 0;

	*price = load(&b->price);
	cost = lb_bucket_cost(*price, bytes);
	if (*price)
		end = add(b, cost, now) + cost;
	return end > b->burst_ns ? end - b->burst_ns : 0;
}

void lb_bucket_give_back(struct lb_bucket *b, uint32_t bytes, uint64_t price)
{
	uint64_t price_now = load(&b->price);
	uint64_t cost = lb_bucket_cost(price < price_now ? price : price_now, bytes);
	__u64 tat = load(&b->tat), next;

	/* Of a rate that was lifted and set anew meanwhile nothing is owed any more. */
	do {
		next = tat > cost ? tat - cost : 0;
	} while (!__atomic_compare_exchange_n(&b->tat, &tat, next, false, __ATOMIC_RELAXED,
					      __ATOMIC_RELAXED));
}

uint64_t lb_bucket_queue_ns(const struct lb_bucket *b, uint64_t now)
{
	uint64_t owed = tat_of(b, now) - now;

	return load(&b->price) && owed > b->burst_ns ? owed - b->burst_ns : 0;
}

bool lb_bucket_owes(const struct lb_bucket *b, uint64_t now)
{
	return load(&b->price) && load(&b->tat) > now;
}

/* --- the table -------------------------------------------------------------------------------- */

int lb_buckets_new(struct lb_buckets **ret, struct lb_bucket *memory, uint32_t count)
{
	LB_AUTO(lb_buckets_free) struct lb_buckets *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->lock, NULL);
	t->count = count;
	t->at = memory;
	if (!memory)
		t->at = t->own = aligned_alloc(sizeof(*t->own), count * sizeof(*t->own));
	t->free = calloc(count, sizeof(*t->free));
	if (!t->at || !t->free)
		return -ENOMEM;
	/* Low numbers first: the table stays compact for whoever dumps it. */
	for (uint32_t i = count; i-- > LB_BUCKET_NONE + 1;)
		t->free[t->free_count++] = i;
	*ret = LB_TAKE_PTR(t);
	return 0;
}

void lb_buckets_free(struct lb_buckets **pt)
{
	struct lb_buckets *t = *pt;

	if (!t)
		return;
	*pt = NULL;
	pthread_mutex_destroy(&t->lock);
	free(t->own);
	free(t->free);
	free(t);
}

uint32_t lb_buckets_take(struct lb_buckets *t)
{
	uint32_t index = LB_BUCKET_NONE;

	pthread_mutex_lock(&t->lock);
	if (t->free_count)
		index = t->free[--t->free_count];
	pthread_mutex_unlock(&t->lock);
	return index;
}

void lb_buckets_put(struct lb_buckets *t, uint32_t index)
{
	if (index == LB_BUCKET_NONE)
		return;
	pthread_mutex_lock(&t->lock);
	t->free[t->free_count++] = index;
	pthread_mutex_unlock(&t->lock);
}

struct lb_bucket *lb_buckets_at(struct lb_buckets *t, uint32_t index)
{
	return &t->at[index];
}

uint32_t lb_buckets_used(struct lb_buckets *t)
{
	uint32_t used;

	pthread_mutex_lock(&t->lock);
	used = t->count - 1 - t->free_count;
	pthread_mutex_unlock(&t->lock);
	return used;
}

uint32_t lb_buckets_max(const struct lb_buckets *t)
{
	return t->count - 1;
}
