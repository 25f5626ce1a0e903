/* SPDX-License-Identifier: MIT */
/*
 * A rule's backends at run time: addresses, weights, who may be picked, how many connections each
 * holds. Shared by all workers.
 */
#ifndef LB_BACKEND_POOL_H
#define LB_BACKEND_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "config/config.h"

struct lb_ports;

/* A weight of 1 in lb.yaml, so that a slow start has steps below it. */
#define LB_WEIGHT_UNIT 16u

struct lb_backend {
	const struct lb_backend_config *config; /* borrowed */
	struct lb_addr addr;
	uint32_t index; /* in its pool */
	/* Its share, in LB_WEIGHT_UNITs: less than configured while it starts slowly. */
	uint32_t weight;
	bool draining;
	bool down;              /* the health thread's: its checks fail .. */
	bool ejected;           /* .. or its flows did, for some time */
	bool eligible;          /* atomic: may be picked; lb_select_note() sets it */
	struct lb_ports *ports; /* shared by all backends with this address; not owned */
	uint32_t limit;         /* connections it may have; 0: any */
	/* flow/select's, under its lock; <active> may be read by anybody, relaxed. */
	uint64_t active; /* connections it has, or is being asked for */
	uint64_t turn;   /* when it is its turn by weight, in virtual time */
	uint32_t heap_at;
	/* Any worker, relaxed. */
	uint64_t connections;
	uint64_t connect_failures;
	uint64_t checks; /* health checks answered, or not in time .. */
	uint64_t check_failures;
};

struct lb_pool {
	struct lb_backend *backends;
	uint32_t count;
};

/*
 * Resolves names (blocking; main thread, before workers run). <rule> must outlive the pool. 0 or
 * -errno: -EADDRNOTAVAIL when a name has no address; *bad then names the backend (borrowed from
 * <rule>).
 */
int lb_pool_new(struct lb_pool **ret, const struct lb_rule_config *rule, const char **bad);
/* NULL is fine. No worker may use it any more. */
void lb_pool_free(struct lb_pool **pool);

#endif
