/* SPDX-License-Identifier: MIT */
/*
 * Decides which backend gets a flow. Must never look at a descriptor, a session or a clock.
 *
 * One lock per rule, its pool's, makes the shares, the least and the limits exact over all workers:
 * a pick holds it for some ten nanoseconds, a change of the backends only to put the set and its
 * tables in place. The tables name backends by their index in the set: both change together.
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
#include "flow/select_parts.h"
#include "flow/select_queue.h"
#include "flow/select_round_robin.h"
#include "flow/select_tables.h"

/* source_hash: so many other places a client has before it takes any. */
#define REHASHES 4
/* A turn of a backend of weight 1, in virtual time. */
#define TURN 65536u

static bool is_eligible(const struct lb_backend *b)
{
	return lb_backend_is_eligible(b) && b->weight;
}

static uint32_t limit_of(const struct lb_select *sel, const struct lb_backend *b)
{
	if (!sel->limits)
		return b->limit;
	return b->shared ? b->share : lb_limits_own(sel->limits, b->limit);
}

static bool has_room(const struct lb_select *sel, const struct lb_backend *b)
{
	return !b->limit || b->active < limit_of(sel, b);
}

static void put_in_place(struct lb_select *sel, const struct lb_select_tables *t)
{
	sel->tables = *t;
	sel->least.at = t->least;
	lb_select_least_init(&sel->least, t->least_count);
}

int lb_select_new(struct lb_select **ret, struct lb_pool *pool, enum lb_balance balance)
{
	LB_AUTO_FREE struct lb_select *sel = calloc(1, sizeof(*sel));
	struct lb_select_tables t;
	int err;

	if (!sel)
		return -ENOMEM;
	err = lb_select_tables_init(&t, (struct lb_select_set){pool->backends, pool->count},
				    balance);
	if (err)
		return err;
	sel->pool = pool;
	sel->balance = balance;
	/* Several balancers must not make the same choices. */
	if (getrandom(&sel->random, sizeof(sel->random), 0) != sizeof(sel->random))
		sel->random = 0;
	sel->random |= 1; /* xorshift never leaves 0 */
	pthread_mutex_init(&sel->changing, NULL);
	lb_select_queue_init(&sel->queue);
	put_in_place(sel, &t);
	*ret = LB_TAKE_PTR(sel);
	return 0;
}

void lb_select_free(struct lb_select **sel)
{
	if (!*sel)
		return;
	lb_select_share(*sel, NULL, NULL);
	pthread_mutex_destroy(&(*sel)->changing);
	lb_select_tables_fini(&(*sel)->tables);
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
		if (ask->tried[i] == b->id)
			return false;
	return true;
}

/* .. at once. */
static bool is_free(const struct lb_select *sel, const struct lb_backend *b,
		    const struct lb_select_ask *ask)
{
	return has_room(sel, b) && is_for(b, ask);
}

static struct lb_backend *backend_at(struct lb_select *sel, uint32_t index)
{
	return index == LB_SELECT_NONE ? NULL : sel->pool->backends[index];
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
		struct lb_backend *next = pool->backends[(b->index + i) % pool->count];

		if (next->backup == backup && is_free(sel, next, ask))
			return next;
	}
	return NULL;
}

/* The free one that <ask>'s client likes best, by a hash of both: on each node the same. */
static struct lb_backend *favourite(struct lb_select *sel, bool backup,
				    const struct lb_select_ask *ask)
{
	struct lb_backend *best = NULL;
	uint64_t most = 0;

	for (uint32_t i = 0; i < sel->pool->count; i++) {
		struct lb_backend *b = sel->pool->backends[i];
		uint64_t liking = lb_hash_mix(ask->source ^ b->place);

		if (b->backup == backup && is_free(sel, b, ask) && (!best || liking > most)) {
			best = b;
			most = liking;
		}
	}
	return best;
}

/* Of all that are free. */
static struct lb_backend *least(struct lb_select *sel, bool backup, const struct lb_select_ask *ask)
{
	struct lb_backend *best = NULL;

	for (uint32_t i = 0; i < sel->pool->count; i++) {
		struct lb_backend *b = sel->pool->backends[i];

		if (b->backup == backup && is_free(sel, b, ask) &&
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
	if (sel->balance != LB_BALANCE_SOURCE_HASH)
		return neighbour(sel, first, backup, ask);
	for (uint64_t other = 1; other <= REHASHES; other++) {
		struct lb_backend *b = first_choice(sel, ask, other);

		if (b && b->backup == backup && is_free(sel, b, ask))
			return b;
	}
	return favourite(sel, backup, ask);
}

static struct lb_backend *pick(struct lb_select *sel, const struct lb_select_ask *ask)
{
	struct lb_backend *first = first_choice(sel, ask, 0), *b;

	if (!first || is_free(sel, first, ask))
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
	b->holders++;
	set_active(sel, b, b->active + 1);
	return b;
}

/*
 * There may be room again. Whoever has tried what is free stands aside; where one does not get
 * anything who would take everything, nobody does.
 */
void select_serve_queue(struct lb_select *sel)
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

/* Under <changing>. */
static int rebuild(struct lb_select *sel)
{
	struct lb_select_tables fresh, old;
	struct lb_select_set set = {sel->pool->backends, sel->pool->count};
	int err = lb_select_tables_init(&fresh, set, sel->balance);

	if (err)
		return err;
	select_lock(sel);
	old = sel->tables;
	put_in_place(sel, &fresh);
	select_serve_queue(sel);
	select_unlock(sel);
	lb_select_tables_fini(&old);
	return 0;
}

int lb_select_mark(struct lb_select *sel, struct lb_backend *b, uint8_t bit, bool on)
{
	int err;

	pthread_mutex_lock(&sel->changing);
	/* From here on it is not picked. */
	if (on)
		__atomic_fetch_or(&b->out, bit, __ATOMIC_RELAXED);
	else
		__atomic_fetch_and(&b->out, (uint8_t)~bit, __ATOMIC_RELAXED);
	err = rebuild(sel);
	pthread_mutex_unlock(&sel->changing);
	return err;
}

int lb_select_weigh(struct lb_select *sel, struct lb_backend *b, uint32_t weight)
{
	int err;

	pthread_mutex_lock(&sel->changing);
	select_lock(sel);
	b->weight = weight;
	lb_select_least_moved(&sel->least, b);
	select_unlock(sel);
	err = rebuild(sel);
	pthread_mutex_unlock(&sel->changing);
	return err;
}

static bool is_in(const struct lb_select_set *set, const struct lb_backend *b)
{
	return b->index < set->count && set->at[b->index] == b;
}

/* Under both locks: <fresh> takes the place of the set, which is left in <old>. */
static void exchange(struct lb_pool *pool, struct lb_select_set *old, struct lb_backend **fresh,
		     uint32_t count)
{
	*old = (struct lb_select_set){pool->backends, pool->count};
	pool->backends = fresh;
	pool->count = count;
	for (uint32_t i = 0; i < count; i++) {
		struct lb_backend *b = fresh[i];

		b->index = i;
		b->holders++;
		lb_list_remove(&b->node); /* of those that left */
		__atomic_fetch_and(&b->out, (uint8_t)~LB_BACKEND_LEFT, __ATOMIC_RELAXED);
	}
	for (uint32_t i = 0; i < old->count; i++) {
		struct lb_backend *b = old->at[i];

		if (is_in(&(struct lb_select_set){fresh, count}, b))
			continue;
		__atomic_fetch_or(&b->out, LB_BACKEND_LEFT, __ATOMIC_RELAXED);
		lb_list_append(&pool->left, &b->node);
	}
}

/* The set's hold on those that were in it. */
static void let_go(struct lb_select *sel, struct lb_select_set old)
{
	for (uint32_t i = 0; i < old.count; i++) {
		struct lb_backend *b = old.at[i];

		lb_pool_put(&b);
	}
	free((void *)old.at);
}

static int change(struct lb_select *sel, struct lb_backend *const *backends, uint32_t count,
		  enum lb_balance balance)
{
	LB_AUTO_FREE struct lb_backend **fresh = calloc(count + 1, sizeof(struct lb_backend *));
	struct lb_select_tables tables, old_tables;
	struct lb_select_set old;
	int err;

	if (!fresh)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++)
		fresh[i] = backends[i];
	err = lb_select_tables_init(&tables, (struct lb_select_set){fresh, count}, balance);
	if (err)
		return err;
	select_lock(sel);
	exchange(sel->pool, &old, LB_TAKE_PTR(fresh), count);
	sel->balance = balance;
	old_tables = sel->tables;
	put_in_place(sel, &tables);
	select_serve_queue(sel);
	select_unlock(sel);
	lb_select_tables_fini(&old_tables);
	let_go(sel, old);
	return 0;
}

int lb_select_change(struct lb_select *sel, struct lb_backend *const *backends, uint32_t count,
		     enum lb_balance balance)
{
	int err;

	pthread_mutex_lock(&sel->changing);
	err = change(sel, backends, count, balance);
	pthread_mutex_unlock(&sel->changing);
	return err;
}

struct lb_backend *lb_select_take(struct lb_select *sel, const struct lb_select_ask *ask)
{
	struct lb_backend *b;

	select_lock(sel);
	b = take(sel, ask);
	select_unlock(sel);
	return b;
}

int lb_select_wait(struct lb_select *sel, struct lb_waiter *w, uint32_t max)
{
	int r = -ENOSPC;

	select_lock(sel);
	if (sel->queue.count < max) {
		w->state = LB_WAITER_QUEUED;
		lb_select_queue_add(&sel->queue, w);
		/* Room may have come since it was asked for. */
		select_serve_queue(sel);
		r = 0;
	}
	select_unlock(sel);
	return r;
}

struct lb_backend *lb_select_leave(struct lb_select *sel, struct lb_waiter *w)
{
	struct lb_backend *b = NULL;

	select_lock(sel);
	if (w->state == LB_WAITER_QUEUED) {
		lb_select_queue_remove(&sel->queue, w);
	} else if (w->state == LB_WAITER_GRANTED) {
		lb_door_remove(w->door, w);
		b = w->backend;
	}
	w->state = LB_WAITER_OUT;
	select_unlock(sel);
	return b;
}

uint32_t lb_select_waiting(struct lb_select *sel)
{
	return __atomic_load_n(&sel->queue.count, __ATOMIC_RELAXED);
}

void lb_select_adopt(struct lb_select *sel, struct lb_backend *b)
{
	select_lock(sel);
	b->holders++;
	set_active(sel, b, b->active + 1);
	select_unlock(sel);
}

void lb_select_release(struct lb_select *sel, struct lb_backend *b)
{
	bool last;

	select_lock(sel);
	set_active(sel, b, b->active - 1);
	last = lb_pool_put_locked(b);
	select_serve_queue(sel);
	select_unlock(sel);
	if (last)
		lb_pool_bury(b);
}

bool lb_select_is_full(struct lb_select *sel, const struct lb_select_ask *ask)
{
	bool full = false;

	select_lock(sel);
	for (uint32_t i = 0; i < sel->pool->count && !full; i++)
		full = is_for(sel->pool->backends[i], ask) &&
		       !has_room(sel, sel->pool->backends[i]);
	sel->pressed += full;
	select_unlock(sel);
	return full;
}
