/* SPDX-License-Identifier: MIT */
/*
 * What nodes of a cluster say to each other: one datagram, at most LB_WIRE_BYTES_MAX bytes of it on
 * the network. All numbers are big-endian.
 *
 *	version 1 | kind 1 | seq 4 | sender 8 | incarnation 8 | target 8     the head
 *	subject 8, address 7 or 19                                          PING_REQ
 *	first 8, last 8                                                     SYNC, SYNC_REPLY
 *	(section kind 1 | length 2 | bytes)*                                 to the end
 *
 * A section of a kind that is not known is skipped: that is how later versions say more. A datagram
 * is looked at as a whole before anything in it is believed: it is good, or has no effect.
 *
 * Pure: no descriptor, no clock. Any thread.
 */
#ifndef LB_CLUSTER_WIRE_H
#define LB_CLUSTER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

#define LB_WIRE_VERSION 1
/* UDP payload: fits every path that IPv6 may take over Ethernet, tunnels included. */
#define LB_WIRE_BYTES_MAX 1400
/* What is left of it when it is sealed (cluster/seal). */
#define LB_WIRE_PLAIN_MAX (LB_WIRE_BYTES_MAX - 48)

#define LB_WIRE_NAME_MAX    64 /* with the NUL */
#define LB_WIRE_VERSION_MAX 16
#define LB_WIRE_ACCUSERS    4

enum lb_wire_kind {
	LB_WIRE_PING = 1,   /* are you there? */
	LB_WIRE_ACK,        /* yes; <seq> is the ping's */
	LB_WIRE_PING_REQ,   /* ask <subject> for me */
	LB_WIRE_NACK,       /* asked, no answer so far; but I am here */
	LB_WIRE_GOSSIP,     /* no answer wanted */
	LB_WIRE_SYNC,       /* all I know of the ids first..last; what do you know from first on? */
	LB_WIRE_SYNC_REPLY, /* all I know of the ids first..last */
	LB_WIRE_KINDS,
};

enum lb_wire_section {
	LB_WIRE_UPDATES = 1, /* of members */
	LB_WIRE_SHARES,      /* of limits (cluster/share) */
	LB_WIRE_HEALTH,      /* of backends (cluster/opinion) */
	LB_WIRE_SECTIONS,
};

/* Of the same incarnation, the later one is believed. */
enum lb_member_state {
	LB_MEMBER_ALIVE = 0,
	LB_MEMBER_SUSPECT,
	LB_MEMBER_DEAD,
	LB_MEMBER_LEFT,
};

struct lb_wire_head {
	enum lb_wire_kind kind;
	uint32_t seq;
	uint64_t sender;
	uint64_t incarnation; /* the sender's */
	uint64_t target;      /* 0: whoever listens there */
	/* PING_REQ */
	uint64_t subject;
	struct lb_addr subject_addr;
	/* SYNC, SYNC_REPLY */
	uint64_t first, last;
};

/* What a node says of itself. */
struct lb_wire_identity {
	struct lb_addr addr;
	uint32_t config_hash;
	char version[LB_WIRE_VERSION_MAX]; /* may be empty */
	char name[LB_WIRE_NAME_MAX];
};

struct lb_wire_update {
	uint64_t id; /* lb_wire_id() of the name */
	uint64_t incarnation;
	enum lb_member_state state;
	/* Who has found it silent: the lower half of their ids. */
	uint8_t accusers_count;
	uint32_t accusers[LB_WIRE_ACCUSERS];
	bool has_identity;
	struct lb_wire_identity identity;
};

/* 1 to 63 of letters, digits, '.', '_' and '-'. */
bool lb_wire_name_valid(const char *name);
/* The same on every node, never 0. */
uint64_t lb_wire_id(const char *name);

struct lb_wire_out {
	size_t len;
	size_t section; /* where the updates' length stands; 0: none yet */
	uint8_t bytes[LB_WIRE_PLAIN_MAX];
};

void lb_wire_begin(struct lb_wire_out *out, const struct lb_wire_head *head);
/* SYNC, SYNC_REPLY: <last> is known when the updates are in. */
void lb_wire_set_last(struct lb_wire_out *out, uint64_t last);
/* False, and nothing is added, when it does not fit. Not after another section. */
bool lb_wire_add_update(struct lb_wire_out *out, const struct lb_wire_update *u);
/* What lb_wire_add_section() still takes. */
size_t lb_wire_room(const struct lb_wire_out *out);
/* False, and nothing is added, when it does not fit. */
bool lb_wire_add_section(struct lb_wire_out *out, enum lb_wire_section kind, const uint8_t *bytes,
			 size_t len);

/* Points into the datagram it was opened on. */
struct lb_wire_in {
	struct lb_wire_head head;
	const uint8_t *updates; /* NULL: no such section */
	size_t updates_len;
	const uint8_t *shares;
	size_t shares_len;
	const uint8_t *health;
	size_t health_len;
};

/*
 * 0; -EPROTONOSUPPORT for another version or an unknown kind, -EBADMSG for anything malformed. *ret
 * is untouched then.
 */
int lb_wire_open(struct lb_wire_in *ret, const uint8_t *bytes, size_t len);
/* Takes the next update off <in>; false when there is none left. */
bool lb_wire_next_update(struct lb_wire_in *in, struct lb_wire_update *u);

#endif
