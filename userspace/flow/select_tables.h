/* SPDX-License-Identifier: MIT */
/*
 * What a method of balancing looks up, built once for a set of backends and the state they are in.
 * The tables name backends by their index in that set.
 *
 * Knows no lock, no descriptor, no session, no clock.
 */
#ifndef LB_FLOW_SELECT_TABLES_H
#define LB_FLOW_SELECT_TABLES_H

#include "backend/pool.h"
#include "config/config.h"
#include "flow/select_maglev.h"
#include "flow/select_round_robin.h"

struct lb_select_set {
	struct lb_backend *const *at;
	uint32_t count;
};

/* Of the backends in service; what the method needs of it, the rest is NULL. */
struct lb_select_tables {
	struct lb_round_robin *round_robin;
	struct lb_maglev *maglev;
	struct lb_backend **least;
	uint32_t least_count;
	bool backup; /* the tier in service is that of the backups */
};

/* As if all of <set> were in the pool. 0, or -errno with nothing left to free. */
int lb_select_tables_init(struct lb_select_tables *t, struct lb_select_set set,
			  enum lb_balance balance);
void lb_select_tables_fini(struct lb_select_tables *t);

#endif
