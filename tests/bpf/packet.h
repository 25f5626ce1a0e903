/* SPDX-License-Identifier: MIT */
/*
 * A TCP segment as a test thinks of it, and the frame it is on the wire, checksums from scratch:
 * the model against which the programs are held. Knows nothing of them.
 */
#ifndef TESTS_BPF_PACKET_H
#define TESTS_BPF_PACKET_H

#include <arpa/inet.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FRAME_MAX 4096u
#define ETH_LEN   14u
#define IP4_LEN   20u
#define IP6_LEN   40u
#define TCP_LEN   20u

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16, URG = 32, ECE = 64, CWR = 128 };

/* Options as bytes: OPT(NOP, NOP, TS(value, echo)). */
#define B32(v)                                                                 \
	(uint8_t)((uint32_t)(v) >> 24), (uint8_t)((uint32_t)(v) >> 16 & 0xff), \
		(uint8_t)((uint32_t)(v) >> 8 & 0xff), (uint8_t)((uint32_t)(v)&0xff)
#define NOP                     1
#define EOL                     0
#define TS(value, echo)         8, 10, B32(value), B32(echo)
#define SACK1(a, b)             5, 10, B32(a), B32(b)
#define SACK2(a, b, c, d)       5, 18, B32(a), B32(b), B32(c), B32(d)
#define SACK3(a, b, c, d, e, f) 5, 26, B32(a), B32(b), B32(c), B32(d), B32(e), B32(f)
#define OPT(...)                                                            \
	{                                                                   \
		.n = sizeof((uint8_t[]){__VA_ARGS__}), .b = { __VA_ARGS__ } \
	}

struct options {
	size_t n; /* a multiple of 4 */
	uint8_t b[40];
};

/* One end of a connection; IPv4 in the last four bytes. */
struct end {
	uint8_t addr[16];
	uint16_t port;
};

struct segment {
	bool ipv6;
	struct end from, to;
	uint8_t tos, ttl;
	uint16_t frag;          /* IPv4: flags and offset as in the header */
	const uint8_t *between; /* IPv4 options or IPv6 extension headers, a multiple of 4 or 8 */
	size_t between_n;
	uint8_t next; /* IPv6: kind of the first extension header */
	uint32_t seq, ack;
	uint8_t flags;
	uint16_t window, urgent;
	struct options opt;
	size_t payload;
	size_t padding; /* bytes behind the IP packet */
};

struct frame_bytes {
	size_t n;
	uint8_t b[FRAME_MAX];
};

static inline void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
}

static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* RFC 1071, octet pairs in network byte order. */
static inline uint32_t sum16(const uint8_t *p, size_t n, uint32_t sum)
{
	for (size_t i = 0; i + 1 < n; i += 2)
		sum += get16(p + i);
	if (n & 1)
		sum += (uint32_t)p[n - 1] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static inline uint32_t pseudo_sum(bool ipv6, const uint8_t *ip, uint8_t protocol, size_t n)
{
	uint32_t sum = ipv6 ? sum16(ip + 8, 32, 0) : sum16(ip + 12, 8, 0);

	return sum + protocol + (uint32_t)n;
}

static inline uint8_t payload_byte(size_t i)
{
	return (uint8_t)(i * 151 + 43);
}

static inline size_t build_ip(const struct segment *s, uint8_t *ip, size_t tcp_bytes)
{
	size_t n = (s->ipv6 ? IP6_LEN : IP4_LEN) + s->between_n;

	if (s->ipv6) {
		ip[0] = (uint8_t)(0x60 | s->tos >> 4);
		ip[1] = (uint8_t)(s->tos << 4);
		put16(ip + 4, (uint16_t)(s->between_n + tcp_bytes));
		ip[6] = s->between_n ? s->next : 6;
		ip[7] = s->ttl;
		memcpy(ip + 8, s->from.addr, 16);
		memcpy(ip + 24, s->to.addr, 16);
		if (s->between_n)
			memcpy(ip + IP6_LEN, s->between, s->between_n);
	} else {
		ip[0] = (uint8_t)(0x40 | n / 4);
		ip[1] = s->tos;
		put16(ip + 2, (uint16_t)(n + tcp_bytes));
		put16(ip + 4, 0x1234);
		put16(ip + 6, s->frag);
		ip[8] = s->ttl;
		ip[9] = 6;
		memcpy(ip + 12, s->from.addr + 12, 4);
		memcpy(ip + 16, s->to.addr + 12, 4);
		if (s->between_n)
			memcpy(ip + IP4_LEN, s->between, s->between_n);
		put16(ip + 10, (uint16_t)~sum16(ip, n, 0));
	}
	return n;
}

static inline struct frame_bytes build(const struct segment *s)
{
	size_t head = TCP_LEN + s->opt.n, tcp_bytes = head + s->payload, ip_len;
	struct frame_bytes f = {};
	uint8_t *ip = f.b + ETH_LEN, *tcp;

	memset(f.b, 0x02, 12); /* both addresses locally administered */
	put16(f.b + 12, s->ipv6 ? 0x86dd : 0x0800);
	ip_len = build_ip(s, ip, tcp_bytes);
	tcp = ip + ip_len;
	put16(tcp, s->from.port);
	put16(tcp + 2, s->to.port);
	put32(tcp + 4, s->seq);
	put32(tcp + 8, s->ack);
	tcp[12] = (uint8_t)(head / 4 << 4);
	tcp[13] = s->flags;
	put16(tcp + 14, s->window);
	put16(tcp + 18, s->urgent);
	memcpy(tcp + TCP_LEN, s->opt.b, s->opt.n);
	for (size_t i = 0; i < s->payload; i++)
		tcp[head + i] = payload_byte(i);
	put16(tcp + 16, (uint16_t)~sum16(tcp, tcp_bytes, pseudo_sum(s->ipv6, ip, 6, tcp_bytes)));
	f.n = ETH_LEN + ip_len + tcp_bytes;
	memset(f.b + f.n, 0xa5, s->padding);
	f.n += s->padding;
	return f;
}

#endif
