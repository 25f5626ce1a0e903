// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * xdp_admit: admission in the driver, before the kernel has spent an skb on the packet
 * (include/lb/admit.h). It decides only about SYNs for our rules and passes all else, so that other
 * XDP programs behind the same dispatcher have their say.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <xdp/xdp_helpers.h>

#include "admit.bpf.h"

/* libxdp: early in the chain (the default is 50), which goes on after XDP_PASS. */
struct {
	__uint(priority, 20);
	__uint(XDP_PASS, 1);
} XDP_RUN_CONFIG(xdp_admit);

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LB_ADMIT_CARDS_MAX);
	__type(key, __u32); /* interface % LB_ADMIT_CARDS_MAX */
	__type(value, struct lb_admit_card);
} lb_admit_cards SEC(".maps");

/*
 * Whether the frame is for this host: nobody has looked at the address yet, and a card that hears
 * everything brings in what is bridged, or another host's.
 */
static __always_inline bool is_for_us(const struct xdp_md *ctx)
{
	const struct ethhdr *eth = (void *)(long)ctx->data;
	__u32 interface = ctx->ingress_ifindex, at = interface % LB_ADMIT_CARDS_MAX;
	const struct lb_admit_card *card = bpf_map_lookup_elem(&lb_admit_cards, &at);
	__u8 differs = 0;

	if (!card || card->interface != interface ||
	    (const void *)(eth + 1) > (void *)(long)ctx->data_end)
		return false;
	for (int i = 0; i < ETH_ALEN; i++)
		differs |= card->mac[i] ^ eth->h_dest[i];
	return !differs;
}

SEC("xdp")
int xdp_admit(struct xdp_md *ctx)
{
	struct syn s;

	if (parse_syn((void *)(long)ctx->data, (void *)(long)ctx->data_end, &s) == PARSED_SYN &&
	    is_for_us(ctx) && admit_refuses(&s, LB_ADMIT_HOOK_XDP))
		return XDP_DROP;
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
