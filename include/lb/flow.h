/* SPDX-License-Identifier: MIT */
/*
 * A flow is a pair of legs. Leg 0 faces the client, leg 1 the backend. In every table of the
 * sockmap carrier, index = pair * 2 + leg; index ^ 1 is the other leg of the same flow.
 */
#ifndef LB_FLOW_H
#define LB_FLOW_H

#include <linux/types.h>

enum lb_leg_index {
	LB_LEG_CLIENT = 0,
	LB_LEG_BACKEND = 1,
};

/*
 * Who carries the bytes that arrive on a leg ("the source") to the other leg ("the sink").
 *
 *                    sink cannot take the bytes now
 *          KERNEL ------------------------------------> USER
 *             ^        (program; one ring event)          |
 *             |                                           |
 *             +-------------------------------------------+
 *               next skb after user_done == passed (program)
 *
 * A direction whose bandwidth is limited is with the daemon for want of budget too (lb/bucket.h).
 * The program charges what it redirects, the daemon what it reads.
 *
 * The program runs under the source socket's lock, so both arrows are race-free: nothing can be
 * passed or redirected while the decision is made.
 */
enum lb_gate_mode {
	LB_GATE_USER = 0,
	LB_GATE_KERNEL = 1,
};

/* The gate of one direction, named by the index of its source leg. All counts are payload bytes. */
struct lb_gate {
	/* Written by the program only (zeroed by the daemon before the leg is inserted). */
	__u64 redirected; /* handed to the sink's socket in the kernel */
	__u64 passed;     /* left to the daemon's recv(2) */
	__u64 last_ns;    /* CLOCK_MONOTONIC of the last skb, jiffy resolution */
	__u32 mode;       /* enum lb_gate_mode */
	/* sink's write_seq - (u32)(redirected + user_done), at the last flip to KERNEL */
	__u32 base;
	__u32 episodes; /* changes from KERNEL to USER */
	__u32 worker;   /* whose ring hears of them; set by the daemon before insertion */
	__u32 next_seq; /* of the source: behind the last byte judged (see <judged>) */
	__u32 judged;   /* there was one */
	__u32 broken;   /* the stream could not be kept whole: reset the flow */
	/* What is charged with the bytes, in the table of buckets; LB_BUCKET_NONE: nothing. Set by
	 * the daemon before insertion. */
	__u32 bucket[2];
	__u8 pad0[4];
	/* The daemon's cache line. */
	__u64 user_done; /* of <passed>: written to the sink */
	/* .. where the program writes once: CLOCK_MONOTONIC of the first byte that it judged, which
	 * is the source's first unless the daemon moved some before; 0: none yet. */
	__u64 first_ns;
	__u8 pad1[48];
};

#ifdef __cplusplus
#error "C only"
#endif
_Static_assert(sizeof(struct lb_gate) == 128, "two cache lines");
_Static_assert(__builtin_offsetof(struct lb_gate, user_done) == 64, "daemon's cache line");

#endif
