/* SPDX-License-Identifier: MIT */
/*
 * What one direction of a flow may move: its buckets, and its place in their queue.
 *
 *	free ---- too little left for a turn: lb_budget_reserve() ----> waits, until start_ns
 *	  ^                                                               |
 *	  +--- moved: lb_budget_charge(), or not: lb_budget_return() <----+
 *
 * Reserving is queueing: whoever has bytes to move and no budget charges its next turn to all its
 * buckets beforehand, and waits until all of them have come to it. So all flows of a bucket, of all
 * workers, have their turns in the order in which they asked, each as long as the others', and
 * nothing is set aside for one that has no bytes.
 *
 * A turn is 10 ms of the bucket's rate for who is alone and shrinks as the queue grows, 100 ms^2 /
 * (its length): among n flows it lasts 10 ms / sqrt(n) and comes again after 10 ms * sqrt(n).
 * So few flows make few system calls, and two hundred still have seven turns a second each. A flow
 * begins with a sixteenth of a turn, which doubles as long as it is used up: the burst of an idle
 * bucket is shared among those who begin together.
 *
 * Knows no descriptor, no session, no clock. The worker's thread only. A budget that is NULL has no
 * limit; asking for a turn or a reservation of it makes no sense.
 */
#ifndef LB_FLOW_BUDGET_H
#define LB_FLOW_BUDGET_H

#include <stdbool.h>
#include <stdint.h>

#include "flow/bucket.h"

/* Of its client, of its backend. */
#define LB_BUDGET_BUCKETS 2

struct lb_budget {
	struct lb_bucket *bucket[LB_BUDGET_BUCKETS];
	uint32_t index[LB_BUDGET_BUCKETS]; /* in the table */
	uint64_t price[LB_BUDGET_BUCKETS]; /* of a byte, when .. */
	uint32_t reserved;                 /* .. these were charged beforehand .. */
	uint64_t start_ns;                 /* .. and may move from then on */
	uint32_t changes;                  /* of the buckets' rates, by then */
	uint32_t last;                     /* bytes of its last turn */
	uint64_t waits;     /* how often it had bytes and had to wait, to be taken away .. */
	uint64_t waited_ns; /* .. and for how long, all told */
};

/*
 * Bytes that may move now, a turn at most; UINT64_MAX without a limit. 0: either it waits, and
 * lb_budget_wait_ns() says for how long, or lb_budget_reserve() has to be called when there are
 * bytes.
 */
uint64_t lb_budget_room(struct lb_budget *b, uint64_t now);
/* How many bytes lb_budget_reserve() takes at most: so many are worth counting. */
uint32_t lb_budget_turn(const struct lb_budget *b, uint64_t now);
/*
 * <waiting> bytes, at least one, are there to move and lb_budget_room() had none for them: takes a
 * place in the queue. Bytes that may move now; 0: it waits.
 */
uint32_t lb_budget_reserve(struct lb_budget *b, uint32_t waiting, uint64_t now);
/* 0: it does not wait. */
uint64_t lb_budget_wait_ns(const struct lb_budget *b, uint64_t now);
/* <bytes> moved: they are charged, once, and what else was reserved is given back. */
void lb_budget_charge(struct lb_budget *b, uint64_t bytes, uint64_t now);
/* What was reserved cannot move now. Harmless when nothing was. */
void lb_budget_return(struct lb_budget *b);

/* The strictest rate of its buckets, bytes per second; 0: no limit. */
uint64_t lb_budget_rate(const struct lb_budget *b);

#endif
