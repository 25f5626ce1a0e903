/* SPDX-License-Identifier: MIT */
/*
 * Consistent hashing by a Maglev table (Eisenbud et al., NSDI 2016): a hash finds its backend in
 * one step; each backend has its share of the table by weight; when one goes, nearly all of what
 * the others had stays theirs. The table depends on identities and weights alone, in whatever order
 * they come, so that nodes with the same backends, or one that restarts, send a client to the same
 * one.
 *
 * Knows no descriptor, no session, no clock. Immutable once built: any thread may look.
 */
#ifndef LB_FLOW_SELECT_MAGLEV_H
#define LB_FLOW_SELECT_MAGLEV_H

#include <stddef.h>
#include <stdint.h>

struct lb_maglev;

/*
 * <ids>: what tells the <n> backends from one another wherever they are listed, well mixed.
 * <weights>: 0 takes one out. 0 or -errno.
 */
int lb_select_maglev_new(struct lb_maglev **ret, const uint64_t *ids, const uint32_t *weights,
			 size_t n);
/* NULL is fine. */
void lb_select_maglev_free(struct lb_maglev **m);

/* The index of <hash>'s backend; LB_SELECT_NONE when all weights are 0. */
uint32_t lb_select_maglev_pick(const struct lb_maglev *m, uint64_t hash);

/* Slots of the table: a prime. */
uint32_t lb_select_maglev_slots(const struct lb_maglev *m);

#endif
