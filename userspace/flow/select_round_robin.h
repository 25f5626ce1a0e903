/* SPDX-License-Identifier: MIT */
/*
 * Weighted round robin as a table: one full cycle of picks, computed once, read by all workers.
 *
 * With weights w_i and W = sum(w_i), after any t picks backend i has been picked within 1 of its
 * exact share t * w_i / W. This is smoother than the usual greedy "current weight" method, whose
 * deviation grows with the number of backends. Idea: P-fair scheduling on one processor (Baruah et
 * al., "Proportionate Progress", 1996): pick k of backend i belongs into the window
 * [floor(k W / w_i), ceil((k + 1) W / w_i)), earliest deadline first.
 *
 * Pure: no descriptors, no clock, no session.
 */
#ifndef LB_FLOW_SELECT_ROUND_ROBIN_H
#define LB_FLOW_SELECT_ROUND_ROBIN_H

#include <stddef.h>
#include <stdint.h>

struct lb_round_robin;

/* Answer of a pick when every weight is 0. */
#define LB_SELECT_NONE UINT32_MAX

/*
 * <weights>: 0 takes a backend out, at most 65536 otherwise. 0 with *ret to be freed, or -ENOMEM,
 * or -E2BIG when the cycle would be longer than 2^24 picks. Cost O(W log n) after the weights were
 * divided by their greatest common divisor.
 */
int lb_select_round_robin_new(struct lb_round_robin **ret, const uint32_t *weights, size_t n);
/* NULL is fine. */
void lb_select_round_robin_free(struct lb_round_robin **rr);

/* Picks in one cycle; 0 when there is nothing to pick. */
uint32_t lb_select_round_robin_cycle(const struct lb_round_robin *rr);

/* The pick of turn <turn>; turns go round. Any thread: the table is immutable. */
uint32_t lb_select_round_robin_pick(const struct lb_round_robin *rr, uint64_t turn);

#endif
