/* SPDX-License-Identifier: MIT */
/*
 * The bandwidth limits of a rule: who shares which buckets. All connections of a client address
 * share two, one each way; so do all connections to a backend. How a flow stands in their queues is
 * budget.h's.
 *
 * What a client owes when its last connection ends is remembered until it is paid, so that closing
 * and opening again gains nothing. Of the clients without a connection the last ones are
 * remembered, LB_BANDWIDTH_IDLE_MAX of them: memory is bounded by those and by the living flows.
 *
 * Knows no descriptor, no session, no clock: <now> is CLOCK_MONOTONIC, ns. Any thread.
 */
#ifndef LB_FLOW_BANDWIDTH_LIMIT_H
#define LB_FLOW_BANDWIDTH_LIMIT_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "config/config.h"
#include "flow/budget.h"

/* Clients of a rule that owe and have no connection. */
#define LB_BANDWIDTH_IDLE_MAX 1024u

struct lb_bandwidth_limit;
struct lb_bandwidth_party; /* a client, or a backend */

/* A flow's part in it. */
struct lb_bandwidth_share {
	struct lb_bandwidth_limit *limit;
	struct lb_bandwidth_party *client, *backend;
	struct lb_budget budget[2]; /* client to backend, and the way back */
};

/* True when <config> limits anything. */
bool lb_bandwidth_limit_is_set(const struct lb_bandwidth_limit_config *config);
/* Buckets that a rule with so many backends needs beside two for each flow. */
uint32_t lb_bandwidth_limit_buckets(size_t backends);

/* <buckets> must outlive it. 0 or -errno. */
int lb_bandwidth_limit_new(struct lb_bandwidth_limit **ret, struct lb_buckets *buckets,
			   const struct lb_bandwidth_limit_config *config);
/* NULL is fine. No flow is in it any more. */
void lb_bandwidth_limit_free(struct lb_bandwidth_limit **l);

/*
 * A flow of <client> to <backend> begins: fills in <share>. 0; -ENOMEM, or -ENOSPC when all buckets
 * are taken: then it must not be carried.
 */
int lb_bandwidth_limit_enter(struct lb_bandwidth_limit *l, struct lb_bandwidth_share *share,
			     const struct lb_addr *client, const struct lb_addr *backend,
			     uint64_t now);
/* It has ended, and nobody charges for it any more. */
void lb_bandwidth_limit_leave(struct lb_bandwidth_share *share, uint64_t now);

/*
 * Other rates, for living flows too. Those that wait must be made to look again afterwards: see
 * lb_workers_look_again().
 */
void lb_bandwidth_limit_change(struct lb_bandwidth_limit *l,
			       const struct lb_bandwidth_limit_config *config, uint64_t now);

/* Clients that have a connection, or owe; forgets those that have paid meanwhile. */
size_t lb_bandwidth_limit_clients(struct lb_bandwidth_limit *l, uint64_t now);

#endif
