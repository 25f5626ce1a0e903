/* SPDX-License-Identifier: MIT */
/*
 * One limit for many nodes. Of a limit of R tokens a second each of N nodes owns R / N, its safe
 * share, and lends of it what it does not need to nodes that are short of it. A node spends what it
 * has not lent and what it has been lent, so whatever is lost on the way, the sum is R at most:
 * tokens are not counted together, they are never handed out twice.
 *
 *	A: "key k: you may have 150/s"  ----->  B spends 150/s more, until the loan is over;
 *	A spends 150/s less                     every message of A prolongs it
 *	A: "key k: you may have 50/s"   ----->  B spends 50/s more, and says that it heard it;
 *	                                <-----  only then, or when the loan is over for certain,
 *	A takes back 100/s
 *
 * A loan runs from the time at which B sent what A had last heard of B, by B's clock, and for A
 * from the time it sent it, by its own, and an eighth longer: no clock is compared with another. A
 * node that is cut off gets nothing prolonged and prolongs nothing. So each side of a partition is
 * at its safe shares after the time of a loan, and when it heals nobody has anything to pay back.
 *
 * Who is short says so, with its demand; who has plenty divides it by what the others are short of.
 * Only keys that somebody is short of are exchanged, at most what one datagram holds, the heaviest
 * first, with LB_SHARE_FANOUT nodes in LB_SHARE_TICK_MS. What that bounds is traffic; where there
 * are many nodes shares move more slowly, and loans are longer.
 *
 * N is the number of nodes the cluster should have: those that are there and those that are silent
 * but not forgotten, and size_min at least. What can be too much is what lb_share_bound() says, and
 * then it is because some nodes have not yet heard of others. Two things it does not cover: nodes
 * with different limits for a key, and a node that is restarted while it has lent, which for the
 * rest of the loan spends what the borrower spends, too.
 *
 * A key is taken up when this node is short of it, or another one says that it is. Before that the
 * caller judges it by this node's safe share, with a bucket of its own; what that one lacks by then
 * the key lacks, too.
 *
 * Connections. Of a limit of M connections at a time each node owns M / N likewise, in whole ones,
 * and what is left over goes to one each of those that a hash chooses. They are lent in the same
 * way, but one that is in use cannot be taken back: it is had back when it has ended. So who has
 * borrowed says with each message how many of them it keeps, what is lent does not come back by the
 * clock, and a borrower that is silent keeps all of it. Where a node has more than it may have at
 * all, because others have joined, or the limit is less than it was, or the node that had lent has
 * been restarted, it says to all others that it keeps so many, and each of them does without as
 * many. So with the nodes as they are the sum is M at most, and it is never what somebody has to
 * be cut for. A node that has just come may let in its part before it hears of that.
 *
 * Deterministic: time and the network are arguments. The clock is one that is never set. One
 * thread. All memory is that of keys_max keys for the nodes there are.
 */
#ifndef LB_CLUSTER_SHARE_H
#define LB_CLUSTER_SHARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_SHARE_TICK_MS  100u
#define LB_SHARE_FANOUT   8u
#define LB_SHARE_LOAN_MS  1000u /* at least */
#define LB_SHARE_KEYS_MAX 4096u
/* A limit beyond is none. */
#define LB_SHARE_LIMIT_MAX 1000000000u
/* A token, as buckets count. */
#define LB_SHARE_TOKEN    1000000000ull
#define LB_SHARE_RULE_MAX 129u

struct lb_share;

enum lb_share_kind {
	LB_SHARE_RATE,                /* of new connections: tokens */
	LB_SHARE_CLIENT_CONNECTIONS,  /* that a client has at a time */
	LB_SHARE_BACKEND_CONNECTIONS, /* that a backend has at a time */
};

/* Of all nodes together. */
struct lb_share_limit {
	uint32_t most;  /* tokens a second, or connections; 1..LB_SHARE_LIMIT_MAX */
	uint32_t burst; /* tokens; connections have none */
};

/* Whose a key is, for people; and against two that have the same one. */
struct lb_share_label {
	char rule[LB_SHARE_RULE_MAX]; /* "": nobody here has asked for it */
	uint8_t kind;                 /* enum lb_share_kind */
	uint8_t addr[16];             /* a client's or a backend's; all zero: all of the rule */
	uint16_t port;                /* a backend's */
};

/* Connections. */
struct lb_share_use {
	uint32_t most;   /* as the limit is now; 0: nobody here has it any more */
	uint32_t used;   /* at this moment */
	uint32_t wanted; /* more, by those who wait */
};

struct lb_share_params {
	uint64_t self;     /* id of this node */
	uint32_t session;  /* random: another one in each life */
	uint32_t size_min; /* nodes there are at least */
	uint32_t nodes_max, keys_max;
	/* <bytes> for <node>, at most <section_max>. Not to be called back from. */
	void (*send)(void *arg, uint64_t node, const uint8_t *bytes, size_t len);
	/*
	 * Once a tick for each key of connections that has been asked for here: no more than <max>
	 * may there be by new ones from now on, and then, how many there are. NULL: there are none.
	 * Not to be called back from.
	 */
	void (*use)(void *arg, const struct lb_share_label *label, uint32_t max,
		    struct lb_share_use *ret);
	void *arg;
	size_t section_max;
};

/* What a caller is to have a token of. */
struct lb_share_ask {
	uint64_t key;
	struct lb_share_limit limit;
	const struct lb_share_label *label;
	uint64_t lacks; /* of a rate, of the caller's own bucket: parts of LB_SHARE_TOKEN */
};

enum lb_share_verdict {
	LB_SHARE_HAS,
	LB_SHARE_REFUSED,
	/* Not taken up, or somebody else's: the caller is to judge it by lb_share_safe(). */
	LB_SHARE_UNTRACKED,
};

struct lb_share_counts {
	uint64_t sent, sent_bytes, received, malformed;
	uint64_t stale;     /* dropped: overtaken, or from an earlier life */
	uint64_t untracked; /* keys that found no room */
};

struct lb_share_view {
	uint64_t key;
	const struct lb_share_label *label; /* for the time of the call */
	struct lb_share_limit limit;
	/* Of this node, in thousandths of a token per second, or of a connection. */
	uint64_t demand, safe, lent, borrowed, share;
	uint64_t used; /* connections, likewise */
};

/* 0, -EINVAL or -ENOMEM. */
int lb_share_new(struct lb_share **ret, const struct lb_share_params *params, uint64_t now_us);
/* NULL inside is fine. */
void lb_share_free(struct lb_share **s);

/* A node is there (again), .. 0, or -ENOSPC beyond nodes_max, or -ENOMEM: it is not counted. */
int lb_share_join(struct lb_share *s, uint64_t id, uint64_t now_us);
/* .. is silent: it keeps its safe share, .. */
void lb_share_silent(struct lb_share *s, uint64_t id);
/* .. or has left, or been forgotten. */
void lb_share_leave(struct lb_share *s, uint64_t id, uint64_t now_us);

/* The same on every node. */
uint64_t lb_share_key(const struct lb_share_label *label);

/* Is there a token? When it is refused, *until_us is when to ask again, at the latest. */
enum lb_share_verdict lb_share_look(struct lb_share *s, const struct lb_share_ask *ask,
				    uint64_t now_us, uint64_t *until_us);
/* Spends the one that lb_share_look() has just found. */
void lb_share_spend(struct lb_share *s, const struct lb_share_ask *ask);
/* Of connections: true, with how many this node may have, or false when it is not taken up. */
bool lb_share_max(struct lb_share *s, const struct lb_share_ask *ask, uint64_t now_us,
		  uint32_t *max);
/* .. and one more was wanted. */
void lb_share_want(struct lb_share *s, const struct lb_share_ask *ask);
/* One that is not is taken up. 0 or -ENOSPC. */
int lb_share_track(struct lb_share *s, const struct lb_share_ask *ask, uint64_t now_us);
/*
 * Whether others have asked, since the last tick, for connections of a key that was not known here:
 * who has some asks lb_share_max() before the next one, else they count as none.
 */
bool lb_share_has_strangers(const struct lb_share *s);
/* Every LB_SHARE_TICK_MS. */
void lb_share_tick(struct lb_share *s, uint64_t now_us);
/* From node <id>, as another one's send() was given it. */
void lb_share_receive(struct lb_share *s, uint64_t id, const uint8_t *bytes, size_t len,
		      uint64_t now_us);

/* What this node may spend of a limit without asking: thousandths of a token per second. */
uint64_t lb_share_safe(const struct lb_share *s, const struct lb_share_limit *limit);
/*
 * The most that all nodes together let through in any <window_us>, tokens: the limit's rate and
 * burst, times what the safe shares of all nodes come to with the numbers of nodes they count with,
 * and a token for each node.
 */
uint64_t lb_share_bound(const struct lb_share *s, const struct lb_share_limit *limit,
			uint64_t window_us);
/* The number of nodes shares are counted with. */
uint32_t lb_share_size(const struct lb_share *s);
/* Keys that are taken up. */
uint32_t lb_share_keys(const struct lb_share *s);
void lb_share_each(struct lb_share *s, uint64_t now_us,
		   void (*fn)(void *arg, const struct lb_share_view *view), void *arg);
const struct lb_share_counts *lb_share_counts(const struct lb_share *s);

#endif
