/* SPDX-License-Identifier: MIT */
/*
 * The grafts of all workers: who has which pair of the table, and what a pair's entry says of its
 * connections. Any thread may call everything that does not say otherwise.
 */
#ifndef LB_FLOW_GRAFTS_H
#define LB_FLOW_GRAFTS_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "config/config.h"
#include "flow/carrier.h"
#include "kernel/graft_table.h"

struct lb_backend;
struct lb_ports;
struct lb_rule;

/*
 * Whose a kept pair is: what the table, which outlives us, cannot name. Written by the session that
 * leaves the pair, before it is KEPT, or at adoption; then the keeper's. NULL: no longer there.
 */
struct lb_graft_owner {
	const struct lb_rule *rule;
	struct lb_backend *backend; /* held, and counted as its connection */
	struct lb_ports *ports;     /* held: the book that the pair's port is from */
};

struct lb_grafts {
	struct lb_graft_table *table;
	struct lb_graft_owner *owners; /* by pair */
	struct lb_graft_config config;
	pthread_mutex_t lock;
	uint32_t *free; /* stack of pair numbers, under <lock> */
	uint32_t free_count;
	bool lent; /* atomic: another daemon gives out the pairs, and keeps those that are kept */
};

/* All pairs of <table> are free until lb_grafts_count_free(). 0 or -ENOMEM. */
int lb_grafts_new(struct lb_grafts **ret, struct lb_graft_table *table,
		  const struct lb_graft_config *config);
/* NULL is fine. */
void lb_grafts_free(struct lb_grafts **grafts);
/* Rebuilds the stack of free pairs from their stages: after adoption. Before workers run. */
void lb_grafts_count_free(struct lb_grafts *g);
/* Whether another daemon has them from now on; afterwards what is free is counted again. */
void lb_grafts_lend(struct lb_grafts *g, bool lent);
static inline bool lb_grafts_are_lent(const struct lb_grafts *g)
{
	return __atomic_load_n(&g->lent, __ATOMIC_RELAXED);
}
/* One more is free: a daemon before us has put it back. Any thread. */
void lb_grafts_add_free(struct lb_grafts *g, uint32_t pair);
/*
 * Any thread. -ENOSPC when all are taken, -EBUSY when they are lent. The pair is zeroed before it
 * can be taken again.
 */
int lb_grafts_get(struct lb_grafts *g, uint32_t *ret);
void lb_grafts_put(struct lb_grafts *g, uint32_t pair);

/* The tuple with which packets of leg <leg> arrive; leg[].s/daddr and ports must be set. */
void lb_graft_tuple(const struct lb_graft *g, unsigned int leg, struct lb_graft_tuple *ret);
/* As an address: where leg <leg>'s peer is. */
void lb_graft_peer(const struct lb_graft *g, unsigned int leg, struct lb_addr *ret);
/* Who the client is: leg 0's peer, or whom a PROXY header named. */
void lb_graft_client(const struct lb_graft *g, struct lb_addr *ret);
void lb_graft_set_client(struct lb_graft *g, const struct lb_addr *client);
/* As an address: where we are on leg <leg>. */
void lb_graft_own(const struct lb_graft *g, unsigned int leg, struct lb_addr *ret);
/* Sends a RST to both peers, with the sequence numbers they expect. Any thread. */
void lb_graft_reset_peers(const struct lb_graft *g);
/* Has leg <leg>'s peer say what it acknowledges and takes. Best effort. Any thread. */
void lb_graft_nudge_peer(const struct lb_graft *g, unsigned int leg);
/* Both sides have closed in good order, or one has reset the flow. */
bool lb_graft_has_ended(const struct lb_graft *g);
/* When the last data was seen, of either side; CLOCK_MONOTONIC. Any thread. */
uint64_t lb_graft_last_data_ns(const struct lb_graft *g);
/* How long after its connect the backend sent its first byte; false: it has not. Any thread. */
bool lb_graft_first_byte(const struct lb_graft *g, uint64_t *us);
/* Its keys go. Sockets or nothing get what comes from now on. Harmless when they are gone. */
void lb_graft_unhook(struct lb_grafts *grafts, uint32_t pair);
/* Our port towards the backend, host byte order. */
uint16_t lb_graft_port(const struct lb_graft *g);
/* The owner of a pair that is kept, or is about to be. */
static inline struct lb_graft_owner *lb_grafts_owner(struct lb_grafts *grafts, uint32_t pair)
{
	return &grafts->owners[pair];
}

/* Keys, pair and port are free again. <ports>: the backend's book, NULL when there is none. */
void lb_grafts_release(struct lb_grafts *grafts, uint32_t pair, struct lb_ports *ports);

/* The entry of a pair that is WATCHED or CARRIED. */
static inline struct lb_graft *lb_grafts_entry(const struct lb_pair *p)
{
	return lb_graft_table_pair(p->env->grafts->table, p->graft_pair);
}

#endif
