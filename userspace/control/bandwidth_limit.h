/* SPDX-License-Identifier: MIT */
/* The bandwidth limits of all rules: how many buckets, and where those are. Main thread. */
#ifndef LB_CONTROL_BANDWIDTH_LIMIT_H
#define LB_CONTROL_BANDWIDTH_LIMIT_H

#include "flow/env.h"

struct lb_buckets;

/* Buckets for rules with so many flows altogether; 0: no rule limits anything. */
uint32_t lb_bandwidth_limit_count(const struct lb_rule *rules, size_t rules_count,
				  uint64_t sessions_max);
/*
 * Gives the rules that want it their limits, with <count> buckets in the kernel's table, or on the
 * heap when <kernel> is NULL. 0 or -errno; what was made is the caller's to free either way.
 */
int lb_bandwidth_limit_open(struct lb_buckets **ret, struct lb_rule *rules, size_t rules_count,
			    struct lb_kernel *kernel, uint32_t count);

#endif
