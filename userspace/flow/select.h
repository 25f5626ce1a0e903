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
#include "cluster/limits.h"
#include "config/config.h"

struct lb_select;

/* Who asks. */
struct lb_select_ask {
	uint64_t source;       /* lb_hash() of the client's address */
	const uint64_t *tried; /* ids of those that have failed it */
	size_t tried_count;
};

/* <pool> must outlive it; its set is taken as it is. 0 or -errno. */
int lb_select_new(struct lb_select **ret, struct lb_pool *pool, enum lb_balance balance);
/* NULL is fine. No worker may use it any more. */
void lb_select_free(struct lb_select **sel);

/*
 * Changes of the backends, beside the workers; any thread but theirs, one change after the other.
 * The shares are exact again at once. A change takes as long as it takes to build the tables.
 */

/*
 * <backends> are the pool's set from now on. Each of them is held for it; those that were in it and
 * are not any more have LEFT: no new flow, and they live on for their holders. <balance>: the
 * method from now on. All or nothing: 0, or -errno with everything as it was.
 */
int lb_select_change(struct lb_select *sel, struct lb_backend *const *backends, uint32_t count,
		     enum lb_balance balance);
/*
 * <b> has <bit> (enum lb_backend_out), or has it no more. 0, or -errno: it counts all the same, but
 * the shares of the others are uneven.
 */
int lb_select_mark(struct lb_select *sel, struct lb_backend *b, uint8_t bit, bool on);
/* <b>'s share is <weight> LB_WEIGHT_UNITs, at least 1, for the moment. As lb_select_mark(). */
int lb_select_weigh(struct lb_select *sel, struct lb_backend *b, uint32_t weight);

/*
 * The limits of its backends are those of <limits>' nodes, for the rule <rule> of each of them,
 * from now on; NULL: of this node. One thread at a time. <limits> lives as long as it is told of.
 */
void lb_select_share(struct lb_select *sel, struct lb_limits *limits, const char *rule);

/*
 * The next backend for <ask>, with one connection more and held for it; NULL when there is none for
 * it. To be given back with lb_select_release(). Bounded by the number of backends, whatever their
 * weights. Any thread.
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

/* A connection that <b> has already, whatever its limit: held for it. Any thread. */
void lb_select_adopt(struct lb_select *sel, struct lb_backend *b);
/* It has ended. <b> may be gone when this returns. Any thread. */
void lb_select_release(struct lb_select *sel, struct lb_backend *b);

/* Whether <ask> gets none because one that it may have is full. Any thread. */
bool lb_select_is_full(struct lb_select *sel, const struct lb_select_ask *ask);

#endif
