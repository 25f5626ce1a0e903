/* SPDX-License-Identifier: MIT */
/* Decides which backend gets a flow. Must never look at a descriptor, a session or a clock. */
#include "flow/select.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "flow/select_round_robin.h"

struct lb_select {
	struct lb_pool *pool;
	struct lb_round_robin *round_robin;
	uint64_t turn; /* atomic */
};

int lb_select_new(struct lb_select **ret, struct lb_pool *pool, enum lb_balance balance)
{
	LB_AUTO_FREE uint32_t *weights = calloc(pool->count + 1, sizeof(*weights));
	LB_AUTO(lb_select_free) struct lb_select *sel = calloc(1, sizeof(*sel));
	int err;

	if (!weights || !sel)
		return -ENOMEM;
	/* The other methods of enum lb_balance are refused or announced by the configuration. */
	(void)balance;
	sel->pool = pool;
	for (uint32_t i = 0; i < pool->count; i++)
		weights[i] = pool->backends[i].eligible ? pool->backends[i].weight : 0;
	err = lb_select_round_robin_new(&sel->round_robin, weights, pool->count);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(sel);
	return 0;
}

void lb_select_free(struct lb_select **sel)
{
	if (!*sel)
		return;
	lb_select_round_robin_free(&(*sel)->round_robin);
	free(*sel);
	*sel = NULL;
}

static bool was_tried(const struct lb_backend *b, struct lb_backend *const *tried, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (tried[i] == b)
			return true;
	return false;
}

struct lb_backend *lb_select_pick(struct lb_select *sel, struct lb_backend *const *tried, size_t n)
{
	uint64_t turn = __atomic_fetch_add(&sel->turn, 1, __ATOMIC_RELAXED);
	uint32_t index = lb_select_round_robin_pick(sel->round_robin, turn);
	struct lb_pool *pool = sel->pool;

	if (index == LB_SELECT_NONE)
		return NULL;
	/* The turn's own pick first, then its neighbours: the flows of a backend that fails are
	 * spread in the order of the list, at a bounded cost. */
	for (uint32_t i = 0; i < pool->count; i++) {
		struct lb_backend *b = &pool->backends[(index + i) % pool->count];

		if (b->eligible && b->weight && !was_tried(b, tried, n))
			return b;
	}
	return NULL;
}
