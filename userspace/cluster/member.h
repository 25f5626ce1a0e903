/* SPDX-License-Identifier: MIT */
/*
 * Who is in the cluster: SWIM (Das, Gupta, Motivala 2002) with suspicion, and the local health
 * awareness of Lifeguard (Dadgar, Phillips, Currey 2018).
 *
 * Each period a node probes one other, in an order it shuffles anew each round, and its successor
 * in the ring of ids: a ping, once more when it stays unanswered, then a request to
 * LB_MEMBER_HELPERS others to try. Chance alone, as SWIM has it, leaves one node in twenty unprobed
 * for three periods; with the ring nobody is for longer than one. Silence makes the node suspect,
 * and everybody is told; a suspect that does not speak up in time is dead.
 *
 *	             silent                    time is up
 *	ALIVE ------------------> SUSPECT ------------------> DEAD --+
 *	  ^   <------------------    |                          |    | forgotten after
 *	  |    "I am here", with a   |                          |    | LB_MEMBER_FORGET_MS
 *	  |    higher incarnation    +---- "I leave" --> LEFT --+----+
 *	  +---------- a higher incarnation: it is back ---------+
 *
 * A suspect's time shrinks with the number of nodes that have found it silent by themselves: from
 * six times to once 4 * log10(nodes) periods. Who was ALIVE here is never made DEAD by rumour
 * alone: it becomes SUSPECT first and has its time to object. So when two halves of a cluster meet
 * again, nobody in either of them takes the other half's word for a death.
 *
 * Incarnations: a node's word about itself counts by its incarnation, and only the node itself
 * raises it. It starts as the wall clock of the node's start, so a later life outranks an earlier
 * one; where the clock went back meanwhile, the node learns from the first answer what others
 * believe, and goes beyond it.
 *
 * News of a member travels with every datagram, 4 * log10(nodes) times per node, the least told
 * first. What got lost is found by a slow comparison of tables, a page of ids at a time.
 *
 * Time that was not lived does not count: when the clock jumps by more than a period between two
 * calls (a stopped process, a suspended machine), nobody's time to answer has passed meanwhile.
 *
 * Deterministic: time, randomness and the network are arguments. One thread. No allocation but for
 * new members, of which there are members_max at most.
 */
#ifndef LB_CLUSTER_MEMBER_H
#define LB_CLUSTER_MEMBER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "cluster/wire.h"

#define LB_MEMBER_PERIOD_MS  1000u
#define LB_MEMBER_HELPERS    3u
#define LB_MEMBER_HEALTH_MAX 8u
#define LB_MEMBER_FORGET_MS  (60u * 60u * 1000u)
#define LB_MEMBER_MAX        65536u

struct lb_membership;

struct lb_member_view {
	uint64_t id;
	uint64_t incarnation;
	const char *name; /* of the membership, as all pointers here; for the time of the call */
	const char *version;
	const struct lb_addr *addr;
	uint32_t config_hash;
	enum lb_member_state state;
	uint32_t rtt_us;   /* smoothed; 0: never measured */
	uint64_t since_ms; /* it has been in that state for so long */
	bool self;
};

enum lb_member_event {
	LB_MEMBER_JOINED, /* a new one, or one that was dead or had left */
	LB_MEMBER_SUSPECTED,
	LB_MEMBER_REFUTED, /* suspect no more */
	LB_MEMBER_CHANGED, /* another address, version or configuration */
	LB_MEMBER_DIED,
	LB_MEMBER_WENT,      /* has left */
	LB_MEMBER_FORGOTTEN, /* the last that is heard of it */
};

/* Called from within the functions below, which must not be called from here. */
struct lb_member_ops {
	void (*send)(void *arg, const struct lb_addr *to, const uint8_t *bytes, size_t len);
	void (*changed)(void *arg, const struct lb_member_view *m, enum lb_member_event event);
	/*
	 * A section LB_WIRE_SHARES has come from the member <sender>, which is known and alive.
	 * NULL: nobody wants them.
	 */
	void (*shares)(void *arg, uint64_t sender, const uint8_t *bytes, size_t len);
	/* The same of a section LB_WIRE_HEALTH. */
	void (*health)(void *arg, uint64_t sender, const uint8_t *bytes, size_t len);
};

struct lb_member_params {
	struct lb_wire_identity self; /* a valid name, an address others reach it at */
	uint64_t incarnation;         /* wall clock, ms since 1970 */
	uint64_t seed;                /* random, not 0 */
	uint32_t period_ms;
	uint32_t members_max;            /* this node included; 2..LB_MEMBER_MAX */
	const struct lb_member_ops *ops; /* static */
	void *arg;
};

struct lb_member_counts {
	uint64_t sent, sent_bytes, received;
	uint64_t malformed;   /* dropped: not what wire.h says, or of another version */
	uint64_t misdirected; /* dropped: for another node */
	uint64_t twins;       /* somebody else says it is this node: two have one name */
	uint64_t full;        /* members that found no room */
	uint64_t probes, probes_failed, suspicions, deaths, refutations, pauses;
};

/* 0, -EINVAL or -ENOMEM. <params> is copied. */
int lb_member_new(struct lb_membership **ret, const struct lb_member_params *params,
		  uint64_t now_us);
/* NULL inside is fine. */
void lb_member_free(struct lb_membership **g);

/*
 * Where to knock while nobody is known, and from time to time later. Copied; this node's own
 * address may be among them. 0 or -ENOMEM, and the old ones stay.
 */
int lb_member_set_peers(struct lb_membership *g, const struct lb_addr *peers, size_t count);
/* The node's configuration is another one now, and everybody is told. */
void lb_member_set_config(struct lb_membership *g, uint32_t config_hash);

/* Does what is due. */
void lb_member_run(struct lb_membership *g, uint64_t now_us);
/* When to do so next, on the scale of <now_us>; earlier, maybe, after any call of the others. */
uint64_t lb_member_due(const struct lb_membership *g);
/* A datagram has come (opened, where it was sealed). Anything bad in it is counted and dropped. */
void lb_member_receive(struct lb_membership *g, uint64_t now_us, const struct lb_addr *from,
		       const uint8_t *bytes, size_t len);
/*
 * Sends a section to a member. -ENOENT when it is not known or not there,
 * -EMSGSIZE beyond lb_member_section_max().
 */
int lb_member_say(struct lb_membership *g, uint64_t id, enum lb_wire_section kind,
		  const uint8_t *bytes, size_t len);
size_t lb_member_section_max(void);

/* From now on the node only tells that it leaves, .. */
void lb_member_leave(struct lb_membership *g, uint64_t now_us);
/* .. and has told enough of them. */
bool lb_member_left(const struct lb_membership *g);

/* This node first, then the others in the order of their ids. */
void lb_member_each(const struct lb_membership *g,
		    void (*fn)(void *arg, const struct lb_member_view *m), void *arg);
/* Members that are alive or suspect, this one included. */
uint32_t lb_member_alive(const struct lb_membership *g);
/* The same and the dead that are not forgotten: what the cluster should have. */
uint32_t lb_member_known(const struct lb_membership *g);
/* 0: well, up to LB_MEMBER_HEALTH_MAX: slow to hear, so slow to judge. */
uint32_t lb_member_health(const struct lb_membership *g);
/* How long a suspect has to object when <others> have confirmed it. */
uint64_t lb_member_suspicion_ms(const struct lb_membership *g, uint32_t others);
const struct lb_member_counts *lb_member_counts(const struct lb_membership *g);

#endif
