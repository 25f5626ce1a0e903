/* SPDX-License-Identifier: MIT */
/*
 * Which pair sits on which index of the kernel's tables. All workers take their slots from one
 * stack: however unevenly flows come to them, all slots can be used.
 */
#ifndef LB_FLOW_SOCKMAP_SLOTS_H
#define LB_FLOW_SOCKMAP_SLOTS_H

#include <stdint.h>

struct lb_pair;
struct lb_sockmap_slots;

/* For <count> pairs. 0 or -ENOMEM. */
int lb_sockmap_slots_new(struct lb_sockmap_slots **ret, uint32_t count);
/* NULL is fine. No pair may be on the carrier any more. */
void lb_sockmap_slots_free(struct lb_sockmap_slots **ps);

/*
 * Seats <p> of <worker>: the index of its leg 0, leg 1 has the next. 0, or -ENOSPC when all are
 * taken. The worker's thread.
 */
int lb_sockmap_slots_take(struct lb_sockmap_slots *s, uint32_t worker, struct lb_pair *p,
			  uint32_t *index);
/* The thread that took it. */
void lb_sockmap_slots_put(struct lb_sockmap_slots *s, uint32_t index);
/* How many are taken. Any thread. */
uint32_t lb_sockmap_slots_used(const struct lb_sockmap_slots *s);
/* How many there are. */
uint32_t lb_sockmap_slots_count(const struct lb_sockmap_slots *s);
/* Who sits there, or on its other leg; NULL: nobody of <worker>'s. The worker's thread. */
struct lb_pair *lb_sockmap_slots_pair(const struct lb_sockmap_slots *s, uint32_t worker,
				      uint32_t index);

#endif
