/* SPDX-License-Identifier: MIT */
/*
 * A table keyed by client address, for what is kept per client. Ports do not matter, and an IPv4
 * address is the same client as its IPv6-mapped twin. The entries are the user's: each has a struct
 * lb_client in it.
 *
 * Knows no descriptor, no session, no clock, and no lock: its user has one.
 */
#ifndef LB_FLOW_CLIENT_TABLE_H
#define LB_FLOW_CLIENT_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

struct lb_client {
	struct lb_client *next;
	uint8_t key[16];
};

struct lb_client_table {
	uint64_t seed; /* clients do not know it: none can make the others' chains long */
	struct lb_client **heads;
	size_t heads_count; /* a power of two */
	size_t count;
};

/* 0 or -errno; lb_client_table_fini() either way. */
int lb_client_table_init(struct lb_client_table *t);
/* Hands every entry that is left to <free_one> (may be NULL). */
void lb_client_table_fini(struct lb_client_table *t, void (*free_one)(struct lb_client *c));

/* NULL: none. */
struct lb_client *lb_client_table_find(const struct lb_client_table *t, const struct lb_addr *addr);
/* <addr> has no entry yet. Cannot fail: without memory to grow, the chains get longer. */
void lb_client_table_add(struct lb_client_table *t, struct lb_client *c,
			 const struct lb_addr *addr);
void lb_client_table_remove(struct lb_client_table *t, struct lb_client *c);
void lb_client_table_each(const struct lb_client_table *t,
			  void (*fn)(struct lb_client *c, void *arg), void *arg);

#endif
