/* SPDX-License-Identifier: MIT */
/* See control/bandwidth_limit.h. Decides nothing about a flow: flow/bandwidth_limit.c does. */
#include "control/bandwidth_limit.h"

#include <lb/limits.h>

#include "flow/bandwidth_limit.h"

/* With those of its routes: their flows are under its limits. */
static size_t count_backends(const struct lb_rule_config *config)
{
	size_t n = config->backends_count;

	for (size_t i = 0; i < config->sni_count; i++)
		n += config->sni[i].backends_count;
	return n;
}

uint32_t lb_bandwidth_limit_count(const struct lb_rule *rules, size_t rules_count,
				  uint64_t sessions_max)
{
	uint64_t count = 0;

	for (size_t i = 0; i < rules_count; i++) {
		const struct lb_rule_config *config = rules[i].config;

		if (lb_bandwidth_limit_is_set(&config->bandwidth_limit))
			count += lb_bandwidth_limit_buckets(count_backends(config));
	}
	if (!count)
		return 0;
	/* Every flow may be of a client of its own; and one that stands for "none". */
	count += 2 * sessions_max + 1;
	return count < LB_BUCKETS_MAX ? (uint32_t)count : LB_BUCKETS_MAX;
}

int lb_bandwidth_limit_open(struct lb_buckets **ret, struct lb_rule *rules, size_t rules_count,
			    struct lb_kernel *kernel, uint32_t count)
{
	int err;

	if (!count)
		return 0;
	/* The verdict program and the daemon charge the same ones. */
	err = lb_buckets_new(ret, kernel ? lb_table_buckets(kernel) : NULL, count);
	for (size_t i = 0; i < rules_count && !err; i++) {
		const struct lb_bandwidth_limit_config *config = &rules[i].config->bandwidth_limit;

		if (lb_bandwidth_limit_is_set(config))
			err = lb_bandwidth_limit_new(&rules[i].bandwidth_limit, *ret, config);
	}
	return err;
}
