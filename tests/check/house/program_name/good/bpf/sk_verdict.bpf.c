// SPDX-License-Identifier: GPL-2.0-only OR MIT
/* SEC("xdp") int other(struct xdp_md *ctx) */
SEC("sk_skb/stream_verdict")
int sk_verdict(struct __sk_buff *skb)
{
	return 1;
}

char _license[] SEC("license") = "Dual MIT/GPL";
