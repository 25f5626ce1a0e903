/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The kernel's side of include/lb/bucket.h; userspace/flow/bucket.c is its twin, and one table of
 * cases is run through both (tests/bucket_cases.h).
 *
 * <now> may lag behind by a jiffy (bpf_ktime_get_coarse_ns): then a little less goes.
 */
#ifndef LB_BPF_BUCKET_H
#define LB_BPF_BUCKET_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include <lb/bucket.h>

static __always_inline __u64 bucket_cost(__u64 price, __u32 bytes)
{
	return bytes * (price >> 32) + ((bytes * (price & 0xffffffff) + (1u << 31)) >> 32);
}

/* May <bytes> go now? */
static __always_inline bool bucket_admits(const struct lb_bucket *b, __u32 bytes, __u64 now)
{
	__u64 price = *(volatile __u64 *)&b->price, tat = *(volatile __u64 *)&b->tat;

	if (tat < now)
		tat = now;
	return !price || tat + bucket_cost(price, bytes) <= now + b->burst_ns;
}

static __always_inline void bucket_charge(struct lb_bucket *b, __u32 bytes, __u64 now)
{
	__u64 price = *(volatile __u64 *)&b->price, tat = *(volatile __u64 *)&b->tat;

	if (!price)
		return;
	if (tat < now)
		__sync_val_compare_and_swap(&b->tat, tat, now);
	__sync_fetch_and_add(&b->tat, bucket_cost(price, bytes));
}

#endif
