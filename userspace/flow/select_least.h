/* SPDX-License-Identifier: MIT */
/*
 * Who has the fewest connections for its weight: a binary heap over backends that is put in order
 * again whenever one's count changes, so the least is at hand at any time. Among equals the one
 * whose turn it is by weight is first, so that idle backends share alike.
 *
 * Knows no descriptor, no session, no clock. The owner's lock.
 */
#ifndef LB_FLOW_SELECT_LEAST_H
#define LB_FLOW_SELECT_LEAST_H

#include "backend/pool.h"

struct lb_least {
	struct lb_backend **at; /* room for all of the pool; owned by the caller */
	uint32_t count;
};

/* Takes in the <n> backends that are in l->at already. */
void lb_select_least_init(struct lb_least *l, uint32_t n);
/* NULL when there is none. */
struct lb_backend *lb_select_least_first(const struct lb_least *l);
/* <b>'s active or turn has changed; harmless when it is not one of them. */
void lb_select_least_moved(struct lb_least *l, struct lb_backend *b);
/* True when <a> has fewer for its weight, or as many and its turn is earlier. */
bool lb_select_least_before(const struct lb_backend *a, const struct lb_backend *b);

#endif
