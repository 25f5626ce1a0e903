/* SPDX-License-Identifier: MIT */
/* What the files of member.h share; nobody else includes it. */
#ifndef LB_CLUSTER_MEMBER_STATE_H
#define LB_CLUSTER_MEMBER_STATE_H

#include "base/list.h"
#include "cluster/member.h"

/* How often at most a piece of news is told by one node: 4 * log10(LB_MEMBER_MAX), rounded up. */
#define TELLS_MAX  20u
#define RELAYS_MAX 64u

struct member {
	uint64_t id, incarnation;
	struct lb_addr addr;
	uint32_t config_hash;
	uint32_t rtt_us;
	uint32_t place; /* in <order> */
	uint8_t state;  /* enum lb_member_state */
	bool news;      /* it is in news[told] */
	bool doomed;    /* a suspect that others call dead */
	uint8_t told;
	uint8_t accusers_count;
	uint32_t accusers[LB_WIRE_ACCUSERS];
	uint64_t since_us;   /* lived time */
	struct lb_list node; /* of news */
	struct lb_list fate; /* in suspects or gone */
	char version[LB_WIRE_VERSION_MAX];
	char name[];
};

/* Two go on at a time, half a period apart. */
enum { PROBE_NEXT, PROBE_SUCCESSOR, PROBES };

struct probe {
	bool running;
	bool repeated; /* the answer may be to either of two pings: no round-trip time */
	uint8_t stage;
	uint8_t nacks_due; /* helpers that should at least say that they are here */
	uint64_t id;
	uint32_t seq;
	uint64_t start_us;
	uint64_t due_us; /* the next one of its kind */
};

/* A ping on behalf of another node. */
struct relay {
	bool running;
	uint32_t seq, their_seq;
	uint64_t their_id;
	struct lb_addr their_addr;
	uint64_t nack_us;
};

/* With the id beside it: a search touches no member. */
struct slot {
	uint64_t id;
	struct member *m;
};

struct lb_membership {
	struct lb_member_params params;
	struct member *self;
	bool leaving;
	uint64_t clock_us; /* the last that was said to be now */
	uint64_t now_us;   /* lived: the clock without its jumps */
	uint64_t random;
	uint32_t seq;

	struct slot *sorted;   /* by id */
	struct member **order; /* of probing */
	uint32_t count, room;
	uint32_t alive; /* or suspect; with this node */
	uint32_t dead;
	uint32_t next; /* in <order>: to be probed */

	struct lb_list news[TELLS_MAX]; /* by how often it has been told */
	uint32_t news_count;
	struct lb_list suspects;
	struct lb_list gone; /* dead or left, the longest first */

	struct probe probes[PROBES];
	struct relay relays[RELAYS_MAX];
	uint32_t next_relay;
	uint32_t health;

	struct lb_addr *peers;
	size_t peers_count, next_peer;
	bool learned;  /* of somebody new, since the last comparison */
	bool complete; /* one node's whole table has been seen */
	bool syncing;  /* a page has been asked for */
	uint32_t sync_seq;
	uint64_t cursor;    /* the next id to compare */
	uint64_t sync_last; /* what the last page we sent went up to */

	uint64_t period_us, gossip_due_us, sync_due_us;
	struct lb_member_counts counts;
};

/* --- member.c --- */
uint64_t member_random(struct lb_membership *g, uint64_t below);
void member_begin(struct lb_membership *g, struct lb_wire_out *out, enum lb_wire_kind kind,
		  uint64_t target, uint32_t seq);
/* Fills up with news and sends. */
void member_send(struct lb_membership *g, const struct lb_addr *to, struct lb_wire_out *out);
void member_event(struct lb_membership *g, const struct member *m, enum lb_member_event event);

/* --- member_table.c --- */
/* The index of the first id that is not below <id>. */
uint32_t member_lower_bound(const struct lb_membership *g, uint64_t id);
struct member *member_find(const struct lb_membership *g, uint64_t id);
/* NULL without room or memory. Alive, incarnation 0, not counted yet. */
struct member *member_add(struct lb_membership *g, uint64_t id, const char *name);
void member_remove(struct lb_membership *g, struct member *m);
/* Up to <max> different ones of those that <fits>, by chance; in a bounded number of tries. */
uint32_t member_pick(struct lb_membership *g, struct member **ret, uint32_t max,
		     bool (*fits)(const struct lb_membership *g, const struct member *m));
/* The next to probe; NULL: nobody. */
struct member *member_next(struct lb_membership *g);
/* The first alive behind this node in the ring of ids; NULL: nobody. */
struct member *member_successor(const struct lb_membership *g);
void member_update_of(const struct member *m, bool with_identity, struct lb_wire_update *u);
/* Its state is news: everybody will be told. */
void member_tell(struct lb_membership *g, struct member *m);
void member_fill(struct lb_membership *g, struct lb_wire_out *out);

/* --- member_rumour.c --- */
void member_hear(struct lb_membership *g, const struct lb_wire_update *u);
/* This node has found <m> silent. */
void member_accuse(struct lb_membership *g, struct member *m);
/* Suspects whose time is up, the gone that are to be forgotten. */
void member_fates(struct lb_membership *g);
/* To <sender>, who says it is in <incarnation>: what we believe of it, if it is something else. */
void member_contradict(struct lb_membership *g, struct lb_wire_out *out, uint64_t sender,
		       uint64_t incarnation);

/* --- member_probe.c --- */
void member_probe_run(struct lb_membership *g);
uint64_t member_probe_due(const struct lb_membership *g);
void member_on_ping(struct lb_membership *g, const struct lb_addr *from,
		    const struct lb_wire_head *head);
void member_on_ack(struct lb_membership *g, const struct lb_wire_head *head);
void member_on_ping_req(struct lb_membership *g, const struct lb_addr *from,
			const struct lb_wire_head *head);
void member_on_nack(struct lb_membership *g, const struct lb_wire_head *head);
void member_health(struct lb_membership *g, int by);

/* --- member_sync.c --- */
void member_sync_run(struct lb_membership *g);
void member_on_sync(struct lb_membership *g, const struct lb_addr *from,
		    const struct lb_wire_head *head);
void member_on_sync_reply(struct lb_membership *g, const struct lb_addr *from,
			  const struct lb_wire_head *head);

#endif
