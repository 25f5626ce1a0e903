/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The kernel's side of `rate_limit`: drops the SYNs of a client that has no token until it has one
 * again. Tokens are spent by the daemon alone, for connections whose handshake is complete, and so
 * are entries made: a forged SYN can do neither. userspace/flow/rate_limit.c has the buckets.
 */
#ifndef LB_BPF_RATE_LIMIT_H
#define LB_BPF_RATE_LIMIT_H

#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lb/admit.h>

struct {
	__uint(type, BPF_MAP_TYPE_HASH); /* the daemon takes out who may come again */
	__uint(max_entries, LB_ADMIT_REFUSED_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_admit_client);
	__type(value, __u64);
} lb_refused SEC(".maps");

static __always_inline __be32 rate_limit_word(__be32 word, __u32 bits, __u32 first)
{
	if (bits >= first + 32)
		return word;
	return bits <= first ? 0 : word & bpf_htonl(~0u << ((first + 32 - bits) & 31));
}

/* Until when the client is refused; 0: it is not. */
static __always_inline __u64 rate_limit_until(__u32 rule, const __be32 addr[4], __u32 ipv6_prefix)
{
	bool ipv4 = !addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff);
	__u32 bits = ipv4 ? 128 : ipv6_prefix;
	struct lb_admit_client key = {.rule = rule};
	const __u64 *until;

	for (__u32 i = 0; i < 4; i++)
		key.addr[i] = rate_limit_word(addr[i], bits, 32 * i);
	until = bpf_map_lookup_elem(&lb_refused, &key);
	return until ? *until : 0;
}

#endif
