/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What both hooks do with a SYN: find the rule it is for, judge its client, count. See
 * include/lb/admit.h; it must never drop what is not for a rule, or for a daemon that is gone.
 */
#ifndef LB_BPF_ADMIT_H
#define LB_BPF_ADMIT_H

#include "acl.bpf.h"
#include "parse.bpf.h"
#include "rate_limit.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, LB_ADMIT_LISTENERS_MAX);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_admit_listener);
	__type(value, __u32); /* rule */
} lb_listeners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, LB_ADMIT_RULES_MAX);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct lb_admit_rule);
} lb_admit_rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_ADMIT_RULES_MAX *LB_ADMIT_HOOK_MAX_);
	__type(key, __u32); /* rule * LB_ADMIT_HOOK_MAX_ + hook */
	__type(value, struct lb_admit_counts);
} lb_admit_count SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct lb_admit_meta);
} lb_admit_meta SEC(".maps");

#define TICK_MAX_NS 10000000ull /* CONFIG_HZ=100 */

/* What becomes of the SYN, if the time is before *until. Whoever may pass needs no clock. */
static __always_inline enum lb_admit_verdict judge(const struct syn *s, __u32 rule, __u64 *until)
{
	const struct lb_admit_rule *r = bpf_map_lookup_elem(&lb_admit_rules, &rule);
	__u64 all;

	*until = ~0ull; /* for ever */
	if (!r)
		return LB_ADMIT_PASSED;
	if (r->acl && !acl_allows(rule, s->saddr))
		return LB_ADMIT_ACL_DENIED;
	if (!r->rate_limit)
		return LB_ADMIT_PASSED;
	all = r->refused_until_ns;
	*until = rate_limit_until(rule, s->saddr, r->ipv6_prefix);
	if (*until > all)
		return LB_ADMIT_RATE_LIMITED;
	*until = all;
	return all ? LB_ADMIT_RULE_RATE_LIMITED : LB_ADMIT_PASSED;
}

/* The daemon lives, and it is not yet <until>. */
static __always_inline bool is_in_force(__u64 until)
{
	const struct lb_admit_meta *meta;
	__u64 now = bpf_ktime_get_coarse_ns();
	__u32 zero = 0;

	meta = bpf_map_lookup_elem(&lb_admit_meta, &zero);
	if (!meta || now >= meta->lease_ns)
		return false;
	/* Tokens are exact, so the exact clock decides; but not where the other one, which is late
	 * by a tick at most, leaves no doubt. */
	return until > now + TICK_MAX_NS || until > bpf_ktime_get_ns();
}

/* True when the SYN is to be dropped. */
static __always_inline bool admit_refuses(const struct syn *s, enum lb_admit_hook hook)
{
	struct lb_admit_listener to = {.port = s->dport};
	enum lb_admit_verdict verdict;
	struct lb_admit_counts *counts;
	const __u32 *rule;
	__u64 until;
	__u32 at;

	__builtin_memcpy(to.addr, s->daddr, sizeof(to.addr));
	rule = bpf_map_lookup_elem(&lb_listeners, &to);
	if (!rule)
		return false;
	verdict = judge(s, *rule, &until);
	if (verdict != LB_ADMIT_PASSED && !is_in_force(until))
		verdict = LB_ADMIT_PASSED;
	at = *rule * LB_ADMIT_HOOK_MAX_ + hook;
	counts = bpf_map_lookup_elem(&lb_admit_count, &at);
	if (counts && verdict < LB_ADMIT_VERDICT_MAX_)
		counts->n[verdict]++;
	return verdict != LB_ADMIT_PASSED;
}

#endif
