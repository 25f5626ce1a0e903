/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What all parts of the graft program share: the tables, a packet as it was read, and the copy of a
 * packet that our own socket gets while a flow is taken over.
 *
 * Contract of parse(): reads only; a packet that is too short for what its headers say is not ours.
 * Fields keep network byte order, lengths are in bytes.
 */
#ifndef LB_BPF_GRAFT_H
#define LB_BPF_GRAFT_H

#include "kernel.bpf.h"

#define LB_LOOPBACK  1 /* ifindex of lo in every namespace (include/linux/netdevice.h) */
#define IP_MF_OFFSET 0x3fff
#define IP_OFFSET    0x1fff
#define IP_HDR_MIN   20u
#define TCP_HDR_MAX  60u
/* include/uapi/linux/in6.h has them behind a switch. */
#define NEXT_HOP      0
#define NEXT_ROUTING  43
#define NEXT_FRAGMENT 44
#define NEXT_DEST     60
#define EXTENSIONS    4

/* Sizes are placeholders: the daemon sets them before load. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_graft_v4);
	__type(value, __u32); /* pair * 2 + leg */
} lb_graft_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_graft_v6);
	__type(value, __u32);
} lb_graft_v6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* pair */
	__type(value, struct lb_graft);
} lb_grafts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LB_GRAFT_RING_BYTES);
} lb_graft_ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct lb_graft_meta);
} lb_graft_meta SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_GRAFT_COUNT_MAX_);
	__type(key, __u32); /* enum lb_graft_counter */
	__type(value, __u64);
} lb_graft_count SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *n = bpf_map_lookup_elem(&lb_graft_count, &which);

	if (n)
		++*n;
}

static __always_inline struct lb_graft_meta *meta_of(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&lb_graft_meta, &zero);
}

/* The pair that <index>, the value of a key, names. NULL: none. */
static __always_inline struct lb_graft *pair_of(const __u32 *index, __u32 *leg)
{
	__u32 pair;

	if (!index)
		return NULL;
	*leg = *index & 1;
	pair = *index >> 1;
	return bpf_map_lookup_elem(&lb_grafts, &pair);
}

/* Both families end where TCP begins, so that one store writes all of it back. */
struct frame {
	union {
		struct ipv6hdr ip6;
		struct {
			__u8 before[sizeof(struct ipv6hdr) - sizeof(struct iphdr)];
			struct iphdr ip4;
		};
	};
	struct tcphdr th;
	__u8 opt[TCP_HDR_MAX - sizeof(struct tcphdr)];
	__u8 spare[4]; /* whole words for bpf_csum_diff, whatever the walk reads */
};

struct packet {
	struct frame f __attribute__((aligned(8)));
	__u32 ip_len;  /* of the IP header */
	__u32 tcp_len; /* of the TCP header */
	__u32 payload;
	__u32 window; /* as announced, scaled */
	__u64 diff;   /* what the changes of TCP's header and options add to their sum */
	__u32 pair, leg;
	bool ipv6;
	bool irregular;
	bool whole; /* f.th was read with the IP header and is right if nothing is in between */
};

/*
 * The compiler knows it from parse_tcp(); the verifier has to be shown, and anew in front of every
 * call that takes it as a size: of what waited on the stack 6.1 does not know the bounds any more.
 */
static __always_inline __u32 tcp_len(const struct packet *p)
{
	__u32 len = p->tcp_len;

	asm volatile("" : "+r"(len));
	return len < TCP_HDR_MAX ? len : TCP_HDR_MAX;
}

enum parsed {
	PARSED_NOT_OURS,
	PARSED_TCP,  /* addresses and ports are there; parse_tcp() for the rest */
	PARSED_ICMP, /* .. ip_len is there, and the rest is translate_icmp()'s */
};

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__u16)sum;
}

/* What one hop less adds to the sum of an IPv4 and of an IPv6 header. */
#define TTL_DIFF       bpf_htons(0xfeff)
#define HOP_LIMIT_DIFF bpf_htons(0xfffe)

/* Of two words in the packet: what <to> in <from>'s place adds to a sum. */
static __always_inline __u64 sum_diff(__be32 from, __be32 to)
{
	return (__u64)(__u32)~from + to;
}

static __always_inline void change32(struct packet *p, __be32 *field, __be32 to)
{
	p->diff += sum_diff(*field, to);
	*field = to;
}

/*
 * <n> bytes, a constant and whole words, from the IP header on. Nearly always all of them are in
 * the linear part of the packet; a driver that leaves them elsewhere pays for a call.
 */
static __always_inline bool read_headers(struct __sk_buff *skb, void *to, __u32 n)
{
	const __u8 *ip = (__u8 *)(long)skb->data + ETH_HLEN, *end = (__u8 *)(long)skb->data_end;

	if (ip + n > end)
		return !bpf_skb_load_bytes(skb, ETH_HLEN, to, n);
	for (__u32 i = 0; i < n / 4; i++) /* memcpy would go byte by byte */
		((__u32 *)to)[i] = ((const __u32 *)ip)[i];
	return true;
}

static __always_inline int parse_v4(struct __sk_buff *skb, struct packet *p)
{
	struct iphdr *ip = &p->f.ip4;

	/* With TCP's in one go: most packets have it, and no IP options. */
	p->whole = read_headers(skb, ip, sizeof(*ip) + sizeof(p->f.th));
	if (!p->whole && !read_headers(skb, ip, sizeof(*ip)))
		return PARSED_NOT_OURS;
	p->ip_len = ip->ihl * 4;
	if (ip->version != 4 || p->ip_len < IP_HDR_MIN)
		return PARSED_NOT_OURS;
	if (ip->protocol == IPPROTO_ICMP)
		return PARSED_ICMP;
	/* Fragments but the first have no ports; without the first they come to nothing. */
	if (ip->protocol != IPPROTO_TCP || (ip->frag_off & bpf_htons(IP_OFFSET)))
		return PARSED_NOT_OURS;
	p->irregular = p->ip_len != IP_HDR_MIN || (ip->frag_off & bpf_htons(IP_MF_OFFSET));
	return PARSED_TCP;
}

/* Walks over the headers between IPv6 and TCP, if that is what follows. */
static __always_inline int skip_extensions(struct __sk_buff *skb, struct packet *p, __u8 next)
{
	for (int i = 0; i < EXTENSIONS; i++) {
		struct {
			__u8 next, len;
			__be16 offset; /* fragment header */
		} ext;

		if (next == IPPROTO_TCP)
			return PARSED_TCP;
		if (next != NEXT_HOP && next != NEXT_ROUTING && next != NEXT_DEST &&
		    next != NEXT_FRAGMENT)
			return PARSED_NOT_OURS;
		if (bpf_skb_load_bytes(skb, ETH_HLEN + p->ip_len, &ext, sizeof(ext)))
			return PARSED_NOT_OURS;
		if (next == NEXT_FRAGMENT && (ext.offset & bpf_htons(0xfff8)))
			return PARSED_NOT_OURS;
		p->ip_len += next == NEXT_FRAGMENT ? 8 : (ext.len + 1) * 8;
		next = ext.next;
	}
	return next == IPPROTO_TCP ? PARSED_TCP : PARSED_NOT_OURS;
}

static __always_inline int parse_v6(struct __sk_buff *skb, struct packet *p)
{
	struct ipv6hdr *ip = &p->f.ip6;

	p->ipv6 = true;
	p->ip_len = sizeof(*ip);
	p->whole = read_headers(skb, ip, sizeof(*ip) + sizeof(p->f.th));
	if (!p->whole && !read_headers(skb, ip, sizeof(*ip)))
		return PARSED_NOT_OURS;
	if (ip->version != 6)
		return PARSED_NOT_OURS;
	if (ip->nexthdr == IPPROTO_TCP)
		return PARSED_TCP;
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return PARSED_ICMP;
	p->irregular = true;
	return skip_extensions(skb, p, ip->nexthdr);
}

/* Only what can be ours comes back as PARSED_TCP or PARSED_ICMP. */
static __always_inline int parse(struct __sk_buff *skb, struct packet *p)
{
	int r = PARSED_NOT_OURS;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		r = parse_v4(skb, p);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		r = parse_v6(skb, p);
	if (r == PARSED_TCP && (p->irregular || !p->whole) &&
	    bpf_skb_load_bytes(skb, ETH_HLEN + p->ip_len, &p->f.th, sizeof(p->f.th)))
		return PARSED_NOT_OURS;
	return r;
}

/* The options and the lengths. False when headers and lengths contradict each other. */
static __always_inline bool parse_tcp(struct __sk_buff *skb, struct packet *p,
				      const struct lb_graft_leg *leg)
{
	__u32 head = p->f.th.doff * 4, total, options;

	/* A frame may be padded, so its own length counts only where IP gives none: above 64 KB
	 * (BIG TCP), and then nothing is padded. */
	if (p->ipv6)
		total = p->f.ip6.payload_len ? bpf_ntohs(p->f.ip6.payload_len) + p->ip_len : 0;
	else
		total = bpf_ntohs(p->f.ip4.tot_len);
	if (!total)
		total = skb->len - ETH_HLEN;
	if (head < sizeof(struct tcphdr) || p->ip_len + head > total || total > skb->len - ETH_HLEN)
		return false;
	options = head - sizeof(struct tcphdr);
	asm volatile("" : "+r"(options));
	if (options > sizeof(p->f.opt))
		return false;
	/* Whole words. `!= 0` would not tell a verifier before 6.8 that it is 1 at least, and none
	 * takes a size that may be 0 (d028f87517d6, "tracks the 'not equal' for regs"). */
	if (options > 3) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + p->ip_len + sizeof(struct tcphdr), p->f.opt,
				       options))
			return false;
	}
	p->tcp_len = sizeof(struct tcphdr) + options;
	p->payload = total - p->ip_len - head;
	p->window = (__u32)bpf_ntohs(p->f.th.window) << (leg->wscale_in & 15);
	return true;
}

/* What was rewritten with <leg> goes where it belongs. The program's last word. */
static __always_inline int leave(struct __sk_buff *skb, const struct lb_graft_leg *leg)
{
	/* Already where local packets arrive, with the route it was sent with. */
	if (!leg->ifindex && skb->ifindex == LB_LOOPBACK)
		return TC_ACT_UNSPEC;
	/* To an end on this host it goes the way its own packets go, out by lo: that gives it a
	 * route. A packet that came in on lo without one would look forged, both its addresses
	 * being this host's (ip_route_input_slow, fib_validate_source). */
	return bpf_redirect_neigh(leg->ifindex ?: LB_LOOPBACK, NULL, 0, 0);
}

/* --- our own socket's copy -------------------------------------------------------------------- */

/*
 * A clone goes in again at the front of this interface, marked by its source address: it is for our
 * own stack. Of TCP, copy_for_us() makes it harmless there.
 */
static __always_inline void clone_marked(struct __sk_buff *skb)
{
	struct lb_graft_meta *meta = meta_of();

	/* On lo it goes round once more: what goes in at the front loses its route. */
	if (meta && !bpf_skb_store_bytes(skb, ETH_ALEN, meta->mark, ETH_ALEN, 0))
		bpf_clone_redirect(skb, skb->ifindex,
				   skb->ifindex == LB_LOOPBACK ? 0 : BPF_F_INGRESS);
}

static __always_inline bool is_marked(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	const struct lb_graft_meta *meta = meta_of();
	const struct ethhdr *eth = data;

	if (!meta || (void *)(eth + 1) > end)
		return false;
	return *(__u32 *)eth->h_source == *(__u32 *)meta->mark &&
	       *(__u16 *)(eth->h_source + 4) == *(__u16 *)(meta->mark + 4);
}

/* Where our socket of this leg stands. */
struct position {
	__u32 rcv_nxt, snd_nxt;
};

/* Half closed or not; false when the socket is gone. */
static __always_inline bool our_socket(struct __sk_buff *skb, const struct packet *p,
				       struct position *ret)
{
	struct bpf_sock_tuple t = {};
	struct tcp_sock *tp = NULL;
	struct bpf_sock *sk;
	__u32 size;
	bool found = false;

	if (p->ipv6) {
		__builtin_memcpy(t.ipv6.saddr, &p->f.ip6.saddr, 16);
		__builtin_memcpy(t.ipv6.daddr, &p->f.ip6.daddr, 16);
		t.ipv6.sport = p->f.th.source;
		t.ipv6.dport = p->f.th.dest;
		size = sizeof(t.ipv6);
		sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	} else {
		t.ipv4.saddr = p->f.ip4.saddr;
		t.ipv4.daddr = p->f.ip4.daddr;
		t.ipv4.sport = p->f.th.source;
		t.ipv4.dport = p->f.th.dest;
		size = sizeof(t.ipv4);
		sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return false;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp) {
		__u8 state = ((const struct sock *)tp)->__sk_common.skc_state;

		*ret = (struct position){tp->rcv_nxt, tp->snd_nxt};
		found = state != LB_TCP_LISTEN;
	}
	bpf_sk_release(sk);
	return found;
}

/*
 * A packet without payload that says nothing but: your peer has acknowledged this. Its sequence
 * number is the one our socket expects, or the socket would not look at the rest. The
 * acknowledgement ends where our socket's own bytes end, and of those the ones it has sent: the
 * other peer may have sent again what our socket still has to, and of an acknowledgement of unsent
 * bytes a socket believes nothing at all (tcp_ack).
 */
static __always_inline int copy_for_us(struct __sk_buff *skb, struct packet *p)
{
	__u32 len = tcp_len(p), ip_len = p->ipv6 ? sizeof(struct ipv6hdr) : IP_HDR_MIN;
	struct position at;
	struct tcphdr *th = &p->f.th;
	__u32 ack = bpf_ntohl(th->ack_seq);
	__u64 sum;
	int r;

	if (!th->ack || !our_socket(skb, p, &at))
		return TC_ACT_SHOT;
	if ((__s32)(ack - at.snd_nxt) > 0)
		ack = at.snd_nxt;
	th->ack_seq = bpf_htonl(ack);
	th->seq = bpf_htonl(at.rcv_nxt);
	th->fin = th->psh = th->urg = 0;
	th->urg_ptr = 0;
	th->check = 0;
	if (bpf_skb_change_tail(skb, ETH_HLEN + ip_len + len, 0))
		return TC_ACT_SHOT;
	sum = (__u32)bpf_csum_diff(NULL, 0, (__be32 *)th, tcp_len(p), 0);
	sum += bpf_htonl(len) + bpf_htonl(IPPROTO_TCP);
	if (p->ipv6) {
		struct ipv6hdr *ip = &p->f.ip6;

		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&ip->saddr, 32, 0);
		th->check = ~fold(sum);
		ip->payload_len = bpf_htons((__u16)len);
		r = bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip) + tcp_len(p),
					BPF_F_RECOMPUTE_CSUM);
	} else {
		struct iphdr *ip = &p->f.ip4;

		sum += (__u32)bpf_csum_diff(NULL, 0, (__be32 *)&ip->saddr, 8, 0);
		th->check = ~fold(sum);
		ip->tot_len = bpf_htons((__u16)(IP_HDR_MIN + len));
		ip->check = 0;
		ip->check = ~fold((__u32)bpf_csum_diff(NULL, 0, (__be32 *)ip, sizeof(*ip), 0));
		r = bpf_skb_store_bytes(skb, ETH_HLEN, ip, sizeof(*ip) + tcp_len(p),
					BPF_F_RECOMPUTE_CSUM);
	}
	if (r)
		return TC_ACT_SHOT;
	count(LB_GRAFT_COUNT_COPIED);
	return TC_ACT_UNSPEC;
}

#endif
