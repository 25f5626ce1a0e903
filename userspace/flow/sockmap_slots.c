/* SPDX-License-Identifier: MIT */
/* See sockmap_slots.h. Must never seat two pairs on one slot. */
#include "flow/sockmap_slots.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

int lb_sockmap_slots_new(struct lb_sockmap_slots **ret, uint32_t first, uint32_t count)
{
	LB_AUTO(lb_sockmap_slots_free)
	struct lb_sockmap_slots *slots = calloc(1, sizeof(*slots));

	if (!slots)
		return -ENOMEM;
	slots->free = calloc(count + 1, sizeof(*slots->free));
	slots->pairs = calloc(count + 1, sizeof(struct lb_pair *));
	if (!slots->free || !slots->pairs)
		return -ENOMEM;
	slots->first = first;
	slots->count = slots->free_count = count;
	/* Low numbers first: the tables stay compact for whoever dumps them. */
	for (uint32_t i = 0; i < count; i++)
		slots->free[i] = count - 1 - i;
	*ret = LB_TAKE_PTR(slots);
	return 0;
}

void lb_sockmap_slots_free(struct lb_sockmap_slots **slots)
{
	if (!*slots)
		return;
	free((*slots)->free);
	free((*slots)->pairs);
	free(*slots);
	*slots = NULL;
}

int lb_sockmap_slots_take(struct lb_sockmap_slots *slots, struct lb_pair *p, uint32_t *index)
{
	uint32_t number;

	if (!slots->free_count)
		return -ENOSPC;
	number = slots->free[slots->free_count - 1];
	__atomic_store_n(&slots->free_count, slots->free_count - 1, __ATOMIC_RELAXED);
	slots->pairs[number] = p;
	*index = (slots->first + number) * 2;
	return 0;
}

void lb_sockmap_slots_put(struct lb_sockmap_slots *slots, uint32_t index)
{
	uint32_t number = index / 2 - slots->first;

	slots->pairs[number] = NULL;
	slots->free[slots->free_count] = number;
	__atomic_store_n(&slots->free_count, slots->free_count + 1, __ATOMIC_RELAXED);
}

uint32_t lb_sockmap_slots_used(const struct lb_sockmap_slots *slots)
{
	return slots->count - __atomic_load_n(&slots->free_count, __ATOMIC_RELAXED);
}

struct lb_pair *lb_sockmap_slots_pair(const struct lb_sockmap_slots *slots, uint32_t index)
{
	uint32_t number = index / 2 - slots->first;

	return number < slots->count ? slots->pairs[number] : NULL;
}
