/* SPDX-License-Identifier: MIT */
/* See times.h. */
#include "backend/times.h"

const uint64_t lb_connect_bounds_us[LB_CONNECT_BUCKETS] = {
	100, 250, 1000, 2500, 10000, 50000, 250000, 1000000, 3000000, 10000000,
};

const uint64_t lb_first_byte_bounds_us[LB_FIRST_BYTE_BUCKETS] = {
	500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 1000000, 5000000, 30000000,
};
