/* SPDX-License-Identifier: MIT */
/*
 * A bucket is a limit of bytes per second that many flows share. The verdict program and the daemon
 * charge the same word of it, so there is one budget and who enforces it does not matter.
 *
 * The word is <tat> of GCRA, the time (CLOCK_MONOTONIC, ns) when all that has been charged will
 * have been paid for at the bucket's rate. Bytes may go when
 *
 *	max(tat, now) + their cost <= now + burst_ns
 *
 * and going they are charged: <tat> is raised to <now> when it is below, then their cost is added.
 * Two atomic operations and no loop: a raise that fails was forestalled by somebody who raised it
 * or, his clock being a jiffy behind, charged it. So in any time t at most rate * t + rate *
 * burst_ns bytes go, but for what several processors let go at the same moment, and that is charged
 * all the same: whoever comes next waits for it.
 *
 * A flow that must wait charges its next few bytes beforehand. What the addition found in <tat> is
 * then its place in the queue: it may move them from that time, plus their cost, minus the burst,
 * on. Everybody else sees a <tat> that is further on and stands behind it.
 *
 * A charge is rounded to the nearest ns: a million charges per second are off by 0.05 % at most.
 */
#ifndef LB_BUCKET_H
#define LB_BUCKET_H

#include <linux/types.h>

/* Bucket 0 of the table stands for "none" and is never charged. */
#define LB_BUCKET_NONE 0u

/* What an idle bucket lets go at once, in time: 5 % of the first second, 1 % of five. */
#define LB_BUCKET_BURST_NS 50000000ull

struct lb_bucket {
	__u64 tat; /* atomic; program and daemon */
	/* Written by the daemon only, each with one store; the program reads. */
	__u64 price;    /* of a byte: ns, 32.32 fixed point; 0: no limit */
	__u64 burst_ns; /* what may be owed */
	/* The daemon's. */
	__u64 rate;    /* bytes per second; 0: no limit */
	__u32 changes; /* of the rate, so far */
	__u8 pad0[28];
};

_Static_assert(sizeof(struct lb_bucket) == 64, "a cache line");

#endif
