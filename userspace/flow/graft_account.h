/* SPDX-License-Identifier: MIT */
/*
 * What a grafted flow is counted for, while it lives and at its end, and the line that tells of it.
 * The keeper's thread only.
 */
#ifndef LB_FLOW_GRAFT_ACCOUNT_H
#define LB_FLOW_GRAFT_ACCOUNT_H

#include "flow/env.h"
#include "flow/grafts.h"

/* Its rule's; NULL: that is gone. */
struct lb_counters *lb_graft_account_counters(struct lb_flow_env *env,
					      const struct lb_graft_owner *owner);
/* What has moved since the last time. */
void lb_graft_account_fold(struct lb_flow_env *env, const struct lb_graft_owner *owner,
			   struct lb_graft *g);
/* It is over, and folded: counts that and writes its line. */
void lb_graft_account_end(struct lb_flow_env *env, const struct lb_graft_owner *owner,
			  const struct lb_graft *g, uint64_t now_ns);

/* Both sides have closed, and heard of it. */
bool lb_graft_has_closed(const struct lb_graft *g);

#endif
