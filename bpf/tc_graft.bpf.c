// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * tc_graft: at TC ingress, turn every packet of a grafted leg into a packet of the other leg.
 * include/lb/graft.h says what a graft is, its stages and its tables.
 *
 * It decides what a packet belongs to, what it becomes and where it leaves; and it keeps the books
 * of a flow nobody else sees any more: bytes, times, both FINs, resets. It must never
 *  - touch or end the way of a packet that is not ours: TC_ACT_UNSPEC lets the next filter run,
 *    TC_ACT_OK would not (net/sched/cls_bpf.c),
 *  - let a packet of a leg in stage FULL up to the stack: the socket is gone, a RST would answer,
 *  - let anything unverified end a flow (RFC 5961). What is doubtful is forwarded all the same: the
 *    endpoint judges it, as it would on a direct connection,
 *  - believe a sequence or acknowledgement number that no honest peer could have sent.
 *
 * Several CPUs may work on one leg: what must be exact is raised by compare-and-swap.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lb/graft.h>

#include "graft.bpf.h"
#include "graft_icmp.bpf.h"
#include "graft_options.bpf.h"

/* What our socket may have promised a peer at most beyond what the other peer can take. */
#define PROMISE_MAX (1024 * 1024)

/* Which leg a packet belongs to. NULL: none of ours. */
static __always_inline struct lb_graft *find(struct packet *p)
{
	const __u32 *index;

	if (p->ipv6) {
		struct lb_graft_v6 key = {.sport = p->f.th.source, .dport = p->f.th.dest};

		__builtin_memcpy(key.saddr, &p->f.ip6.saddr, 16);
		__builtin_memcpy(key.daddr, &p->f.ip6.daddr, 16);
		index = bpf_map_lookup_elem(&lb_graft_v6, &key);
		/* Keeps clang from merging both look-ups: the kernel inlines one of one table. */
		asm volatile("");
	} else {
		struct lb_graft_v4 key = {p->f.ip4.saddr, p->f.ip4.daddr, p->f.th.source,
					  p->f.th.dest};

		index = bpf_map_lookup_elem(&lb_graft_v4, &key);
	}
	if (index)
		p->pair = *index >> 1;
	return pair_of(index, &p->leg);
}

/* Both keys go: what comes from now on with these addresses is a new connection's. */
static __always_inline void forget(const struct packet *p, const struct lb_graft_leg *leg)
{
	if (p->ipv6) {
		struct lb_graft_v6 key = {.sport = p->f.th.source, .dport = p->f.th.dest};

		__builtin_memcpy(key.saddr, &p->f.ip6.saddr, 16);
		__builtin_memcpy(key.daddr, &p->f.ip6.daddr, 16);
		bpf_map_delete_elem(&lb_graft_v6, &key);
		key = (struct lb_graft_v6){.sport = leg->dport, .dport = leg->sport};
		__builtin_memcpy(key.saddr, leg->daddr, 16);
		__builtin_memcpy(key.daddr, leg->saddr, 16);
		bpf_map_delete_elem(&lb_graft_v6, &key);
	} else {
		struct lb_graft_v4 key = {p->f.ip4.saddr, p->f.ip4.daddr, p->f.th.source,
					  p->f.th.dest};

		bpf_map_delete_elem(&lb_graft_v4, &key);
		key = (struct lb_graft_v4){leg->daddr[0], leg->saddr[0], leg->dport, leg->sport};
		bpf_map_delete_elem(&lb_graft_v4, &key);
	}
}

/* --- the books -------------------------------------------------------------------------------- */

/* Both sides have closed in good order, or one has reset the flow. */
static __always_inline bool has_ended(const struct lb_graft *g)
{
	__u32 a = g->leg[0].flags, b = g->leg[1].flags;

	return (a & b & LB_GRAFT_FIN_ACKED) || ((a | b) & LB_GRAFT_RST);
}

static __always_inline void tell(const struct packet *p)
{
	struct lb_graft_event e = {.pair = p->pair};
	struct lb_graft_meta *meta;

	if (!bpf_ringbuf_output(&lb_graft_ring, &e, sizeof(e), 0))
		return;
	meta = meta_of();
	if (meta)
		__sync_fetch_and_add(&meta->lost, 1);
}

/* Brings *mark up to <v>, which lies ahead of it. Returns by how much. */
static __always_inline __u32 raise(__u32 *mark, __u32 v)
{
	for (int i = 0; i < 4; i++) {
		__u32 old = *(volatile __u32 *)mark;

		if ((__s32)(v - old) <= 0)
			return 0;
		if (__sync_val_compare_and_swap(mark, old, v) == old)
			return v - old;
	}
	return 0;
}

/* Sets flag <f> of <leg>; true for the one who did. */
static __always_inline bool set_flag(struct lb_graft_leg *leg, __u32 f)
{
	return !(leg->flags & f) && !(__sync_fetch_and_or(&leg->flags, f) & f);
}

/*
 * What <leg>'s peer acknowledges, if <other>'s peer has sent so much. An old acknowledgement says
 * nothing new, and half of all numbers are old ones: a stranger's must not open the window.
 */
static __always_inline void note_ack(const struct packet *p, struct lb_graft_leg *leg,
				     struct lb_graft_leg *other)
{
	__u32 ack = bpf_ntohl(p->f.th.ack_seq), fin = !!(other->flags & LB_GRAFT_FIN);
	__u32 sent = other->seq_end + other->seq_shift;

	if ((__s32)(ack - sent - fin) > 0 || (__s32)(ack - leg->ack_max) < 0)
		return;
	raise(&leg->ack_max, ack);
	raise(&leg->edge, ack + p->window);
	if (fin && (__s32)(ack - other->fin_end - other->seq_shift) >= 0 &&
	    set_flag(other, LB_GRAFT_FIN_ACKED) && (leg->flags & LB_GRAFT_FIN_ACKED))
		tell(p);
}

/*
 * What <leg>'s peer sends, if <other>'s peer can take it: the first byte decides. The last one may
 * lie beyond the edge, in a probe of a closed window; not to believe it would be for ever, as its
 * acknowledgement then is not believed either. In SPLIT it sends what our socket has promised.
 *
 * A FIN stands behind all that was seen, or it is a stranger's; one that data went beyond was.
 */
static __always_inline void note_data(const struct packet *p, struct lb_graft_leg *leg,
				      const struct lb_graft_leg *other, __u64 now, bool split)
{
	__u32 seq = bpf_ntohl(p->f.th.seq), end = seq + p->payload, moved;

	if ((__s32)(seq + leg->seq_shift - other->edge) > (split ? PROMISE_MAX : 0))
		return;
	leg->data_ns = now;
	moved = raise(&leg->seq_end, end);
	if (moved)
		__sync_fetch_and_add(&leg->bytes, moved);
	if (moved && !leg->first_ns)
		leg->first_ns = bpf_ktime_get_ns();
	if (moved && (leg->flags & LB_GRAFT_FIN) && (__s32)(end - leg->fin_end) >= 0)
		__sync_fetch_and_and(&leg->flags, ~LB_GRAFT_FIN);
	if (p->f.th.fin && end == leg->seq_end) {
		leg->fin_end = end + 1;
		set_flag(leg, LB_GRAFT_FIN);
	}
}

/* A RST counts when it stands exactly where its receiver, or its sender, is. */
static __always_inline void note_reset(const struct packet *p, struct lb_graft_leg *leg,
				       const struct lb_graft_leg *other)
{
	__u32 seq = bpf_ntohl(p->f.th.seq), fin = !!(leg->flags & LB_GRAFT_FIN);

	if (seq + leg->seq_shift != other->ack_max && seq != leg->seq_end + fin)
		return;
	if (!(other->flags & LB_GRAFT_RST) && set_flag(leg, LB_GRAFT_RST))
		tell(p);
}

static __always_inline void note(const struct packet *p, struct lb_graft_leg *leg,
				 struct lb_graft_leg *other, __u32 segments, bool split)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	__sync_fetch_and_add(&leg->packets, segments);
	if (p->f.th.rst) {
		note_reset(p, leg, other);
		return;
	}
	leg->last_ns = now;
	if (p->f.th.syn)
		return;
	if (p->payload || p->f.th.fin)
		note_data(p, leg, other, now, split);
	if (p->f.th.ack)
		note_ack(p, leg, other);
}

/* --- the packet ------------------------------------------------------------------------------- */

/*
 * Rounds down, also to 0: receivers drop a segment that ends beyond their window whole (6.17,
 * tcp_sequence()), so one grain too much costs a timeout. A window below a grain that looks closed
 * costs a probe at worst, and opens with the receiver's next word of it.
 */
static __always_inline void rescale_window(struct packet *p, const struct lb_graft_leg *leg)
{
	__u32 window = p->window >> (leg->wscale_out & 15);

	if (window > 0xffff)
		window = 0xffff;
	p->diff += sum_diff(p->f.th.window, bpf_htons((__u16)window));
	p->f.th.window = bpf_htons((__u16)window);
}

/* The right edge of the window stays where it is. */
static __always_inline void hold_ack(struct packet *p, const struct lb_graft_leg *leg)
{
	struct tcphdr *th = &p->f.th;
	__u32 ahead = bpf_ntohl(th->ack_seq) + leg->ack_shift - leg->ack_limit;

	if (!leg->ack_limit || !th->ack || (__s32)ahead <= 0)
		return;
	change32(p, &th->ack_seq, bpf_htonl(bpf_ntohl(th->ack_seq) - ahead));
	p->window += ahead;
}

/*
 * A peer may have sent all that our socket promised it, beyond what the other peer takes. What it
 * acknowledges from there would be dropped (tcp_sequence()), and a receiver that reads only once it
 * has been heard would never read again. So it stands at the edge, as that of a sender whose window
 * has shrunk (tcp_acceptable_seq()); no lower, as no window is taken from a number that is older
 * than one that came before (tcp_may_update_window()).
 */
static __always_inline void hold_seq(struct packet *p, const struct lb_graft_leg *leg,
				     const struct lb_graft_leg *other)
{
	struct tcphdr *th = &p->f.th;
	__u32 seq = bpf_ntohl(th->seq), beyond = seq + leg->seq_shift - other->edge;

	if (p->payload || th->syn || th->fin || th->rst || (__s32)beyond <= 0)
		return;
	change32(p, &th->seq, bpf_htonl(seq - beyond));
}

/*
 * A SYN of a flow that lives: it is to be challenged, so that a client that really came back learns
 * of the old connection and resets it. An endpoint in TIME_WAIT must not take it for a new one
 * behind our back, as it would by its number or its timestamp (tcp_timewait_state_process): it gets
 * a number of the past and no option.
 */
static __always_inline void disarm_syn(struct packet *p, const struct lb_graft_leg *leg,
				       const struct lb_graft_leg *other)
{
	__be32 *word = (__be32 *)p->f.opt;
	__u32 words = (p->tcp_len - sizeof(struct tcphdr)) / 4;

	change32(p, &p->f.th.seq, bpf_htonl(other->ack_max - leg->seq_shift - 1));
	for (__u32 i = 0; i < OPT_MAX / 4; i++)
		if (i < words)
			change32(p, &word[i], 0x01010101); /* NOP */
}

static __always_inline void rewrite_tcp(struct packet *p, struct lb_graft_leg *leg,
					const struct lb_graft_leg *other, bool split)
{
	struct tcphdr *th = &p->f.th;

	/* First: they look at the numbers as they came. */
	if (p->tcp_len > sizeof(*th))
		rewrite_options(p, leg, other);
	if (split)
		hold_ack(p, leg);
	hold_seq(p, leg, other);
	p->diff += sum_diff(th->source, leg->sport) + sum_diff(th->dest, leg->dport);
	th->source = leg->sport;
	th->dest = leg->dport;
	change32(p, &th->seq, bpf_htonl(bpf_ntohl(th->seq) + leg->seq_shift));
	if (th->ack)
		change32(p, &th->ack_seq, bpf_htonl(bpf_ntohl(th->ack_seq) + leg->ack_shift));
	if (!th->syn)
		rescale_window(p, leg);
}

/*
 * Writes the rewritten headers and mends the checksums: of the address part as a pseudo header, of
 * TCP's own part without, so that CHECKSUM_PARTIAL and GSO packets come out right too.
 */
static __always_inline int write_headers(struct __sk_buff *skb, struct packet *p,
					 const struct lb_graft_leg *leg, bool decrement)
{
	__u32 check = ETH_HLEN + p->ip_len + __builtin_offsetof(struct tcphdr, check);
	__u64 addresses = 0;
	int r;

	if (p->ipv6) {
		struct ipv6hdr *ip = &p->f.ip6;
		__be32 *from = ip->saddr.in6_u.u6_addr32, *to = ip->daddr.in6_u.u6_addr32;

		for (int i = 0; i < 4; i++) {
			addresses += sum_diff(from[i], leg->saddr[i]);
			addresses += sum_diff(to[i], leg->daddr[i]);
			from[i] = leg->saddr[i];
			to[i] = leg->daddr[i];
		}
		addresses = fold(addresses);
		ip->hop_limit -= decrement;
		r = bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip) + tcp_len(p), 0);
	} else {
		struct iphdr *ip = &p->f.ip4;

		addresses = fold(sum_diff(ip->saddr, leg->saddr[0]) +
				 sum_diff(ip->daddr, leg->daddr[0]));
		ip->saddr = leg->saddr[0];
		ip->daddr = leg->daddr[0];
		ip->ttl -= decrement;
		ip->check = ~fold((__u16)~ip->check + addresses + (decrement ? TTL_DIFF : 0));
		r = bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip) + tcp_len(p), 0);
	}
	if (r)
		return r;
	r = bpf_l4_csum_replace(skb, check, 0, addresses, BPF_F_PSEUDO_HDR);
	/* IPv6 has no checksum that makes up for the new addresses and the hop: with
	 * CHECKSUM_COMPLETE the call above took from skb->csum what is really there (BPF_F_IPV6 of
	 * 6.16 says so, older kernels do not know it). */
	if (p->ipv6)
		bpf_csum_update(skb, addresses + (decrement ? HOP_LIMIT_DIFF : 0));
	return r ?: bpf_l4_csum_replace(skb, check, 0, fold(p->diff), 0);
}

static __always_inline int forward(struct __sk_buff *skb, struct packet *p,
				   struct lb_graft_leg *leg, struct lb_graft_leg *other,
				   __u32 stage)
{
	bool remote = leg->ifindex != 0, split = stage == LB_GRAFT_SPLIT;

	if (remote && (p->ipv6 ? p->f.ip6.hop_limit : p->f.ip4.ttl) <= 1) {
		count(LB_GRAFT_COUNT_HOP_LIMIT);
		return TC_ACT_SHOT;
	}
	/* A priority tag (VLAN 0) is not for the way out. */
	if (skb->vlan_present && bpf_skb_vlan_pop(skb))
		goto fail;
	/* Our socket must still learn what its peer acknowledges. */
	if (split && !p->f.th.syn && !p->f.th.rst)
		clone_marked(skb);
	note(p, leg, other, skb->gso_segs ?: 1, split);
	if (p->f.th.syn && !p->f.th.ack)
		disarm_syn(p, leg, other);
	rewrite_tcp(p, leg, other, split);
	if (write_headers(skb, p, leg, remote))
		goto fail;
	count(LB_GRAFT_COUNT_FORWARDED);
	return leave(skb, leg);
fail:
	count(LB_GRAFT_COUNT_FAILED);
	return TC_ACT_SHOT;
}

SEC("tc")
int tc_graft(struct __sk_buff *skb)
{
	struct lb_graft_leg *leg, *other;
	struct packet p = {};
	struct lb_graft *g;
	__u32 stage;
	int r;

	/* A tagged frame is its VLAN interface's business, and we are attached there too. */
	if (skb->vlan_present && (skb->vlan_tci & 0xfff))
		return TC_ACT_UNSPEC;
	r = parse(skb, &p);
	if (r == PARSED_ICMP)
		return translate_icmp(skb);
	if (r != PARSED_TCP)
		return TC_ACT_UNSPEC;
	g = find(&p);
	if (!g)
		return TC_ACT_UNSPEC;
	leg = &g->leg[p.leg & 1];
	other = &g->leg[(p.leg & 1) ^ 1];
	stage = *(volatile __u32 *)&g->stage;
	if (stage == LB_GRAFT_PASS) {
		set_flag(leg, LB_GRAFT_SEEN);
		if (p.irregular)
			set_flag(leg, LB_GRAFT_IRREGULAR);
		return TC_ACT_UNSPEC;
	}
	if (stage != LB_GRAFT_SPLIT && stage != LB_GRAFT_FULL)
		return TC_ACT_UNSPEC;
	if (p.irregular) {
		count(LB_GRAFT_COUNT_IRREGULAR);
		return TC_ACT_SHOT;
	}
	if (!parse_tcp(skb, &p, leg))
		return TC_ACT_SHOT; /* no whole TCP header: no socket would take it either */
	if (is_marked(skb))
		return stage == LB_GRAFT_SPLIT ? copy_for_us(skb, &p) : TC_ACT_SHOT;
	if (p.f.th.syn && !p.f.th.ack && has_ended(g)) {
		forget(&p, leg);
		set_flag(leg, LB_GRAFT_GONE);
		tell(&p);
		return TC_ACT_UNSPEC;
	}
	return forward(skb, &p, leg, other, stage);
}

char _license[] SEC("license") = "Dual MIT/GPL";
