/* SPDX-License-Identifier: MIT */
/*
 * How many connections each client address of a rule has at once, over all workers; ports do not
 * matter. Remembers only clients that have one: its memory is bounded by the flows there are.
 *
 * The limit may be that of all nodes of a cluster (cluster/limits): then this one has its part of
 * it, and what others lend it.
 *
 * Knows no descriptor, no session, no clock. Any thread.
 */
#ifndef LB_FLOW_CLIENT_CONNECTION_LIMIT_H
#define LB_FLOW_CLIENT_CONNECTION_LIMIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "cluster/limits.h"

struct lb_client_connection_limit;

/* 0 or -errno. */
int lb_client_connection_limit_new(struct lb_client_connection_limit **ret, uint32_t max);
/* NULL is fine. Nobody may use it any more. */
void lb_client_connection_limit_free(struct lb_client_connection_limit **l);

/* <max> from now on; clients that have more keep them. 0: any. */
void lb_client_connection_limit_set(struct lb_client_connection_limit *l, uint32_t max);

/*
 * It is that of <limits>' nodes, for the rule <rule> of each of them, from now on; NULL: of this
 * node. One thread at a time. <limits> lives as long as it is told of.
 */
void lb_client_connection_limit_share(struct lb_client_connection_limit *l,
				      struct lb_limits *limits, const char *rule);

/*
 * One more for <client>; false when it has as many as it may, or memory is out: then it is not let
 * in. To be given back. <now_us>: CLOCK_MONOTONIC.
 */
bool lb_client_connection_limit_take(struct lb_client_connection_limit *l,
				     const struct lb_addr *client, uint64_t now_us);
/* One that it has already, whatever the limit. False when memory is out. */
bool lb_client_connection_limit_adopt(struct lb_client_connection_limit *l,
				      const struct lb_addr *client);
void lb_client_connection_limit_release(struct lb_client_connection_limit *l,
					const struct lb_addr *client);

/* Clients that have a connection. */
size_t lb_client_connection_limit_clients(struct lb_client_connection_limit *l);

#endif
