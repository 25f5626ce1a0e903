/* SPDX-License-Identifier: MIT */
/* How long backends take: the buckets of the histograms, by upper bound in microseconds. */
#ifndef LB_BACKEND_TIMES_H
#define LB_BACKEND_TIMES_H

#include <stdint.h>

/* One more bucket catches the rest. */
#define LB_CONNECT_BUCKETS    10
#define LB_FIRST_BYTE_BUCKETS 12
extern const uint64_t lb_connect_bounds_us[LB_CONNECT_BUCKETS];
extern const uint64_t lb_first_byte_bounds_us[LB_FIRST_BYTE_BUCKETS];

/* Where <value> belongs; <count> if it is beyond all <bounds>. */
static inline unsigned int lb_bucket_of(const uint64_t *bounds, unsigned int count, uint64_t value)
{
	unsigned int i = 0;

	while (i < count && value > bounds[i])
		i++;
	return i;
}

#endif
