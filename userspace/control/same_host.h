/* SPDX-License-Identifier: MIT */
/* Which rules' flows may be bypassed, and with that whether the kernel's part is needed. */
#ifndef LB_CONTROL_SAME_HOST_H
#define LB_CONTROL_SAME_HOST_H

#include "flow/session.h"
#include "kernel/same_host.h"

/*
 * Brings same_host_bypass into service for the rules that ask for it and sets rule->same_host. NULL
 * when none does, or when it cannot be (the log says why; their local hops go through TCP). To be
 * closed by the caller. Main thread, before the listeners are opened.
 */
struct lb_same_host *lb_same_host_apply(struct lb_rule *rules, size_t count,
					const struct lb_flow_limits *limits, const char *instance);

#endif
