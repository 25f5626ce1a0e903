/* SPDX-License-Identifier: MIT */
/*
 * Hands living flows from one daemon to its successor, without cutting or stalling them:
 *
 *   old:  session --freeze--> struct lb_handover --encode--> bytes, and two descriptors
 *                                                                  |  (whatever carries them)
 *   new:  session <---thaw--- struct lb_handover <--decode--  bytes, and two descriptors
 *
 * What is handed over is a plaintext flow that relay carries: both connections, what was read from
 * one and not yet written to the other, and what is known of the flow. One on sockmap comes back to
 * relay first. Counters that are totals are brought up to date when it freezes, and go on from
 * there where it thaws; the old daemon writes no line about it, the new one writes the whole. A
 * grafted flow needs none of this: its tables are pinned.
 *
 * What stays, and ends where it is: flows that are not established yet, that speak TLS, or whose
 * bytes may skip TCP (same_host_bypass).
 *
 * While it is frozen nobody carries the flow; bytes wait in its sockets. It may thaw where it
 * froze, which is what a failed takeover does. It must never thaw twice: once a record may have
 * become a flow elsewhere, lb_handover_forget() is all that is left to do with it here.
 *
 * Times are CLOCK_MONOTONIC, ns: both daemons run on the same kernel.
 */
#ifndef LB_FLOW_HANDOVER_H
#define LB_FLOW_HANDOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/list.h"
#include "flow/walk.h"

struct lb_flow_env;
struct lb_rule;
struct lb_session;

/* Of the encoded form: one that does not say the same is refused. */
#define LB_HANDOVER_VERSION 1u
/* Held bytes of one direction. A flow that holds more is asked again later. */
#define LB_HANDOVER_HELD_MAX (4u << 20)
/* Without the held bytes. */
#define LB_HANDOVER_HEAD_BYTES 896u
/* Encoded, at most. */
#define LB_HANDOVER_BYTES_MAX (LB_HANDOVER_HEAD_BYTES + 2u * LB_HANDOVER_HELD_MAX)

/* "RULE/ROUTE" and "HOST:PORT" of any configuration fit. */
#define LB_HANDOVER_RULE_MAX    384u
#define LB_HANDOVER_BACKEND_MAX 272u

/* A direction, named by its source: the way from leg i to the other one. */
struct lb_handover_direction {
	uint64_t bytes;     /* that the sink's socket has taken */
	uint32_t held_size; /* read, and not yet taken by the sink .. */
	char *held;         /* .. on the heap; NULL: none */
	bool eof;           /* the source's FIN was read .. */
	bool shut;          /* .. and passed on */
};

/* A connection. Its descriptor is owned. */
struct lb_handover_leg {
	int fd;
	uint32_t lead_in;   /* PROXY headers: see struct lb_leg */
	uint32_t lead_out;  /* .. */
	uint32_t throttled; /* .. */
	bool until_empty;   /* urgent data came, or an end that has not been read */
};

/* A frozen flow. On the heap; whoever has it owns it. Any thread. */
struct lb_handover {
	struct lb_list node; /* its owner's; linked nowhere at first */
	struct lb_handover_leg leg[2];
	struct lb_handover_direction dir[2];
	char rule[LB_HANDOVER_RULE_MAX];       /* by name; a route as "RULE/ROUTE" */
	char backend[LB_HANDOVER_BACKEND_MAX]; /* as the configuration names it .. */
	struct lb_addr backend_addr;           /* .. and where that was */
	struct lb_addr client;
	bool client_named;  /* by a PROXY header */
	bool distressed;    /* counted against its backend already */
	bool first_counted; /* the time to the backend's first byte */
	bool port_ours;     /* leg 1's port is from the backend's book */
	uint8_t tries;
	uint8_t acceleration;  /* enum lb_acceleration, and under it .. */
	uint8_t why;           /* .. enum lb_why */
	uint64_t accept_ns;    /* with the client also the id that lbctl knows it by */
	uint64_t try_ns;       /* start of the connect .. */
	uint64_t connected_ns; /* .. that succeeded */
	uint64_t start_ns;     /* carrying began */
	uint64_t last_ns;      /* last payload */
	uint64_t first_ns;     /* the backend's first; 0: none */
};

/* --- the old daemon --------------------------------------------------------------------------- */

/*
 * Takes <s> out of its worker: 0, and the session is gone; *ret is the caller's. Otherwise the flow
 * goes on as before:
 *   -EOPNOTSUPP  it cannot be handed over, and never will
 *   -EAGAIN      not now: it is on its way to another carrier or holds too much. To be asked again
 *                (one on sockmap that is busy may need some, less than 100 ms apart)
 *   -ENOMEM
 * but for -ECONNABORTED: it could not be kept whole on its way back from sockmap, and has ended.
 * The worker's thread.
 */
int lb_handover_freeze(struct lb_session *s, struct lb_handover **ret);

/*
 * All flows of a worker, a batch at a time; between two batches the loop turns. A flow that says
 * "not now" is to be met in another sweep. The worker's thread.
 */
struct lb_handover_sweep {
	struct lb_walk walk;
	/* Whether the other side would take it, by its names; NULL: anything. */
	bool (*wants)(void *arg, const struct lb_session *s);
	void *arg;
	uint32_t later; /* said "not now" .. */
	uint32_t stay;  /* .. or never */
	uint32_t lost;  /* could not be kept whole and were reset */
};

/* <sweep> has wants and arg filled in, the rest zero. To be ended with lb_handover_sweep_end(). */
void lb_handover_sweep_begin(struct lb_flow_env *env, struct lb_handover_sweep *sweep);
/*
 * Freezes up to <max> flows and appends them to <batch>: how many, and *done when there are none
 * left. It looks at no more flows than one turn of the loop has time for: 0 does not mean the end.
 */
size_t lb_handover_sweep_next(struct lb_flow_env *env, struct lb_handover_sweep *sweep,
			      struct lb_list *batch, size_t max, bool *done);
void lb_handover_sweep_end(struct lb_handover_sweep *sweep);

/* --- between ---------------------------------------------------------------------------------- */

/* How many bytes lb_handover_encode() will write. */
size_t lb_handover_size(const struct lb_handover *h);
/* Writes <h>, but for its descriptors, into <buf> of lb_handover_size() bytes. */
void lb_handover_encode(const struct lb_handover *h, uint8_t *buf);
/*
 * The size of the record that begins with these <size> bytes, as far as they say: 0 when they are
 * fewer than LB_HANDOVER_HEAD_BYTES; -EPROTO: it is none, or none of this version.
 */
int64_t lb_handover_peek(const uint8_t *buf, size_t size);
/*
 * The record that these <size> bytes are, its descriptors -1: the caller puts those of the two legs
 * in. 0; -EPROTO: it is none of ours, or not whole; -ENOMEM.
 */
int lb_handover_decode(const uint8_t *buf, size_t size, struct lb_handover **ret);

/*
 * Closes our copies of the descriptors and frees it: the flow lives elsewhere. No peer hears of it
 * as long as somebody else has them. NULL inside is fine.
 */
void lb_handover_forget(struct lb_handover **h);
/* Nobody will carry it any more: both peers see a RST. NULL inside is fine. */
void lb_handover_reset(struct lb_handover **h);

/* --- the new daemon --------------------------------------------------------------------------- */

/*
 * The rule of <rules>, or the route, that <h> is a flow of; NULL: there is none of that name, or it
 * speaks TLS now. Such a flow stays where it is, as that
 * of a rule that a reload removes. Under the same terms as any look at the rules.
 */
const struct lb_rule *lb_handover_rule(const struct lb_rule *rules, size_t count,
				       const struct lb_handover *h);
/*
 * <h> becomes a session of <rule>, which is lb_handover_rule()'s: 0, and *h is gone. It counts for
 * its client and its backend, over their limits if need be; a backend that the configuration has
 * not lives on for it as one that a reload has removed. What happened to the sockets meanwhile is
 * seen. -errno (memory, descriptors of epoll, buckets of a bandwidth limit): <h> is unchanged.
 *
 * The thread of <env>'s worker.
 */
int lb_handover_thaw(struct lb_flow_env *env, const struct lb_rule *rule, struct lb_handover **h);

#endif
