/* SPDX-License-Identifier: MIT */
/*
 * Finds flows in distress: what was sent to their backend has been sent again and again, and is
 * still not acknowledged. Each counts once against its backend (passive_health).
 */
#ifndef LB_FLOW_DISTRESS_H
#define LB_FLOW_DISTRESS_H

#include "flow/session.h"

/* How often to look, ms. */
#define LB_DISTRESS_LOOK_MS 250u

/* Looks at some of the worker's flows, the others come next. Worker's thread. */
void lb_distress_look(struct lb_flow_env *env);

#endif
