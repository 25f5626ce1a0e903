/* SPDX-License-Identifier: MIT */
/* Where packets of a graft leave. */
#ifndef LB_KERNEL_GRAFT_ROUTE_H
#define LB_KERNEL_GRAFT_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernel/graft_table.h"

struct mnl_socket;

/* Where a packet of ours leaves. */
struct lb_graft_hop {
	bool local;       /* to this host itself */
	uint32_t ifindex; /* .. over it, all the same */
};
/* A socket for lb_graft_route_get(). 0 or -errno. */
int lb_graft_route_open(struct mnl_socket **ret);
/*
 * The route from <tuple>'s daddr to its saddr. 0; -EHOSTUNREACH; -EOPNOTSUPP: one that a program
 * cannot follow (link-local, encapsulated, multicast). One thread at a time.
 */
int lb_graft_route_get(struct mnl_socket *s, const struct lb_graft_tuple *tuple,
		       struct lb_graft_hop *ret);

#endif
