/* SPDX-License-Identifier: MIT */
/*
 * What the files of share.h share; nobody else includes it. Rates are in thousandths of a token
 * per second, tokens in billionths: a rate times microseconds is tokens. Connections are counted in
 * thousandths, too, and whole.
 */
#ifndef LB_CLUSTER_SHARE_STATE_H
#define LB_CLUSTER_SHARE_STATE_H

#include "cluster/share.h"

#define TOKEN LB_SHARE_TOKEN

/* A key between this node and another one. */
struct pair {
	/* Lent. <feared> is what the other one may still spend, until <feared_us> at the latest. */
	uint64_t lent, feared, feared_us;
	uint64_t lowered_us; /* stamp of the message that lowered <lent> */
	/* Borrowed, and right until <borrowed_us>. */
	uint64_t borrowed, borrowed_us;
	/* Connections: what we keep of theirs; they say they keep of ours, and have of nobody's. */
	uint64_t kept, claimed, excess;
	bool answer; /* it wants to hear what we keep */
	/* What it wants; believed until <wanted_us>. */
	uint64_t demand, wanted_us;
};

struct key {
	bool held;     /* connections; else a rate */
	bool young;    /* what this node needs of it is not known yet */
	uint32_t next; /* with the same head; one more than its index, 0: none */
	uint64_t key;
	struct lb_share_label label;
	struct lb_share_limit limit; /* burst 0: this node has had no use of it */
	uint64_t tokens, refilled_us;
	/* What it spends per second, right until <share_us>. */
	uint64_t share, share_us;
	uint64_t demand;
	uint32_t asked;    /* .. */
	uint64_t since_us; /* .. since then */
	/* Connections: in use; those that nobody has lent; wanted in vain, until <short_us>. */
	uint64_t used, excess;
	uint64_t lacked, short_us;
	struct pair *pairs; /* by node */
};

struct node {
	uint64_t id; /* 0: a free place */
	bool there;
	uint32_t session;
	uint64_t stamp_us; /* of its last message, by its clock; 0: none yet */
	uint64_t heard_us; /* of ours that it had heard, by ours */
	uint32_t size;     /* it counts with; 0: has not said */
};

struct lb_share {
	struct lb_share_params params;
	struct node *nodes;
	uint32_t nodes_count; /* places that have been in use */
	uint32_t pairs_room;  /* of each key */
	struct key *keys;
	uint32_t keys_count; /* likewise */
	uint32_t *heads;     /* of keys, as many as keys_max */
	uint32_t known;      /* nodes, with this one and those that are leaving */
	uint32_t leaving;    /* have left, and count until <left_us> */
	uint64_t left_us;
	uint32_t next_node; /* to be told */
	uint32_t next_key;  /* to be looked at for eviction */
	uint64_t tick_us, stamp_us;
	bool strangers; /* keys of connections that came from others since the last tick */
	struct lb_share_counts counts;
};

/* --- share_table.c --- */
struct key *share_find(const struct lb_share *s, uint64_t key);
/* NULL: no room. */
struct key *share_add(struct lb_share *s, uint64_t key, bool held, uint32_t most, uint64_t now_us);
/* 0: a free place. NULL: none. */
struct node *share_node(const struct lb_share *s, uint64_t id);

/* --- share.c --- */
uint64_t share_loan_us(const struct lb_share *s);
uint64_t share_safe(const struct lb_share *s, const struct key *k);
/* What it does not lend. */
uint64_t share_need(const struct lb_share *s, const struct key *k);
/* What its bucket holds with the share it has, tokens. */
uint64_t share_burst(const struct key *k);
/* It is new, and its bucket empty. */
void share_begin(struct lb_share *s, struct key *k, uint64_t now_us);
void share_set_limit(struct lb_share *s, struct key *k, uint32_t most, uint64_t now_us);
/* All shares anew, for another number of nodes. */
void share_resize(struct lb_share *s, uint32_t known, uint64_t now_us);
/* Tokens up to now, then the share anew. To be called before and after anything it depends on. */
void share_refill(struct lb_share *s, struct key *k, uint64_t now_us);

/* --- share_held.c: connections --- */
uint64_t share_held_safe(const struct lb_share *s, const struct key *k);
/* Before a tick tells others: how many there are, and whose. */
void share_held_tick(struct lb_share *s, struct key *k, uint64_t now_us);
/*
 * What can be lent of <amount>, which was offered a moment ago: that many are not let in here any
 * more when this returns.
 */
uint64_t share_held_spare(struct lb_share *s, struct key *k, uint32_t node, uint64_t amount,
			  uint64_t now_us);
/* Connections, when they are <share>; never more than the limit, whatever others lend. */
uint32_t share_held_max(const struct key *k, uint64_t share);
uint64_t share_held_whole(uint64_t part);
/* What who wants <demand> had better have: nobody waits for the next ones then. */
uint64_t share_held_wish(uint64_t demand);
/*
 * What <node> is told of the demand: what those that come before it lend is not asked of it, too.
 * Of a rate all of it.
 */
uint64_t share_held_demand(const struct key *k, uint32_t node, uint64_t now_us);
/* What this node has, or may have, of <node>'s loan. */
uint64_t share_held_claim(const struct key *k, uint32_t node, uint64_t now_us);
/* <node> has heard what was said until <stamp_us>, keeps <kept>, and has <excess> of nobody's. */
void share_held_heard(struct key *k, uint32_t node, uint64_t stamp_us, uint64_t kept,
		      uint64_t excess);
/* What <node> had, in an earlier life, is nobody's. */
void share_held_new_life(struct key *k, uint32_t node);
/* Nothing is in use, lent, borrowed or claimed. */
bool share_held_idle(const struct lb_share *s, const struct key *k);

/* --- share_lend.c --- */
/* What <node> may have of ours: it was lent it, or says so. */
uint64_t share_away(const struct key *k, uint32_t node);
/* .. and what it has beside that: nobody uses it meanwhile. */
uint64_t share_barred(const struct key *k, uint32_t node);
/* Decides what is lent to each node; nothing is, before it is said in a message. */
uint64_t share_offer(const struct lb_share *s, const struct key *k, uint32_t node, uint64_t now_us);
/* It has been said to <node> in a message with <stamp_us>. */
void share_lend(struct lb_share *s, struct key *k, uint32_t node, uint64_t amount,
		uint64_t stamp_us, uint64_t now_us);
/* <node> has heard what was said until <stamp_us>. */
void share_heard(struct lb_share *s, uint32_t node, uint64_t stamp_us, uint64_t now_us);

/* --- share_message.c --- */
/* False: nothing to say. */
bool share_tell(struct lb_share *s, uint32_t node, uint64_t now_us);

#endif
