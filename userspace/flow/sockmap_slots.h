/* SPDX-License-Identifier: MIT */
/*
 * Which indexes of the kernel's tables belong to this worker, and which pair sits on each. Worker's
 * thread only.
 */
#ifndef LB_FLOW_SOCKMAP_SLOTS_H
#define LB_FLOW_SOCKMAP_SLOTS_H

#include <stdint.h>

struct lb_pair;

struct lb_sockmap_slots {
	uint32_t first;
	uint32_t count;
	uint32_t free_count;    /* atomic: read by reports */
	uint32_t *free;         /* stack of pair numbers relative to <first> */
	struct lb_pair **pairs; /* by the same number; NULL: nobody */
};

/* Pairs [first, first + count) of the tables. 0 or -ENOMEM. */
int lb_sockmap_slots_new(struct lb_sockmap_slots **ret, uint32_t first, uint32_t count);
/* NULL is fine. No pair may be on the carrier any more. */
void lb_sockmap_slots_free(struct lb_sockmap_slots **slots);

/* Seats <p>: the index of its leg 0, leg 1 has the next. 0, or -ENOSPC when all are taken. */
int lb_sockmap_slots_take(struct lb_sockmap_slots *slots, struct lb_pair *p, uint32_t *index);
void lb_sockmap_slots_put(struct lb_sockmap_slots *slots, uint32_t index);
/* How many are taken. Any thread. */
uint32_t lb_sockmap_slots_used(const struct lb_sockmap_slots *slots);
/* Who sits there; NULL: nobody, or it is another worker's. */
struct lb_pair *lb_sockmap_slots_pair(const struct lb_sockmap_slots *slots, uint32_t index);

#endif
