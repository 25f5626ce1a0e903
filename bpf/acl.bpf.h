/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The search in an access list, see include/lb/admit.h; userspace/flow/acl.c is its twin and makes
 * the lists. Decides only whether an address is allowed.
 *
 * The kernel's own LPM trie would do a node for every bit that tells two prefixes apart, each in a
 * cache line of its own (kernel/bpf/lpm_trie.c): a million prefixes cost it more than 20 of them.
 */
#ifndef LB_BPF_ACL_H
#define LB_BPF_ACL_H

#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lb/admit.h>

struct lb_acl_v4_list {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32)); /* clang forgets what an inner map's pointer points to */
	__uint(value_size, sizeof(struct lb_acl_v4_node));
};

struct lb_acl_v6_list {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct lb_acl_v6_node));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LB_ADMIT_RULES_MAX);
	__type(key, __u32); /* rule */
	__array(values, struct lb_acl_v4_list);
} lb_acl_v4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, LB_ADMIT_RULES_MAX);
	__type(key, __u32);
	__array(values, struct lb_acl_v6_list);
} lb_acl_v6 SEC(".maps");

/*
 * 1 when a - b - borrow is below zero. By arithmetic: a branch for each key could not be predicted,
 * and the verifier would follow every one.
 */
static __always_inline __u64 below(__u64 a, __u64 b, __u64 borrow)
{
	__u64 r = (~a & b) | (~(a ^ b) & (a - b - borrow));

	asm volatile("" : "+r"(r));
	return r >> 63;
}

/* How many keys are not beyond the address. */
static __always_inline __u32 acl_v4_child(const struct lb_acl_v4_node *n, __u32 addr)
{
	__u64 beyond = 0;

	for (int i = 0; i < LB_ACL_V4_KEYS; i++) {
		__u64 r = (__u64)addr - n->key[i];

		asm volatile("" : "+r"(r));
		beyond += r >> 63;
	}
	return LB_ACL_V4_KEYS - beyond;
}

static __always_inline __u32 acl_v6_child(const struct lb_acl_v6_node *n, __u64 high, __u64 low)
{
	__u64 beyond = 0;

	for (int i = 0; i < LB_ACL_V6_KEYS; i++)
		beyond += below(high, n->key[i].high, below(low, n->key[i].low, 0));
	return LB_ACL_V6_KEYS - beyond;
}

/* A rule whose list is not there (yet) lets everybody pass: the daemon judges. */
static __always_inline bool acl_v4_allows(__u32 rule, __u32 addr)
{
	void *list = bpf_map_lookup_elem(&lb_acl_v4, &rule);
	__u32 at = 0, child;
	bool allowed = true;

	if (!list)
		return true;
	for (int level = 0; level < LB_ACL_LEVELS; level++) {
		const struct lb_acl_v4_node *n = bpf_map_lookup_elem(list, &at);

		if (!n)
			break;
		child = acl_v4_child(n, addr);
		allowed = n->verdicts >> (child & 31) & 1;
		at = at * (LB_ACL_V4_KEYS + 1) + child + 1;
	}
	return allowed;
}

static __always_inline bool acl_v6_allows(__u32 rule, __u64 high, __u64 low)
{
	void *list = bpf_map_lookup_elem(&lb_acl_v6, &rule);
	__u32 at = 0, child;
	bool allowed = true;

	if (!list)
		return true;
	for (int level = 0; level < LB_ACL_LEVELS; level++) {
		const struct lb_acl_v6_node *n = bpf_map_lookup_elem(list, &at);

		if (!n)
			break;
		child = acl_v6_child(n, high, low);
		allowed = n->verdicts >> (child & 31) & 1;
		at = at * (LB_ACL_V6_KEYS + 1) + child + 1;
	}
	return allowed;
}

static __always_inline bool acl_allows(__u32 rule, const __be32 addr[4])
{
	if (!addr[0] && !addr[1] && addr[2] == bpf_htonl(0xffff))
		return acl_v4_allows(rule, bpf_ntohl(addr[3]));
	return acl_v6_allows(rule, (__u64)bpf_ntohl(addr[0]) << 32 | bpf_ntohl(addr[1]),
			     (__u64)bpf_ntohl(addr[2]) << 32 | bpf_ntohl(addr[3]));
}

#endif
