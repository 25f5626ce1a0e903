/* SPDX-License-Identifier: MIT */
/*
 * New connections per client of a rule, and of all its clients together: token buckets of `burst`
 * tokens, filled at `requests_per_second`. In any time t a client gets at most
 * requests_per_second * t + burst connections, over all workers, and no fewer if it asks.
 *
 * A client is an IPv4 address or an IPv6 prefix. A bucket is the time at which it will be full
 * again (GCRA's "theoretical arrival time"): one that is full is as good as none, so the table
 * forgets idle clients by itself. Its memory is bounded; when every place that a client could have
 * is taken by one that is not full, the fullest of them is forgotten, and counted.
 *
 * The limits may be those of several nodes together (lb_rate_limit_share()). Each has its own
 * buckets, filled at its part of the rate; who runs short of that spends from what all nodes share
 * among themselves (cluster/limits.h).
 *
 * Knows no descriptor, no session and no clock. Any thread.
 */
#ifndef LB_FLOW_RATE_LIMIT_H
#define LB_FLOW_RATE_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "cluster/limits.h"
#include "config/config.h"

struct lb_rate_limit;

enum lb_rate_limit_verdict {
	LB_RATE_LIMIT_TAKEN,  /* a token was there, and is spent */
	LB_RATE_LIMIT_CLIENT, /* this client has none .. */
	LB_RATE_LIMIT_RULE,   /* all together have none .. */
};

/* 0 or -errno; <config> is copied. */
int lb_rate_limit_new(struct lb_rate_limit **ret, const struct lb_rate_limit_config *config);
/* NULL is fine. Nobody may use it any more. */
void lb_rate_limit_free(struct lb_rate_limit **l);

/* New rates for living buckets: what a client lacks it goes on lacking, in tokens. */
void lb_rate_limit_set(struct lb_rate_limit *l, const struct lb_rate_limit_config *config,
		       uint64_t now_ns);

/*
 * The limits are those of all nodes of <limits>, under the name of the rule, which is the same on
 * all of them; NULL: of this node alone. Borrowed until it is freed, or told otherwise.
 */
void lb_rate_limit_share(struct lb_rate_limit *l, struct lb_limits *limits, const char *rule,
			 uint64_t now_ns);

/*
 * A connection of <client>, now. When it is refused, *until_ns is when the next token comes,
 * or may come from another node; the clock is CLOCK_MONOTONIC.
 */
enum lb_rate_limit_verdict lb_rate_limit_take(struct lb_rate_limit *l, const struct lb_addr *client,
					      uint64_t now_ns, uint64_t *until_ns);

/* A bucket that is not full, for another daemon; <key> all zero: that of all clients together. */
struct lb_rate_limit_record {
	uint8_t key[16];
	uint64_t full_ns; /* CLOCK_MONOTONIC */
};
/*
 * All of them at <now_ns>, in an array of the caller's; *count of them. What is taken meanwhile may
 * be missing. 0 or -ENOMEM.
 */
int lb_rate_limit_save(struct lb_rate_limit *l, uint64_t now_ns, struct lb_rate_limit_record **ret,
		       size_t *count);
/* <record> was true at another daemon: here that client, or all, lack so much at least. */
void lb_rate_limit_restore(struct lb_rate_limit *l, const struct lb_rate_limit_record *record,
			   uint64_t now_ns);

/* Clients that are not full at <now_ns>, and the places there are. Looks at all places in use. */
uint32_t lb_rate_limit_clients(const struct lb_rate_limit *l, uint64_t now_ns);
uint32_t lb_rate_limit_clients_max(void);
/* Clients that were forgotten although they were not full. */
uint64_t lb_rate_limit_evicted(const struct lb_rate_limit *l);

#endif
