/* SPDX-License-Identifier: MIT */
/*
 * timeouts.keepalive_ms and timeouts.user_timeout_ms: when TCP itself gives a silent or a deaf peer
 * up. Set on a listener both are inherited by what it accepts.
 */
#ifndef LB_FLOW_KEEPALIVE_H
#define LB_FLOW_KEEPALIVE_H

#include "config/config.h"

/* Best effort: a kernel that refuses leaves its defaults. Costs nothing when both are 0. */
void lb_keepalive_set(int fd, const struct lb_timeouts_config *timeouts);

#endif
