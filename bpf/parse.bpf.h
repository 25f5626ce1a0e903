/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * Reads a frame as far as it must be known to find a TCP connection's first segment.
 *
 * Contract of parse_syn(): reads only, from <data> to <end>, and every byte it reads it has checked
 * to be there. PARSED_SYN: *s is filled in, addresses as in include/lb/admit.h, and the segment has
 * SYN and neither ACK nor RST. PARSED_OTHER: it is something else, or nothing that the kernel's TCP
 * would take. PARSED_SHORT: the bytes ended before it could be told.
 *
 * Of a packet in fragments the first one is judged: without it the rest comes to nothing.
 */
#ifndef LB_BPF_PARSE_H
#define LB_BPF_PARSE_H

#include <linux/types.h>
#include <stdbool.h>

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PARSE_VLANS      2
#define PARSE_EXTENSIONS 8
#define PARSE_IP_OFFSET  0x1fff
/* include/uapi/linux/in6.h has them behind a switch. */
#define PARSE_HOP      0
#define PARSE_ROUTING  43
#define PARSE_FRAGMENT 44
#define PARSE_AUTH     51
#define PARSE_DEST     60

enum parsed { PARSED_OTHER, PARSED_SHORT, PARSED_SYN };

struct tag {
	__be16 tci, type;
};

struct extension {
	__u8 next, len;
	__be16 offset; /* of the fragment header */
};

struct syn {
	__be32 saddr[4], daddr[4];
	__be16 dport;
};

/* <room>: bytes that IP says are there from <pos> on. */
static __always_inline int parse_tcp(const __u8 *pos, const __u8 *end, __u32 room, struct syn *s)
{
	const struct tcphdr *th = (const struct tcphdr *)pos;

	if (room < sizeof(*th))
		return PARSED_OTHER;
	if ((const __u8 *)(th + 1) > end)
		return PARSED_SHORT;
	if (!th->syn || th->ack || th->rst)
		return PARSED_OTHER;
	s->dport = th->dest;
	return PARSED_SYN;
}

static __always_inline int parse_ipv4(const __u8 *pos, const __u8 *end, struct syn *s)
{
	const struct iphdr *ip = (const struct iphdr *)pos;
	__u32 len, total;

	if ((const __u8 *)(ip + 1) > end)
		return PARSED_SHORT;
	len = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (ip->version != 4 || len < sizeof(*ip) || total < len)
		return PARSED_OTHER;
	if (ip->protocol != IPPROTO_TCP || (ip->frag_off & bpf_htons(PARSE_IP_OFFSET)))
		return PARSED_OTHER;
	s->saddr[0] = s->saddr[1] = s->daddr[0] = s->daddr[1] = 0;
	s->saddr[2] = s->daddr[2] = bpf_htonl(0xffff);
	s->saddr[3] = ip->saddr;
	s->daddr[3] = ip->daddr;
	return parse_tcp(pos + len, end, total - len, s);
}

static __always_inline int parse_ipv6(const __u8 *pos, const __u8 *end, struct syn *s)
{
	const struct ipv6hdr *ip = (const struct ipv6hdr *)pos;
	__u32 room, len = sizeof(*ip);
	__u8 next;

	if ((const __u8 *)(ip + 1) > end)
		return PARSED_SHORT;
	if (ip->version != 6)
		return PARSED_OTHER;
	room = bpf_ntohs(ip->payload_len);
	__builtin_memcpy(s->saddr, &ip->saddr, 16);
	__builtin_memcpy(s->daddr, &ip->daddr, 16);
	next = ip->nexthdr;
	for (int i = 0; i <= PARSE_EXTENSIONS; i++) {
		const struct extension *ext = (const struct extension *)(pos + len);
		__u32 step;

		if (next == IPPROTO_TCP)
			return parse_tcp(pos + len, end, room, s);
		if (next != PARSE_HOP && next != PARSE_ROUTING && next != PARSE_DEST &&
		    next != PARSE_FRAGMENT && next != PARSE_AUTH)
			return PARSED_OTHER;
		if ((const __u8 *)(ext + 1) > end)
			return PARSED_SHORT;
		if (next == PARSE_FRAGMENT && (ext->offset & bpf_htons(0xfff8)))
			return PARSED_OTHER;
		if (next == PARSE_FRAGMENT)
			step = 8;
		else if (next == PARSE_AUTH)
			step = (ext->len + 2) * 4;
		else
			step = (ext->len + 1) * 8;
		if (room < step)
			return PARSED_OTHER;
		room -= step;
		len += step;
		next = ext->next;
	}
	return PARSED_OTHER;
}

static __always_inline int parse_syn(const void *data, const __u8 *end, struct syn *s)
{
	const struct ethhdr *eth = data;
	const __u8 *pos = (const __u8 *)(eth + 1);
	__be16 type;

	if (pos > end)
		return PARSED_SHORT;
	type = eth->h_proto;
	for (int i = 0; i < PARSE_VLANS; i++) {
		const struct tag *tag = (const struct tag *)pos;

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if ((const __u8 *)(tag + 1) > end)
			return PARSED_SHORT;
		type = tag->type;
		pos = (const __u8 *)(tag + 1);
	}
	if (type == bpf_htons(ETH_P_IP))
		return parse_ipv4(pos, end, s);
	if (type == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(pos, end, s);
	return PARSED_OTHER;
}

#endif
