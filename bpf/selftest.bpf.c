// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * selftest: redirect whatever arrives on the source to the sink, without a gate, so that the sink's
 * queue is driven into the partial sends that old kernels repeat. Lives for the milliseconds of
 * userspace/kernel/selftest.c; it must never judge a real flow.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

/* Slots of lb_test_socks. */
enum {
	SOURCE = 0,
	SINK = 1,
};

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} lb_test_socks SEC(".maps");

/* How the test of the self-test makes the kernel look broken; see enum lb_selftest_sabotage. */
const volatile __u32 lose_second;
const volatile __u32 hold_second;

/* One source socket: its lock serialises the program. */
__u64 redirected; /* bytes */
__u64 skbs;       /* with payload */
__u64 empty;      /* zero-length skbs seen: the bare FIN */

SEC("sk_skb/stream_verdict")
int selftest(struct __sk_buff *skb)
{
	__u32 len = skb->len;

	/* As sk_verdict does. */
	if (!len) {
		empty++;
		return SK_DROP;
	}
	if (skbs++ == 1) {
		if (lose_second) {
			redirected += len;
			return SK_DROP;
		}
		if (hold_second)
			return SK_PASS;
	}
	if (bpf_sk_redirect_map(skb, &lb_test_socks, SINK, 0) != SK_PASS)
		return SK_PASS;
	redirected += len;
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
