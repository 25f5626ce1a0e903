/* SPDX-License-Identifier: MIT */
/*
 * The sockmap carrier's worker side: which indexes of the kernel's tables belong to this worker,
 * and which pair sits on each. Worker's thread only.
 */
#ifndef LB_FLOW_SOCKMAP_H
#define LB_FLOW_SOCKMAP_H

#include <stdint.h>

#include "flow/carrier.h"

struct lb_sockmap_slots;

/* Pairs [first, first + count) of the tables. 0 or -ENOMEM. */
int lb_sockmap_slots_new(struct lb_sockmap_slots **ret, uint32_t first, uint32_t count);
/* NULL is fine. No pair may be on the carrier any more. */
void lb_sockmap_slots_free(struct lb_sockmap_slots **slots);

/* The worker's ring has become readable: every gate that went to USER gets its daemon. */
void lb_sockmap_ring_event(struct lb_carrier_env *env);

#endif
