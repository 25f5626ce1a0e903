/* SPDX-License-Identifier: MIT */
/*
 * See sockmap_slots.h. Must never seat two pairs on one slot. The lock is taken twice in a flow's
 * life; finding a pair takes none: of a slot only its owner writes who sits there.
 */
#include "flow/sockmap_slots.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"

#define NOBODY UINT32_MAX

struct slot {
	uint32_t worker; /* atomic; NOBODY: it is free */
	struct lb_pair *pair;
};

struct lb_sockmap_slots {
	uint32_t count;
	struct slot *slots;
	pthread_mutex_t lock;
	/* Under the lock. */
	uint32_t free_count; /* atomic: read by reports */
	uint32_t *free;      /* a stack */
};

int lb_sockmap_slots_new(struct lb_sockmap_slots **ret, uint32_t count)
{
	LB_AUTO(lb_sockmap_slots_free)
	struct lb_sockmap_slots *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	s->free = calloc(count + 1, sizeof(*s->free));
	s->slots = calloc(count + 1, sizeof(*s->slots));
	if (!s->free || !s->slots)
		return -ENOMEM;
	s->count = s->free_count = count;
	/* Low numbers first: the tables stay compact for whoever dumps them. */
	for (uint32_t i = 0; i < count; i++) {
		s->free[i] = count - 1 - i;
		s->slots[i].worker = NOBODY;
	}
	*ret = LB_TAKE_PTR(s);
	return 0;
}

void lb_sockmap_slots_free(struct lb_sockmap_slots **ps)
{
	struct lb_sockmap_slots *s = *ps;

	if (!s)
		return;
	*ps = NULL;
	pthread_mutex_destroy(&s->lock);
	free(s->free);
	free(s->slots);
	free(s);
}

int lb_sockmap_slots_take(struct lb_sockmap_slots *s, uint32_t worker, struct lb_pair *p,
			  uint32_t *index)
{
	uint32_t number = NOBODY;

	pthread_mutex_lock(&s->lock);
	if (s->free_count) {
		number = s->free[s->free_count - 1];
		__atomic_store_n(&s->free_count, s->free_count - 1, __ATOMIC_RELAXED);
	}
	pthread_mutex_unlock(&s->lock);
	if (number == NOBODY)
		return -ENOSPC;
	s->slots[number].pair = p;
	__atomic_store_n(&s->slots[number].worker, worker, __ATOMIC_RELAXED);
	*index = number * 2;
	return 0;
}

void lb_sockmap_slots_put(struct lb_sockmap_slots *s, uint32_t index)
{
	uint32_t number = index / 2;

	s->slots[number].pair = NULL;
	__atomic_store_n(&s->slots[number].worker, NOBODY, __ATOMIC_RELAXED);
	pthread_mutex_lock(&s->lock);
	s->free[s->free_count] = number;
	__atomic_store_n(&s->free_count, s->free_count + 1, __ATOMIC_RELAXED);
	pthread_mutex_unlock(&s->lock);
}

uint32_t lb_sockmap_slots_used(const struct lb_sockmap_slots *s)
{
	return s->count - __atomic_load_n(&s->free_count, __ATOMIC_RELAXED);
}

uint32_t lb_sockmap_slots_count(const struct lb_sockmap_slots *s)
{
	return s->count;
}

struct lb_pair *lb_sockmap_slots_pair(const struct lb_sockmap_slots *s, uint32_t worker,
				      uint32_t index)
{
	uint32_t number = index / 2;

	if (number >= s->count ||
	    __atomic_load_n(&s->slots[number].worker, __ATOMIC_RELAXED) != worker)
		return NULL;
	return s->slots[number].pair;
}
