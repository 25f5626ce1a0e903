/* SPDX-License-Identifier: MIT */
/* May a pair be grafted? Worker's thread. */
#ifndef LB_FLOW_GRAFT_JUDGE_H
#define LB_FLOW_GRAFT_JUDGE_H

#include <linux/tcp.h>

#include "flow/carrier.h"
#include "kernel/graft_table.h"

/* What the judgement has found out about both legs, by leg. */
struct lb_graft_ways {
	struct lb_graft_tuple tuple[2]; /* as packets of the leg arrive */
	struct tcp_info info[2];
	uint32_t ifindex[2]; /* where packets to the leg's peer leave; 0: it is on this host */
};

/* LB_WHY_NONE with *ret filled in, or why not. */
enum lb_why lb_graft_judge(const struct lb_pair *p, struct lb_graft_ways *ret);

/*
 * True when the far end of a leg is a graft of ours: a packet is rewritten once only, so it would
 * miss the second one.
 */
bool lb_graft_is_chained(struct lb_graft_table *table, const struct lb_graft_ways *w);

/* Everything that is constant in a pair's entry, but the distances. */
void lb_graft_fill(struct lb_graft *g, const struct lb_graft_ways *w);

#endif
