/* SPDX-License-Identifier: MIT */
#ifndef LB_CONTROL_METRICS_HISTOGRAM_H
#define LB_CONTROL_METRICS_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct lb_metrics_histogram {
	const char *name, *help;
	const uint64_t *bounds; /* upper ones .. */
	size_t buckets;         /* .. so many, and one bucket more */
	double per_second;      /* of the bounds and of sums */
};

/* The samples of one rule, or with <backend> of one of its backends; not the head. */
void lb_metrics_print_histogram(FILE *out, const struct lb_metrics_histogram *h, const char *rule,
				const char *backend, const uint64_t *counts, uint64_t sum);

#endif
