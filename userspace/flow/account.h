/* SPDX-License-Identifier: MIT */
/*
 * What is counted, per worker and rule. Written by the worker only, read by anybody: relaxed
 * atomics, so a reader sees each value whole. (The line of a flow: flow_line.h.)
 */
#ifndef LB_FLOW_ACCOUNT_H
#define LB_FLOW_ACCOUNT_H

#include <stddef.h>
#include <stdint.h>

#include "backend/times.h"
#include "flow/carrier.h"
#include "flow/flow_line.h"

struct lb_backend;
struct lb_session;

/* Upper bounds of the duration histogram, milliseconds; one more bucket catches the rest. */
#define LB_DURATION_BUCKETS 10
extern const uint64_t lb_duration_bounds_ms[LB_DURATION_BUCKETS];

/* How a TLS handshake ended. */
enum lb_handshake {
	LB_HANDSHAKE_FULL,
	LB_HANDSHAKE_RESUMED,
	LB_HANDSHAKE_FAILED,
	LB_HANDSHAKE_MAX_
};

/* Nothing but uint64_t: lb_account_add() relies on it. */
struct lb_counters {
	uint64_t connections; /* accepted */
	uint64_t active;
	uint64_t bytes[2]; /* client to backend, backend to client; living flows included */
	uint64_t carrier_bytes[LB_CARRIER_MAX_];
	uint64_t flows[LB_CARRIER_MAX_]; /* ended, by the carrier they ended on */
	uint64_t whys[LB_WHY_MAX_];      /* ended, by why not on a faster one */
	uint64_t ends[LB_REASON_MAX_];
	uint64_t promotions[LB_CARRIER_MAX_];      /* from relay, by where to */
	uint64_t connect_failures;                 /* single tries */
	uint64_t unlogged;                         /* refusals without a line in the access log */
	uint64_t handshakes[2][LB_HANDSHAKE_MAX_]; /* by leg */
	uint64_t ktls[2];                          /* legs that the kernel seals */
	uint64_t durations[LB_DURATION_BUCKETS + 1];
	uint64_t duration_sum_ms;
	uint64_t connects[LB_CONNECT_BUCKETS + 1]; /* that succeeded */
	uint64_t connect_sum_us;
	uint64_t first_bytes[LB_FIRST_BYTE_BUCKETS + 1]; /* of flows whose backend has sent one */
	uint64_t first_byte_sum_us;
	uint64_t bandwidth_waits[2]; /* how often a flow had bytes and no budget, by direction .. */
	uint64_t bandwidth_wait_ns[2]; /* .. and how long they had to wait then */
};

/* Flows that have ended, whatever rule they were of, by worker. Nothing but uint64_t. */
struct lb_ends {
	uint64_t all;
	/* Of those: by us, who were told to. By carrier; the last one: not yet carried. */
	uint64_t cut[LB_CARRIER_MAX_ + 1];
};

static inline void lb_count(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}

static inline uint64_t lb_count_read(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* Adds every counter of <from>, which may be alive, to <to>. */
void lb_account_add(struct lb_counters *to, const struct lb_counters *from);
void lb_account_add_ends(struct lb_ends *to, const struct lb_ends *from);

/*
 * Brings the rule's counters of bytes and first bytes up to date with a living session. Its worker
 * only.
 */
void lb_account_fold(struct lb_session *s);
/* The session has just ended (its carrier has stopped): final counts and the access-log line. */
void lb_account_end(struct lb_session *s, enum lb_reason reason);

/* A connect to <b> has succeeded after so long. */
void lb_account_count_connect(struct lb_counters *c, struct lb_backend *b, uint64_t us);
/*
 * .. and after its connect, so long until its first byte. Once for a flow, in both: a graft of an
 * earlier run may have neither rule nor backend any more.
 */
void lb_account_count_first_byte(struct lb_counters *c, uint64_t us);
void lb_account_count_backend_first_byte(struct lb_backend *b, uint64_t us);
/* The end of a flow in the counters: reason and duration. */
void lb_account_count_end(struct lb_counters *c, enum lb_reason reason, uint64_t duration_ms);
/* The same flow among all of its worker's; <carrier>: LB_CARRIER_MAX_ of one not yet carried. */
void lb_account_count_ends(struct lb_ends *e, unsigned int carrier, enum lb_reason reason);

#endif
