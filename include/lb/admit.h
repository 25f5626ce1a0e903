/* SPDX-License-Identifier: MIT */
/*
 * Admission: which clients may open a connection to which rule. The daemon owns the policy and
 * enforces all of it when it accepts; the programs at XDP and TC ingress look at the same tables
 * and drop the SYN of a client that would be refused, before it costs a socket.
 *
 * The programs only ever drop a SYN for an address and port that a rule listens on, in a frame for
 * this host, and only while the daemon lives (<lease_ns>). What they cannot judge they pass: the
 * daemon will.
 *
 * ACCESS LISTS. `allow_list` and `deny_list` become one sorted list of the addresses at which the
 * verdict changes, and that a static search tree whose nodes are cache lines:
 *
 *	node n has the keys key[0] < key[1] < ..; child c of node n is node n * (keys + 1) + c + 1.
 *
 * The verdict for an address is that of the greatest key that is not beyond it. In the search, the
 * last node that is there knows it:
 *
 *	bit c of <verdicts>: 1 when addresses just before key[c] (and after key[c - 1]) are allowed.
 *
 * Places without a key hold the greatest address; the verdict at and after it is that of the
 * greatest address itself.
 */
#ifndef LB_ADMIT_H
#define LB_ADMIT_H

#include <linux/types.h>

/* Raised when the layout or meaning of anything here changes. */
#define LB_ADMIT_ABI 1

#define LB_ADMIT_RULES_MAX     4096u   /* rules whose clients the programs can judge */
#define LB_ADMIT_LISTENERS_MAX 65536u  /* addresses and ports they listen on */
#define LB_ADMIT_REFUSED_MAX   131072u /* clients without a token that are remembered */
#define LB_ADMIT_CARDS_MAX     4096u   /* interfaces: a power of two */

/* An address is four words in network order; IPv4 is mapped (::ffff:a.b.c.d). */
struct lb_admit_listener {
	__be32 addr[4];
	__be16 port;
	__u8 pad[2];
};

/* What a rule asks for; the index is the rule's. */
struct lb_admit_rule {
	__u64 refused_until_ns; /* CLOCK_MONOTONIC: all clients together have used up their rate */
	__u8 acl;         /* it has access lists, under its index in lb_acl_v4 and lb_acl_v6 */
	__u8 rate_limit;  /* it has clients in lb_refused */
	__u8 ipv6_prefix; /* as many bits make a client */
	__u8 pad[5];
};

/* A client of a rule; its address is cut to the rule's prefix. */
struct lb_admit_client {
	__u32 rule;
	__be32 addr[4];
};
/*
 * lb_refused: client -> until then its SYNs are dropped, CLOCK_MONOTONIC ns. Full, it takes nobody
 * else: those are refused by the daemon.
 */

struct lb_admit_meta {
	__u64 lease_ns; /* CLOCK_MONOTONIC: then the daemon is dead, and nothing is dropped */
	__u32 instance; /* whose: a hash of its name */
	__u32 abi;
};

/*
 * lb_admit_cards: an interface's own address, where XDP sees frames before anybody has looked at
 * theirs. The index is that of the interface, cut to the size of the table; of two that meet there
 * the one that is not named passes everything.
 */
struct lb_admit_card {
	__u32 interface; /* 0: nobody */
	__u8 mac[6];
	__u8 pad[2];
};

/* A node of an access list: one cache line for IPv4, two for IPv6. Keys in host order. */
#define LB_ACL_V4_KEYS 15
struct lb_acl_v4_node {
	__u32 key[LB_ACL_V4_KEYS];
	__u32 verdicts;
};
#define LB_ACL_V6_KEYS 7
struct lb_acl_v6_node {
	struct {
		__u64 high, low;
	} key[LB_ACL_V6_KEYS];
	__u32 verdicts;
	__u32 pad[3];
};
/* Enough for 16 million changes of verdict. */
#define LB_ACL_LEVELS 8

/* Where a SYN was judged .. */
enum lb_admit_hook {
	LB_ADMIT_HOOK_XDP,
	LB_ADMIT_HOOK_TC,
	LB_ADMIT_HOOK_MAX_,
};

/* .. and what became of it. */
enum lb_admit_verdict {
#define LB_ADMIT_VERDICT(symbol, word, help) LB_ADMIT_##symbol,
#include <lb/admit_verdicts.def>
#undef LB_ADMIT_VERDICT
	LB_ADMIT_VERDICT_MAX_
};

/* lb_admit_count, per CPU: by rule and hook. */
struct lb_admit_counts {
	__u64 n[LB_ADMIT_VERDICT_MAX_];
};

_Static_assert(sizeof(struct lb_admit_listener) == 20, "no holes: it is hashed");
_Static_assert(sizeof(struct lb_admit_client) == 20, "no holes: it is hashed");
_Static_assert(sizeof(struct lb_admit_card) == 12, "no holes");
_Static_assert(sizeof(struct lb_admit_rule) == 16, "as the daemon maps it");
_Static_assert(sizeof(struct lb_acl_v4_node) == 64, "a cache line");
_Static_assert(sizeof(struct lb_acl_v6_node) == 128, "two cache lines");

#endif
