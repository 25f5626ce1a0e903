/* SPDX-License-Identifier: MIT */
/*
 * The daemon's side of include/lb/bucket.h, and the table of all buckets. Knows no descriptor, no
 * session, no clock: <now> is CLOCK_MONOTONIC, ns. Any thread, but for what is said otherwise.
 */
#ifndef LB_FLOW_BUCKET_H
#define LB_FLOW_BUCKET_H

#include <stdbool.h>
#include <stdint.h>

#include <lb/bucket.h>

/* A rate of 0 is no limit: nothing is charged and everything may go. */

uint64_t lb_bucket_cost(uint64_t price, uint32_t bytes);

/* Begins anew: nothing owed. Nobody may use the bucket yet. */
void lb_bucket_init(struct lb_bucket *b, uint64_t rate);
/*
 * Another rate while flows use it. With a higher one what is owed is paid at that; with a lower one
 * it is paid when it would have been, for it went while it might. But for what is being charged at
 * this very moment. Who waits must be made to ask again: b->changes tells. One thread at a time.
 */
void lb_bucket_change(struct lb_bucket *b, uint64_t rate, uint64_t now);

/* Bytes that may go now; UINT64_MAX without a limit. */
uint64_t lb_bucket_credit(const struct lb_bucket *b, uint64_t now);
/* <bytes> went. */
void lb_bucket_charge(struct lb_bucket *b, uint32_t bytes, uint64_t now);
/*
 * Charges <bytes> that are to go later: not before the time it returns, which may be past. *price
 * is what a byte costs now.
 */
uint64_t lb_bucket_reserve(struct lb_bucket *b, uint32_t bytes, uint64_t now, uint64_t *price);
/* <bytes> that were reserved at <price> have not gone. */
void lb_bucket_give_back(struct lb_bucket *b, uint32_t bytes, uint64_t price);

/* How long who asks now has to wait behind those who wait already, ns. */
uint64_t lb_bucket_queue_ns(const struct lb_bucket *b, uint64_t now);
/* Forgetting it would forgive a debt. */
bool lb_bucket_owes(const struct lb_bucket *b, uint64_t now);

/* --- the table: who has which bucket ---------------------------------------------------------- */

struct lb_buckets;

/*
 * <count> buckets at <memory>, which must outlive the table; NULL: on the heap. The
 * first one is LB_BUCKET_NONE. 0 or -ENOMEM.
 */
int lb_buckets_new(struct lb_buckets **ret, struct lb_bucket *memory, uint32_t count);
/* NULL is fine. */
void lb_buckets_free(struct lb_buckets **t);

/* A bucket for oneself, to be initialised; LB_BUCKET_NONE when all are taken. */
uint32_t lb_buckets_take(struct lb_buckets *t);
/* Nobody may charge it any more. Harmless for LB_BUCKET_NONE. */
void lb_buckets_put(struct lb_buckets *t, uint32_t index);
struct lb_bucket *lb_buckets_at(struct lb_buckets *t, uint32_t index);
/* Buckets taken, and how many there are. */
uint32_t lb_buckets_used(struct lb_buckets *t);
uint32_t lb_buckets_max(const struct lb_buckets *t);

#endif
