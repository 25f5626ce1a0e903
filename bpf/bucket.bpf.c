// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * bucket: the arithmetic of bucket.bpf.h as a program of its own, for tests/bpf/bucket.c: the
 * kernel cannot run a sk_skb program on its own. The daemon never loads it.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include "bucket.bpf.h"

struct lb_bucket the_bucket;
__u64 now;
__u32 bytes;
bool admits;

SEC("syscall")
int bucket(void *ctx)
{
	admits = bucket_admits(&the_bucket, bytes, now);
	bucket_charge(&the_bucket, bytes, now);
	return 0;
}

char _license[] SEC("license") = "Dual MIT/GPL";
