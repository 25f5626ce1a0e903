/* SPDX-License-Identifier: MIT */
/*
 * A rule's backends at run time. A pool is a set of backends that may change at any time, from
 * whatever thread; flow/select puts a new set in place together with its tables.
 *
 *   entry     one item of `backends` in lb.yaml: a copy of what it says
 *   backend   one address that an entry stands for (a name may stand for several, and for others
 *             later); what is known about it and how many flows it has
 *
 *               lb_select_change()          lb_select_change()       the last flow ends
 *     made ----------------------> in the set <-------------> LEFT --------------------> freed
 *                                                             no new flow, no checks
 *
 * A backend is held by the set it is in, by each of its flows, and by whoever asks
 * (lb_pool_hold()). Who holds one may read it; who does not must not even look.
 *
 * Invariants
 *  P1  Holding, letting go, and everything said to be "under the lock" happens under pool->lock,
 *      which nobody holds for longer than it takes to walk the set, or while it waits.
 *  P2  The strings of entry->config never change; its numbers, and what follows from them in the
 *      backends, change with lb_pool_settle() alone.
 *  P3  A backend's id is never used again: compare ids where a backend may be gone.
 */
#ifndef LB_BACKEND_POOL_H
#define LB_BACKEND_POOL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "backend/times.h"
#include "base/addr.h"
#include "base/list.h"
#include "config/config.h"

struct lb_drain;
struct lb_ports;
struct lb_pool;

/* A weight of 1 in lb.yaml, so that a slow start has steps below it. */
#define LB_WEIGHT_UNIT 16u

/* Why a backend takes no new flow: bits of lb_backend.out, set by lb_select_mark(). */
enum lb_backend_out {
	LB_BACKEND_DRAINS = 1 << 0,   /* somebody wants it so */
	LB_BACKEND_DOWN = 1 << 1,     /* its checks fail .. */
	LB_BACKEND_EJECTED = 1 << 2,  /* .. or its flows did, for some time */
	LB_BACKEND_LEFT = 1 << 3,     /* it is not in the set */
	LB_BACKEND_DISABLED = 1 << 4, /* somebody wants it so, and its flows left alone */
};

/* What is counted of a backend. Any worker, relaxed. Nothing but uint64_t: pool.c adds them. */
struct lb_backend_counts {
	uint64_t connections;
	uint64_t connect_failures;
	uint64_t checks; /* health checks answered, or not in time .. */
	uint64_t check_failures;
	uint64_t bytes[2]; /* by direction, as far as lb_account_fold() has come */
	uint64_t connects[LB_CONNECT_BUCKETS + 1]; /* that succeeded, by time .. */
	uint64_t connect_sum_us;
	uint64_t first_bytes[LB_FIRST_BYTE_BUCKETS + 1]; /* .. and how long until it spoke */
	uint64_t first_byte_sum_us;
};

struct lb_pool_entry {
	struct lb_list node; /* in pool->entries, while the configuration has it */
	struct lb_pool *pool;
	struct lb_backend_config config; /* a copy of its own */
	/* What its backends begin with: as configured, or as was asked for since. */
	uint8_t out;
	uint32_t whole_weight;
	uint32_t holders;              /* under the lock: its maker's, its backends' */
	struct lb_backend_counts gone; /* under the lock: of its backends that are freed */
	uint32_t row;                  /* under the lock: lb_pool_rows()' */
	uint64_t lookups;              /* of its name; atomic, as .. */
	uint64_t lookup_failures;      /* .. those that brought no address */
};

struct lb_backend {
	const struct lb_backend_config *config; /* its entry's */
	struct lb_pool *pool;
	struct lb_pool_entry *entry;
	struct lb_addr addr;
	uint64_t id; /* P3; never 0 */
	uint64_t
		place; /* where source_hash puts it: the same on all nodes, however it is written */
	/* Its share in LB_WEIGHT_UNITs, and at the moment: less while it starts slowly. */
	uint32_t whole_weight, weight;
	bool backup;
	uint32_t limit;         /* connections it may have; 0: any */
	uint8_t out;            /* atomic: enum lb_backend_out; 0: it may be picked */
	bool same_host;         /* bytes of its flows may skip TCP: see kernel/same_host.h */
	struct lb_ports *ports; /* of its address; held, NULL when none was set */
	/* Under the lock. */
	struct lb_list node; /* in pool->left, when it has left */
	uint32_t index;      /* in the set */
	/* flow/select's: what this node may have, where nodes share the limit and say so. */
	bool shared;
	uint32_t share;
	uint32_t holders;
	uint64_t active;  /* connections it has, or is being asked for; anybody may read, relaxed */
	uint64_t turn;    /* flow/select's: when it is its turn by weight, in virtual time */
	uint32_t heap_at; /* .. */
	struct lb_backend_counts counts;
	/* Of whoever watches it (control/health): freed with it. */
	void *watch;
	void (*unwatch)(void *watch);
	/* Of who drains it (control/drain), both atomic: where that is, NULL when it does not .. */
	struct lb_drain *drain;
	uint64_t drain_until_ms; /* .. and when its flows are cut, lb_clock_ms(); 0: never */
};

struct lb_pool {
	pthread_mutex_t lock;
	/* Under the lock. */
	struct lb_backend **backends; /* the set; owned */
	uint32_t count;
	struct lb_list left;    /* struct lb_backend: those that live on for their holders */
	struct lb_list entries; /* struct lb_pool_entry, in the order of lb.yaml */
};

/* Empty. 0 or -ENOMEM. */
int lb_pool_new(struct lb_pool **ret);
/* With all backends, whoever holds them: nobody may use it any more. NULL is fine. */
void lb_pool_free(struct lb_pool **pp);

/* Any thread from here on. */

/* A new entry with a copy of <config>, held for the caller and not yet listed. 0 or -ENOMEM. */
int lb_pool_new_entry(struct lb_pool *pool, const struct lb_backend_config *config,
		      struct lb_pool_entry **ret);
/* The configuration has it from now on. */
void lb_pool_list_entry(struct lb_pool_entry *entry);
/* .. no more, and the caller's hold ends: it is freed with the last of its backends. */
void lb_pool_remove_entry(struct lb_pool_entry *entry);
/*
 * Weight, limit, backup and drain are as <config>, of the same name, says from now on; what
 * somebody has changed at run time stays where the configuration says what it said before. One
 * thread at a time; the shares follow with the next lb_select_change().
 */
void lb_pool_settle(struct lb_pool_entry *entry, const struct lb_rule_config *rule,
		    const struct lb_backend_config *config);

/*
 * A backend of <entry> at <addr>, held once for the caller and in no set yet. <shared>: the entry
 * may stand for more than this address, so that the address is what tells it from others; else the
 * name is. 0 or -ENOMEM.
 */
int lb_pool_new_backend(struct lb_pool_entry *entry, const struct lb_rule_config *rule,
			const struct lb_addr *addr, bool shared, struct lb_backend **ret);
/* One of <entry> at <addr> that has left and still lives; held. It may be in a set again. */
struct lb_backend *lb_pool_find_left(struct lb_pool_entry *entry, const struct lb_addr *addr);
/*
 * The one for a flow that comes from another daemon, where it was <name> at <addr>: the one in the
 * set, or one that has left, made if there is none; held. NULL: no memory.
 */
struct lb_backend *lb_pool_adopt(struct lb_pool *pool, const struct lb_rule_config *rule,
				 const char *name, const struct lb_addr *addr);
struct lb_backend *lb_pool_hold(struct lb_backend *b);
/* Lets go; the last one frees it. NULL inside is fine. */
void lb_pool_put(struct lb_backend **pb);
/* For flow/select, under the lock: true when <b> is to be buried once the lock is free. */
bool lb_pool_put_locked(struct lb_backend *b);
void lb_pool_bury(struct lb_backend *b);

/* --- reading ---------------------------------------------------------------------------------- */

/* The backends at this moment, each of them held, in an array of the caller's. 0 or -ENOMEM. */
int lb_pool_snapshot(struct lb_pool *pool, struct lb_backend ***ret, uint32_t *count);
/* Lets go of all and frees the array. NULL inside is fine. */
void lb_pool_snapshot_free(struct lb_backend ***backends, uint32_t count);
/* The one in the set, or among those that left, at <addr>; held. NULL: there is none. */
struct lb_backend *lb_pool_find(struct lb_pool *pool, const struct lb_addr *addr);
/* Nobody is in it, and nobody is held by anybody. */
bool lb_pool_is_deserted(struct lb_pool *pool);
/* How many are in the set, and how many of them take flows. */
void lb_pool_count(struct lb_pool *pool, uint32_t *all, uint32_t *eligible);

/* An entry's backends taken together, those that have left and those that are gone included. */
struct lb_pool_row {
	struct lb_pool_entry *entry; /* held */
	uint32_t backends;           /* in the set */
	uint32_t eligible;           /* .. that take flows */
	uint32_t draining;           /* .. that drain */
	uint64_t drain_until_ms;     /* .. the first of them to be cut, lb_clock_ms(); 0: none */
	uint64_t active;
	struct lb_backend_counts counts;
};
/* One for each entry, in the order of lb.yaml, in an array of the caller's. 0 or -ENOMEM. */
int lb_pool_rows(struct lb_pool *pool, struct lb_pool_row **ret, uint32_t *count);
/* More of its kind, of an earlier daemon: as of backends that are gone. */
void lb_pool_add_counts(struct lb_pool_entry *entry, const struct lb_backend_counts *more);
void lb_pool_rows_free(struct lb_pool_row **rows, uint32_t count);

static inline bool lb_backend_is_eligible(const struct lb_backend *b)
{
	return !__atomic_load_n(&b->out, __ATOMIC_RELAXED);
}

#endif
