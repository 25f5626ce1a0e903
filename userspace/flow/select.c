/* SPDX-License-Identifier: MIT */
/*
 * Decides which backend gets a flow. Must never look at a descriptor, a session or a clock.
 *
 * One lock per rule: a pick holds it for some ten nanoseconds, a change of the backends only to put
 * the new table in place.
 */
#include "flow/select.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "flow/select_round_robin.h"

struct lb_select {
	struct lb_pool *pool;
	pthread_mutex_t lock;
	/* Under the lock. */
	struct lb_round_robin *round_robin; /* of the tier in service */
	bool backup;                        /* .. which is that of the backup backends */
	uint64_t turn;
};

static bool is_eligible(const struct lb_backend *b)
{
	return __atomic_load_n(&b->eligible, __ATOMIC_RELAXED) && b->weight;
}

static bool is_backup(const struct lb_backend *b)
{
	return b->config && b->config->backup;
}

/* The table of the backends that are in service now. 0 or -errno. */
static int build(const struct lb_pool *pool, struct lb_round_robin **ret, bool *backup)
{
	LB_AUTO_FREE uint32_t *weights = calloc(pool->count + 1, sizeof(*weights));

	if (!weights)
		return -ENOMEM;
	*backup = true;
	for (uint32_t i = 0; i < pool->count; i++)
		if (is_eligible(&pool->backends[i]) && !is_backup(&pool->backends[i]))
			*backup = false;
	for (uint32_t i = 0; i < pool->count; i++) {
		const struct lb_backend *b = &pool->backends[i];

		if (is_eligible(b) && is_backup(b) == *backup)
			weights[i] = b->weight;
	}
	return lb_select_round_robin_new(ret, weights, pool->count);
}

int lb_select_new(struct lb_select **ret, struct lb_pool *pool, enum lb_balance balance)
{
	struct lb_select *sel = calloc(1, sizeof(*sel));
	int err;

	if (!sel)
		return -ENOMEM;
	/* The other methods of enum lb_balance are refused or announced by the configuration. */
	(void)balance;
	sel->pool = pool;
	err = build(pool, &sel->round_robin, &sel->backup);
	if (err) {
		free(sel);
		return err;
	}
	pthread_mutex_init(&sel->lock, NULL);
	*ret = sel;
	return 0;
}

void lb_select_free(struct lb_select **sel)
{
	if (!*sel)
		return;
	pthread_mutex_destroy(&(*sel)->lock);
	lb_select_round_robin_free(&(*sel)->round_robin);
	free(*sel);
	*sel = NULL;
}

int lb_select_note(struct lb_select *sel, struct lb_backend *b, bool eligible)
{
	struct lb_round_robin *fresh = NULL, *old;
	bool backup;
	int err;

	/* From here on it is not picked, or as the neighbour of one that fails. */
	__atomic_store_n(&b->eligible, eligible, __ATOMIC_RELAXED);
	err = build(sel->pool, &fresh, &backup);
	if (err)
		return err;
	pthread_mutex_lock(&sel->lock);
	old = sel->round_robin;
	sel->round_robin = fresh;
	sel->backup = backup;
	pthread_mutex_unlock(&sel->lock);
	lb_select_round_robin_free(&old);
	return 0;
}

static bool was_tried(const struct lb_backend *b, struct lb_backend *const *tried, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (tried[i] == b)
			return true;
	return false;
}

/* From <index> on, in the order of the list, at a bounded cost. NULL: none of that tier is left. */
static struct lb_backend *next_of(const struct lb_pool *pool, uint32_t index, bool backup,
				  struct lb_backend *const *tried, size_t n)
{
	for (uint32_t i = 0; i < pool->count; i++) {
		struct lb_backend *b = &pool->backends[(index + i) % pool->count];

		if (is_eligible(b) && is_backup(b) == backup && !was_tried(b, tried, n))
			return b;
	}
	return NULL;
}

struct lb_backend *lb_select_pick(struct lb_select *sel, struct lb_backend *const *tried, size_t n)
{
	struct lb_backend *b;
	uint32_t index;
	bool backup;

	pthread_mutex_lock(&sel->lock);
	index = lb_select_round_robin_pick(sel->round_robin, sel->turn++);
	backup = sel->backup;
	pthread_mutex_unlock(&sel->lock);
	if (index == LB_SELECT_NONE)
		return NULL;
	/* The turn's own pick first, then its neighbours: so the flows of a backend that fails are
	 * spread. When all of its tier have failed this client, the other one is asked. */
	b = next_of(sel->pool, index, backup, tried, n);
	return b ? b : next_of(sel->pool, index, !backup, tried, n);
}
