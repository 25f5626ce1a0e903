/* SPDX-License-Identifier: MIT */
/* Monotonic time. Pure code never calls these: it takes `now` as an argument. */
#ifndef LB_BASE_CLOCK_H
#define LB_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

static inline uint64_t lb_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static inline uint64_t lb_clock_ms(void)
{
	return lb_clock_ns() / 1000000ull;
}

#endif
