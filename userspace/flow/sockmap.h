/* SPDX-License-Identifier: MIT */
/*
 * The sockmap carrier's worker side. Worker's thread only.
 */
#ifndef LB_FLOW_SOCKMAP_H
#define LB_FLOW_SOCKMAP_H

#include <stdint.h>

#include "flow/carrier.h"

/* The worker's ring has become readable: every gate that went to USER gets its daemon. */
void lb_sockmap_ring_event(struct lb_carrier_env *env);

#endif
