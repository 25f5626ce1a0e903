// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * tc_admit: admission at TC ingress, for interfaces where XDP does not pay (include/lb/admit.h). It
 * decides only about SYNs for our rules; all else is none of its business: TC_ACT_UNSPEC lets the
 * next filter run, TC_ACT_OK would not (net/sched/cls_bpf.c).
 *
 * A frame of a VLAN is judged at the VLAN's interface, where it comes by once more.
 */
#include <linux/bpf.h>
#include <linux/types.h>

#include <linux/if_packet.h>
#include <linux/pkt_cls.h>

#include "admit.bpf.h"

/* As far as headers can go: IPv6 with extensions of usual sizes. */
#define HEADERS_MAX 256u

SEC("tc")
int tc_admit(struct __sk_buff *skb)
{
	struct syn s;
	int parsed;

	if (skb->vlan_present && (skb->vlan_tci & 0xfff))
		return TC_ACT_UNSPEC;
	/* Only heard, or on its way over a bridge. */
	if (skb->pkt_type != PACKET_HOST)
		return TC_ACT_UNSPEC;
	parsed = parse_syn((void *)(long)skb->data, (void *)(long)skb->data_end, &s);
	/* A driver may leave headers outside of the linear part. */
	if (parsed == PARSED_SHORT && skb->data_end - skb->data < skb->len) {
		if (bpf_skb_pull_data(skb, skb->len < HEADERS_MAX ? skb->len : HEADERS_MAX))
			return TC_ACT_UNSPEC;
		parsed = parse_syn((void *)(long)skb->data, (void *)(long)skb->data_end, &s);
	}
	if (parsed == PARSED_SYN && admit_refuses(&s, LB_ADMIT_HOOK_TC))
		return TC_ACT_SHOT;
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Dual MIT/GPL";
