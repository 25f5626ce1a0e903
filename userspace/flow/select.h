/* SPDX-License-Identifier: MIT */
/*
 * Which backend gets the next flow of a rule. One per rule, shared by all workers: the shares are
 * exact over the whole process because all take turns at one table.
 *
 * Backends that are marked as backup get flows while no other one is eligible, and those that have
 * found every other one failing.
 */
#ifndef LB_FLOW_SELECT_H
#define LB_FLOW_SELECT_H

#include <stddef.h>

#include "backend/pool.h"
#include "config/config.h"

struct lb_select;

/* <pool> must outlive it. 0 or -errno. */
int lb_select_new(struct lb_select **ret, struct lb_pool *pool, enum lb_balance balance);
/* NULL is fine. No worker may use it any more. */
void lb_select_free(struct lb_select **sel);

/*
 * <b> may be picked from now on, or no more; the shares of the others are exact again at once. 0,
 * or -errno: then <b>'s share falls to its neighbours. One thread at a time, beside the workers.
 */
int lb_select_note(struct lb_select *sel, struct lb_backend *b, bool eligible);

/*
 * The next backend in turn that is not one of the <n> in <tried>; NULL when there is none. Bounded
 * by the number of backends, whatever their weights. Any worker.
 */
struct lb_backend *lb_select_pick(struct lb_select *sel, struct lb_backend *const *tried, size_t n);

#endif
