/* SPDX-License-Identifier: MIT */
/*
 * Decides which backend gets a flow. Must never look at a descriptor, a session or a clock.
 *
 * One lock per rule makes the shares, the least and the limits exact over all workers: a pick holds
 * it for some ten nanoseconds, a change of the backends only to put new tables in place.
 */
#include "flow/select.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "flow/select_least.h"
#include "flow/select_maglev.h"
#include "flow/select_queue.h"
#include "flow/select_round_robin.h"

/* source_hash: so many other places a client has before it takes any. */
#define REHASHES 4
/* A turn of a backend of weight 1, in virtual time. */
#define TURN 65536u

/* Of the backends in service; what the method needs of it, the rest is NULL. */
struct tables {
	struct lb_round_robin *round_robin;
	struct lb_maglev *maglev;
	struct lb_backend **least;
	uint32_t least_count;
	bool backup; /* the tier in service is that of the backups */
};

struct lb_select {
	struct lb_pool *pool;
	enum lb_balance balance;
	pthread_mutex_t lock;
	/* Under the lock, and so is every backend's active, turn and heap_at. */
	struct tables tables;
	struct lb_least least;
	struct lb_select_queue queue;
	uint64_t turn;
	uint64_t clock; /* virtual time, see take_turn() */
	uint64_t random;
};

static bool is_eligible(const struct lb_backend *b)
{
	return __atomic_load_n(&b->eligible, __ATOMIC_RELAXED) && b->weight;
}

static bool is_backup(const struct lb_backend *b)
{
	return b->config && b->config->backup;
}

static bool has_room(const struct lb_backend *b)
{
	return !b->limit || b->active < b->limit;
}

/* --- tables ----------------------------------------------------------------------------------- */

static void tables_fini(struct tables *t)
{
	lb_select_round_robin_free(&t->round_robin);
	lb_select_maglev_free(&t->maglev);
	free(t->least);
	t->least = NULL;
}

static uint64_t id_of(const struct lb_backend *b)
{
	const char *name = b->config && b->config->addr ? b->config->addr : "";

	return lb_hash(name, strlen(name));
}

static int build_maglev(const struct lb_pool *pool, const uint32_t *weights, struct lb_maglev **ret)
{
	LB_AUTO_FREE uint64_t *ids = calloc(pool->count + 1, sizeof(*ids));

	if (!ids)
		return -ENOMEM;
	for (uint32_t i = 0; i < pool->count; i++)
		ids[i] = id_of(&pool->backends[i]);
	return lb_select_maglev_new(ret, ids, weights, pool->count);
}

static int build_least(const struct lb_pool *pool, const uint32_t *weights, struct tables *t)
{
	t->least = calloc(pool->count + 1, sizeof(struct lb_backend *));
	if (!t->least)
		return -ENOMEM;
	for (uint32_t i = 0; i < pool->count; i++)
		if (weights[i])
			t->least[t->least_count++] = &pool->backends[i];
	return 0;
}

/* 0, or -errno with nothing left to free. */
static int tables_init(struct tables *t, const struct lb_pool *pool, enum lb_balance balance)
{
	LB_AUTO_FREE uint32_t *weights = calloc(pool->count + 1, sizeof(*weights));
	int err;

	*t = (struct tables){.backup = true};
	if (!weights)
		return -ENOMEM;
	for (uint32_t i = 0; i < pool->count; i++)
		if (is_eligible(&pool->backends[i]) && !is_backup(&pool->backends[i]))
			t->backup = false;
	for (uint32_t i = 0; i < pool->count; i++) {
		const struct lb_backend *b = &pool->backends[i];

		if (is_eligible(b) && is_backup(b) == t->backup)
			weights[i] = b->weight;
	}
	if (balance == LB_BALANCE_SOURCE_HASH)
		err = build_maglev(pool, weights, &t->maglev);
	else if (balance == LB_BALANCE_LEAST_CONNECTIONS)
		err = build_least(pool, weights, t);
	else
		err = lb_select_round_robin_new(&t->round_robin, weights, pool->count);
	if (err)
		tables_fini(t);
	return err;
}

static void put_in_place(struct lb_select *sel, const struct tables *t)
{
	sel->tables = *t;
	sel->least.at = t->least;
	lb_select_least_init(&sel->least, t->least_count);
}

int lb_select_new(struct lb_select **ret, struct lb_pool *pool, enum lb_balance balance)
{
	LB_AUTO_FREE struct lb_select *sel = calloc(1, sizeof(*sel));
	struct tables t;
	int err;

	if (!sel)
		return -ENOMEM;
	err = tables_init(&t, pool, balance);
	if (err)
		return err;
	sel->pool = pool;
	sel->balance = balance;
	/* Several balancers must not make the same choices. */
	if (getrandom(&sel->random, sizeof(sel->random), 0) != sizeof(sel->random))
		sel->random = 0;
	sel->random |= 1; /* xorshift never leaves 0 */
	pthread_mutex_init(&sel->lock, NULL);
	lb_select_queue_init(&sel->queue);
	put_in_place(sel, &t);
	*ret = LB_TAKE_PTR(sel);
	return 0;
}

void lb_select_free(struct lb_select **sel)
{
	if (!*sel)
		return;
	pthread_mutex_destroy(&(*sel)->lock);
	tables_fini(&(*sel)->tables);
	free(*sel);
	*sel = NULL;
}

/* --- picks, all under the lock ---------------------------------------------------------------- */

/* Whom <ask> may have .. */
static bool is_for(const struct lb_backend *b, const struct lb_select_ask *ask)
{
	if (!is_eligible(b))
		return false;
	for (size_t i = 0; i < ask->tried_count; i++)
		if (ask->tried[i] == b)
			return false;
	return true;
}

/* .. at once. */
static bool is_free(const struct lb_backend *b, const struct lb_select_ask *ask)
{
	return has_room(b) && is_for(b, ask);
}

static struct lb_backend *backend_at(struct lb_select *sel, uint32_t index)
{
	return index == LB_SELECT_NONE ? NULL : &sel->pool->backends[index];
}

/* Both by weight; the one that is better off. */
static struct lb_backend *better_of_two(struct lb_select *sel)
{
	const struct lb_round_robin *rr = sel->tables.round_robin;
	struct lb_backend *a =
		backend_at(sel, lb_select_round_robin_pick(rr, lb_random_next(&sel->random)));
	struct lb_backend *b =
		backend_at(sel, lb_select_round_robin_pick(rr, lb_random_next(&sel->random)));

	return a && lb_select_least_before(b, a) ? b : a;
}

/* The method's own pick; for source_hash the client's place, or its <other>th other one. */
static struct lb_backend *first_choice(struct lb_select *sel, const struct lb_select_ask *ask,
				       uint64_t other)
{
	uint64_t place[2] = {ask->source, other};

	switch (sel->balance) {
	case LB_BALANCE_LEAST_CONNECTIONS:
		return lb_select_least_first(&sel->least);
	case LB_BALANCE_RANDOM_TWO:
		return better_of_two(sel);
	case LB_BALANCE_SOURCE_HASH:
		return backend_at(sel, lb_select_maglev_pick(sel->tables.maglev,
							     other ? lb_hash(place, sizeof(place))
								   : ask->source));
	case LB_BALANCE_WEIGHTED_ROUND_ROBIN:
		break;
	}
	return backend_at(sel, lb_select_round_robin_pick(sel->tables.round_robin, sel->turn));
}

/* The first one that is free, in the order of the list from <b> on. */
static struct lb_backend *neighbour(struct lb_select *sel, const struct lb_backend *b, bool backup,
				    const struct lb_select_ask *ask)
{
	struct lb_pool *pool = sel->pool;

	for (uint32_t i = 0; i < pool->count; i++) {
		struct lb_backend *next = &pool->backends[(b->index + i) % pool->count];

		if (is_backup(next) == backup && is_free(next, ask))
			return next;
	}
	return NULL;
}

/* Of all that are free. */
static struct lb_backend *least(struct lb_select *sel, bool backup, const struct lb_select_ask *ask)
{
	struct lb_backend *best = NULL;

	for (uint32_t i = 0; i < sel->pool->count; i++) {
		struct lb_backend *b = &sel->pool->backends[i];

		if (is_backup(b) == backup && is_free(b, ask) &&
		    (!best || lb_select_least_before(b, best)))
			best = b;
	}
	return best;
}

/* Where the method's own pick will not do: it was tried, or is full. Bounded by the pool. */
static struct lb_backend *second_choice(struct lb_select *sel, const struct lb_backend *first,
					bool backup, const struct lb_select_ask *ask)
{
	if (sel->balance == LB_BALANCE_LEAST_CONNECTIONS || sel->balance == LB_BALANCE_RANDOM_TWO)
		return least(sel, backup, ask);
	for (uint64_t other = 1; sel->balance == LB_BALANCE_SOURCE_HASH && other <= REHASHES;
	     other++) {
		struct lb_backend *b = first_choice(sel, ask, other);

		if (b && is_backup(b) == backup && is_free(b, ask))
			return b;
	}
	return neighbour(sel, first, backup, ask);
}

static struct lb_backend *pick(struct lb_select *sel, const struct lb_select_ask *ask)
{
	struct lb_backend *first = first_choice(sel, ask, 0), *b;

	if (!first || is_free(first, ask))
		return first;
	b = second_choice(sel, first, sel->tables.backup, ask);
	/* When all of its tier have failed this client, or are full, the other one is asked. */
	return b ? b : second_choice(sel, first, !sel->tables.backup, ask);
}

static void set_active(struct lb_select *sel, struct lb_backend *b, uint64_t active)
{
	/* Read by anybody without the lock. */
	__atomic_store_n(&b->active, active, __ATOMIC_RELAXED);
	lb_select_least_moved(&sel->least, b);
}

/*
 * Fair queueing in virtual time: the heavier a backend, the sooner its next turn. The clock stands
 * where the last turn was; one that was away does not catch up.
 */
static void take_turn(struct lb_select *sel, struct lb_backend *b)
{
	if (b->turn > sel->clock)
		sel->clock = b->turn;
	else
		b->turn = sel->clock;
	b->turn += TURN / b->weight;
}

static struct lb_backend *take(struct lb_select *sel, const struct lb_select_ask *ask)
{
	struct lb_backend *b = pick(sel, ask);

	sel->turn++;
	if (!b)
		return NULL;
	take_turn(sel, b);
	set_active(sel, b, b->active + 1);
	return b;
}

/*
 * There may be room again. Whoever has tried what is free stands aside; where one does not get
 * anything who would take everything, nobody does.
 */
static void serve_queue(struct lb_select *sel)
{
	struct lb_list *node = sel->queue.waiters.next, *next;

	for (; node != &sel->queue.waiters; node = next) {
		struct lb_waiter *w = lb_container_of(node, struct lb_waiter, node);

		next = node->next;
		w->backend = take(sel, &w->ask);
		if (!w->backend && !w->ask.tried_count)
			return;
		if (!w->backend)
			continue;
		lb_select_queue_remove(&sel->queue, w);
		w->state = LB_WAITER_GRANTED;
		lb_door_add(w->door, w);
	}
}

/* --- for everybody ---------------------------------------------------------------------------- */

static int rebuild(struct lb_select *sel)
{
	struct tables fresh, old;
	int err = tables_init(&fresh, sel->pool, sel->balance);

	if (err)
		return err;
	pthread_mutex_lock(&sel->lock);
	old = sel->tables;
	put_in_place(sel, &fresh);
	serve_queue(sel);
	pthread_mutex_unlock(&sel->lock);
	tables_fini(&old);
	return 0;
}

int lb_select_note(struct lb_select *sel, struct lb_backend *b, bool eligible)
{
	/* From here on it is not picked. */
	__atomic_store_n(&b->eligible, eligible, __ATOMIC_RELAXED);
	return rebuild(sel);
}

int lb_select_weigh(struct lb_select *sel, struct lb_backend *b, uint32_t weight)
{
	pthread_mutex_lock(&sel->lock);
	b->weight = weight;
	lb_select_least_moved(&sel->least, b);
	pthread_mutex_unlock(&sel->lock);
	return rebuild(sel);
}

struct lb_backend *lb_select_take(struct lb_select *sel, const struct lb_select_ask *ask)
{
	struct lb_backend *b;

	pthread_mutex_lock(&sel->lock);
	b = take(sel, ask);
	pthread_mutex_unlock(&sel->lock);
	return b;
}

int lb_select_wait(struct lb_select *sel, struct lb_waiter *w, uint32_t max)
{
	int r = -ENOSPC;

	pthread_mutex_lock(&sel->lock);
	if (sel->queue.count < max) {
		w->state = LB_WAITER_QUEUED;
		lb_select_queue_add(&sel->queue, w);
		/* Room may have come since it was asked for. */
		serve_queue(sel);
		r = 0;
	}
	pthread_mutex_unlock(&sel->lock);
	return r;
}

struct lb_backend *lb_select_leave(struct lb_select *sel, struct lb_waiter *w)
{
	struct lb_backend *b = NULL;

	pthread_mutex_lock(&sel->lock);
	if (w->state == LB_WAITER_QUEUED) {
		lb_select_queue_remove(&sel->queue, w);
	} else if (w->state == LB_WAITER_GRANTED) {
		lb_door_remove(w->door, w);
		b = w->backend;
	}
	w->state = LB_WAITER_OUT;
	pthread_mutex_unlock(&sel->lock);
	return b;
}

uint32_t lb_select_waiting(struct lb_select *sel)
{
	return __atomic_load_n(&sel->queue.count, __ATOMIC_RELAXED);
}

void lb_select_adopt(struct lb_select *sel, struct lb_backend *b)
{
	pthread_mutex_lock(&sel->lock);
	set_active(sel, b, b->active + 1);
	pthread_mutex_unlock(&sel->lock);
}

void lb_select_release(struct lb_select *sel, struct lb_backend *b)
{
	pthread_mutex_lock(&sel->lock);
	set_active(sel, b, b->active - 1);
	serve_queue(sel);
	pthread_mutex_unlock(&sel->lock);
}

bool lb_select_is_full(struct lb_select *sel, const struct lb_select_ask *ask)
{
	bool full = false;

	pthread_mutex_lock(&sel->lock);
	for (uint32_t i = 0; i < sel->pool->count && !full; i++)
		full = is_for(&sel->pool->backends[i], ask) && !has_room(&sel->pool->backends[i]);
	pthread_mutex_unlock(&sel->lock);
	return full;
}
