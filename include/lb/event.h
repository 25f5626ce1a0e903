/* SPDX-License-Identifier: MIT */
/* Records of the rings, one ring per worker. A full ring loses records: see lb_ring_state.lost. */
#ifndef LB_EVENT_H
#define LB_EVENT_H

#include <linux/types.h>

enum lb_event_kind {
	LB_EVENT_GATE_USER = 1, /* index: the source leg whose gate went to USER */
};

struct lb_event {
	__u32 kind; /* enum lb_event_kind */
	__u32 index;
};

_Static_assert(sizeof(struct lb_event) == 8, "no padding");

/*
 * One per worker, mmapable. When <lost> moved since the worker last looked, records are missing
 * and it must look at the gates of all its flows. A lost record is always accompanied by earlier
 * ones still in the ring, so the worker is awake or about to be.
 */
struct lb_ring_state {
	__u64 lost;
	__u8 pad[56];
};

_Static_assert(sizeof(struct lb_ring_state) == 64, "a cache line");

#endif
