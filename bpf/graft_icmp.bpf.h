/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * "Your packet is too big for the way", said of a packet that the program made of another one: it
 * goes on to the peer who sent that one, in terms it knows. Nobody else could tell it: the socket
 * the message is for is gone.
 *
 *	O's peer -> us   becomes   us -> X's peer   a router there: "too big", to us, about it
 *	"too big", from us to O's peer, about its own packet	<- - - -   becomes
 *
 * Contract: only what lies in flight is believed (RFC 5927, 4), and only of stages in which packets
 * are forwarded; anything else is TC_ACT_UNSPEC, untouched. No more of the packet in question is
 * needed than the 8 bytes behind its IP header, and what else there is goes on as it is. All sums
 * are mended, not made: a message that was damaged on its way stays recognisable.
 */
#ifndef LB_BPF_GRAFT_ICMP_H
#define LB_BPF_GRAFT_ICMP_H

#include "graft.bpf.h"

#define ICMP_UNREACHABLE 3
#define ICMP_FRAG_NEEDED 4
#define ICMPV6_TOO_BIG   2
#define ICMP_PROTOCOL_V6 58

struct icmp_head {
	__u8 type, code;
	__sum16 check;
	__be32 mtu; /* IPv4: in the lower half */
};

/* All of TCP that is sure to be there. */
struct tcp_start {
	__be16 sport, dport;
	__be32 seq;
};

struct icmp_v4 {
	struct iphdr ip;
	struct icmp_head icmp;
	struct iphdr about;
	struct tcp_start th;
};

struct icmp_v6 {
	struct ipv6hdr ip;
	struct icmp_head icmp;
	struct ipv6hdr about;
	struct tcp_start th;
};

/* Whether the peer of <o> has sent what <seq> begins, and that of <x> has not acknowledged it. */
static __always_inline bool is_in_flight(const struct lb_graft_leg *x, const struct lb_graft_leg *o,
					 __be32 seq)
{
	__u32 flying = o->seq_end + o->seq_shift - x->ack_max;

	return (__s32)flying > 0 && bpf_ntohl(seq) - x->ack_max < flying;
}

/* The legs a message is about, or false: not ours, or not to be believed. */
static __always_inline bool find_flight(struct __sk_buff *skb, const __u32 *index, __be32 seq,
					const struct lb_graft_leg **x,
					const struct lb_graft_leg **o)
{
	struct lb_graft *g;
	__u32 stage, leg;

	g = pair_of(index, &leg);
	if (!g)
		return false;
	stage = *(volatile __u32 *)&g->stage;
	if (stage != LB_GRAFT_SPLIT && stage != LB_GRAFT_FULL)
		return false;
	*x = &g->leg[leg & 1];
	*o = &g->leg[(leg & 1) ^ 1];
	if (is_marked(skb) || !is_in_flight(*x, *o, seq))
		return false;
	/* The packet may as well be one of our socket's last. */
	if (stage == LB_GRAFT_SPLIT)
		clone_marked(skb);
	return true;
}

/* Turns the start of our packet into the start of what it was. Returns the difference of sums. */
static __always_inline __u64 restore_tcp(struct tcp_start *th, const struct lb_graft_leg *x,
					 const struct lb_graft_leg *o)
{
	__be32 seq = bpf_htonl(bpf_ntohl(th->seq) - o->seq_shift);
	__u64 diff = sum_diff(th->sport, x->dport) + sum_diff(th->dport, x->sport) +
		     sum_diff(th->seq, seq);

	th->sport = x->dport;
	th->dport = x->sport;
	th->seq = seq;
	return diff;
}

static __always_inline __sum16 mend(__sum16 check, __u64 diff)
{
	return (__sum16)~fold((__u16)~check + diff);
}

static __always_inline int send_icmp(struct __sk_buff *skb, const struct lb_graft_leg *x,
				     const void *message, __u32 len)
{
	if ((skb->vlan_present && bpf_skb_vlan_pop(skb)) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN, message, len, BPF_F_RECOMPUTE_CSUM)) {
		count(LB_GRAFT_COUNT_FAILED);
		return TC_ACT_SHOT;
	}
	count(LB_GRAFT_COUNT_ICMP);
	return leave(skb, x);
}

static __always_inline int translate_v4(struct __sk_buff *skb)
{
	const struct lb_graft_leg *x, *o;
	struct lb_graft_v4 key;
	struct icmp_v4 m;
	__u64 addresses;
	bool remote;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &m, sizeof(m)) || m.icmp.type != ICMP_UNREACHABLE ||
	    m.icmp.code != ICMP_FRAG_NEEDED)
		return TC_ACT_UNSPEC;
	if (m.ip.ihl * 4 != IP_HDR_MIN || bpf_ntohs(m.ip.tot_len) < sizeof(m) ||
	    (m.ip.frag_off & bpf_htons(IP_MF_OFFSET)) || m.ip.daddr != m.about.saddr)
		return TC_ACT_UNSPEC;
	if (m.about.version != 4 || m.about.ihl * 4 != IP_HDR_MIN ||
	    m.about.protocol != IPPROTO_TCP || (m.about.frag_off & bpf_htons(IP_OFFSET)))
		return TC_ACT_UNSPEC;
	key = (struct lb_graft_v4){m.about.daddr, m.about.saddr, m.th.dport, m.th.sport};
	if (!find_flight(skb, bpf_map_lookup_elem(&lb_graft_v4, &key), m.th.seq, &x, &o))
		return TC_ACT_UNSPEC;
	remote = x->ifindex != 0;
	if (remote && m.ip.ttl <= 1)
		return TC_ACT_UNSPEC;

	addresses = sum_diff(m.about.saddr, x->daddr[0]) + sum_diff(m.about.daddr, x->saddr[0]);
	m.about.saddr = x->daddr[0];
	m.about.daddr = x->saddr[0];
	/* Its own sum makes up for its addresses. */
	m.about.check = mend(m.about.check, addresses);
	m.icmp.check = mend(m.icmp.check, restore_tcp(&m.th, x, o));
	addresses = sum_diff(m.ip.saddr, x->saddr[0]) + sum_diff(m.ip.daddr, x->daddr[0]);
	m.ip.saddr = x->saddr[0];
	m.ip.daddr = x->daddr[0];
	m.ip.ttl -= remote;
	m.ip.check = mend(m.ip.check, addresses + (remote ? TTL_DIFF : 0));
	return send_icmp(skb, x, &m, sizeof(m));
}

static __always_inline bool differ_v6(const struct in6_addr *a, const struct in6_addr *b)
{
	__u32 diff = 0;

	for (int i = 0; i < 4; i++)
		diff |= a->in6_u.u6_addr32[i] ^ b->in6_u.u6_addr32[i];
	return diff;
}

static __always_inline __u64 replace_v6(struct in6_addr *field, const __be32 to[4])
{
	__be32 *word = field->in6_u.u6_addr32;
	__u64 diff = 0;

	for (int i = 0; i < 4; i++) {
		diff += sum_diff(word[i], to[i]);
		word[i] = to[i];
	}
	return diff;
}

static __always_inline int translate_v6(struct __sk_buff *skb)
{
	const struct lb_graft_leg *x, *o;
	struct lb_graft_v6 key;
	struct icmp_v6 m;
	bool remote;
	__u64 diff;

	if (bpf_skb_load_bytes(skb, ETH_HLEN, &m, sizeof(m)) || m.ip.nexthdr != ICMP_PROTOCOL_V6 ||
	    m.icmp.type != ICMPV6_TOO_BIG || m.icmp.code)
		return TC_ACT_UNSPEC;
	if (bpf_ntohs(m.ip.payload_len) < sizeof(m) - sizeof(m.ip) || m.about.version != 6 ||
	    m.about.nexthdr != IPPROTO_TCP)
		return TC_ACT_UNSPEC;
	key = (struct lb_graft_v6){.sport = m.th.dport, .dport = m.th.sport};
	__builtin_memcpy(key.saddr, &m.about.daddr, 16);
	__builtin_memcpy(key.daddr, &m.about.saddr, 16);
	if (differ_v6(&m.ip.daddr, &m.about.saddr))
		return TC_ACT_UNSPEC;
	if (!find_flight(skb, bpf_map_lookup_elem(&lb_graft_v6, &key), m.th.seq, &x, &o))
		return TC_ACT_UNSPEC;
	remote = x->ifindex != 0;
	if (remote && m.ip.hop_limit <= 1)
		return TC_ACT_UNSPEC;

	/* Here the sum of ICMP covers all addresses. */
	diff = replace_v6(&m.about.saddr, x->daddr) + replace_v6(&m.about.daddr, x->saddr);
	diff += replace_v6(&m.ip.saddr, x->saddr) + replace_v6(&m.ip.daddr, x->daddr);
	m.icmp.check = mend(m.icmp.check, diff + restore_tcp(&m.th, x, o));
	m.ip.hop_limit -= remote;
	return send_icmp(skb, x, &m, sizeof(m));
}

/* Not static: the verifier looks at it once. */
__noinline int translate_icmp(struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) ? translate_v4(skb) : translate_v6(skb);
}

#endif
