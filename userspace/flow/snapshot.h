/* SPDX-License-Identifier: MIT */
/*
 * What there is to say about a living flow at one moment. Taking one costs a few system calls: it
 * is for whoever asks (lbctl), not for the data path. In the thread of the flow's worker.
 */
#ifndef LB_FLOW_SNAPSHOT_H
#define LB_FLOW_SNAPSHOT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "flow/carrier.h"

struct lb_flow_env;
struct lb_session;

enum lb_flow_state {
	LB_FLOW_OPENING, /* its client is being looked at, or .. */
	LB_FLOW_QUEUED,  /* .. waits for a backend that has room, or .. */
	LB_FLOW_CONNECTING,
	LB_FLOW_CARRIED,
};

/* Of one of its two connections. */
struct lb_flow_leg_snapshot {
	uint32_t rtt_us;
	uint32_t retransmissions; /* segments, since it was connected */
};

struct lb_flow_snapshot {
	uint64_t id; /* the same on every carrier, for all its life */
	/* Borrowed, as long as the flow. <of>: whose route <rule> is, NULL when it is none. */
	const char *rule, *of, *backend; /* backend NULL: none yet */
	struct lb_addr client;
	enum lb_flow_state state;
	const struct lb_carrier *carrier; /* when CARRIED, as <why> */
	enum lb_why why;
	uint32_t worker;
	uint64_t accept_ns, last_ns; /* CLOCK_MONOTONIC: begin, last byte */
	uint64_t bytes[2];           /* by direction */
	/* Bytes we have of one side, or that the other one has yet to acknowledge; by direction. */
	uint64_t backlog[2];
	/* False: no sockets of ours, hence no <leg>. */
	bool has_legs;
	struct lb_flow_leg_snapshot leg[2];
};

/*
 * A name for a flow, from its client's address and port and the moment it was accepted: no two
 * flows share all of that. Never 0.
 */
uint64_t lb_flow_id(const struct lb_addr *client, uint64_t accept_ns);

uint64_t lb_snapshot_id(const struct lb_session *s);
/* Without legs and backlog. */
void lb_snapshot_take(const struct lb_session *s, struct lb_flow_snapshot *ret);
/* These too, of its sockets: six system calls. */
void lb_snapshot_ask(const struct lb_session *s, struct lb_flow_snapshot *ret);

uint64_t lb_snapshot_graft_id(const struct lb_flow_env *env, uint32_t pair);
/* Of a graft that lb_graft_keeper_next() has found. What the table knows: no round trips. */
void lb_snapshot_take_graft(const struct lb_flow_env *env, uint32_t pair,
			    struct lb_flow_snapshot *ret);

#endif
