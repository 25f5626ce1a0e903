/* SPDX-License-Identifier: MIT */
/*
 * Which backend gets the next flow of a rule. One per rule, shared by all workers: the shares are
 * exact over the whole process because the turn is one atomic counter.
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
 * The next backend in turn that is not one of the <n> in <tried>; NULL when there is none. Bounded
 * by the number of backends, whatever their weights. Any worker.
 */
struct lb_backend *lb_select_pick(struct lb_select *sel, struct lb_backend *const *tried, size_t n);

#endif
