/* SPDX-License-Identifier: MIT */
/*
 * Which backend gets the next flow of a rule. One per rule, shared by all workers.
 *
 *   weighted_round_robin  in turn; shares exact after every pick         select_round_robin.c
 *   least_connections     fewest connections for its weight              select_least.c
 *   random_two            the better of two taken by weight
 *   source_hash           a client's address has its place               select_maglev.c
 *
 * A backend is taken with the pick and counts as busy until it is released, so that no limit is
 * ever exceeded, whoever asks at the same time.
 *
 * Backends that are marked as backup get flows while no other one is eligible, and those flows that
 * have found every other one failing or full.
 */
#ifndef LB_FLOW_SELECT_H
#define LB_FLOW_SELECT_H

#include <stddef.h>

#include "backend/pool.h"
#include "config/config.h"

struct lb_select;

/* Who asks. */
struct lb_select_ask {
	uint64_t source;                 /* lb_hash() of the client's address */
	struct lb_backend *const *tried; /* these have failed it */
	size_t tried_count;
};

/* <pool> must outlive it. 0 or -errno. */
int lb_select_new(struct lb_select **ret, struct lb_pool *pool, enum lb_balance balance);
/* NULL is fine. No worker may use it any more. */
void lb_select_free(struct lb_select **sel);

/*
 * <b> may be picked from now on, or no more; the shares of the others are exact again at once. 0,
 * or -errno: then <b>'s share falls to its neighbours. One thread at a time, beside the workers.
 */
int lb_select_note(struct lb_select *sel, struct lb_backend *b, bool eligible);

/* The same for its share: <weight> in LB_WEIGHT_UNITs, at least 1. */
int lb_select_weigh(struct lb_select *sel, struct lb_backend *b, uint32_t weight);

/*
 * The next backend for <ask>, with one connection more; NULL when there is none for it. To be given
 * back with lb_select_release(). Bounded by the number of backends, whatever their weights. Any
 * thread.
 */
struct lb_backend *lb_select_take(struct lb_select *sel, const struct lb_select_ask *ask);
struct lb_waiter; /* flow/select_queue.h */

/*
 * <w>, with ask and door filled in, waits until a backend has room: it then comes to its door. 0,
 * or -ENOSPC when <max> wait already. The worker's thread.
 */
int lb_select_wait(struct lb_select *sel, struct lb_waiter *w, uint32_t max);
/*
 * Ends the waiting: the backend that was granted, taken for it, or NULL. The worker's thread; it
 * may have been granted at the last moment.
 */
struct lb_backend *lb_select_leave(struct lb_select *sel, struct lb_waiter *w);
/* How many wait. Any thread. */
uint32_t lb_select_waiting(struct lb_select *sel);

/* A connection that <b> has already, whatever its limit. Any thread. */
void lb_select_adopt(struct lb_select *sel, struct lb_backend *b);
/* It has ended. Any thread. */
void lb_select_release(struct lb_select *sel, struct lb_backend *b);

/* Whether <ask> gets none because one that it may have is full. Any thread. */
bool lb_select_is_full(struct lb_select *sel, const struct lb_select_ask *ask);

#endif
