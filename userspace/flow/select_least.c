/* SPDX-License-Identifier: MIT */
/* See select_least.h. */
#include "flow/select_least.h"

bool lb_select_least_before(const struct lb_backend *a, const struct lb_backend *b)
{
	uint64_t of_a = a->active * b->weight, of_b = b->active * a->weight;

	return of_a != of_b ? of_a < of_b : a->turn < b->turn;
}

static void put(struct lb_least *l, uint32_t i, struct lb_backend *b)
{
	l->at[i] = b;
	b->heap_at = i;
}

static void rise(struct lb_least *l, uint32_t i)
{
	struct lb_backend *b = l->at[i];

	while (i && lb_select_least_before(b, l->at[(i - 1) / 2])) {
		put(l, i, l->at[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	put(l, i, b);
}

static void sink(struct lb_least *l, uint32_t i)
{
	struct lb_backend *b = l->at[i];

	for (;;) {
		uint32_t child = 2 * i + 1;

		if (child >= l->count)
			break;
		if (child + 1 < l->count && lb_select_least_before(l->at[child + 1], l->at[child]))
			child++;
		if (!lb_select_least_before(l->at[child], b))
			break;
		put(l, i, l->at[child]);
		i = child;
	}
	put(l, i, b);
}

void lb_select_least_init(struct lb_least *l, uint32_t n)
{
	l->count = n;
	for (uint32_t i = 0; i < n; i++)
		l->at[i]->heap_at = i;
	for (uint32_t i = n / 2; i-- > 0;)
		sink(l, i);
}

struct lb_backend *lb_select_least_first(const struct lb_least *l)
{
	return l->count ? l->at[0] : NULL;
}

void lb_select_least_moved(struct lb_least *l, struct lb_backend *b)
{
	uint32_t i = b->heap_at;

	if (i >= l->count || l->at[i] != b)
		return;
	rise(l, i);
	sink(l, b->heap_at);
}
