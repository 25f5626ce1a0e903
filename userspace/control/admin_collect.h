/* SPDX-License-Identifier: MIT */
/*
 * Collects snapshots of all flows that a request names: a survey whose every worker writes to a
 * place of its own, so that none waits for another.
 */
#ifndef LB_CONTROL_ADMIN_COLLECT_H
#define LB_CONTROL_ADMIN_COLLECT_H

#include "control/admin_job.h"
#include "flow/snapshot.h"

struct lb_collection;

/*
 * Begins; the job leaves and is back, with <next>, when all is collected. <legs>: sockets are asked
 * too. 0 or -ENOMEM. Admin's thread, as for the rest.
 */
int lb_admin_collect(struct lb_collection **ret, struct lb_admin_job *job, bool legs,
		     void (*next)(struct lb_admin_job *job));
/*
 * All of them in the order of their ids, each flow once; *missing: as many found no room. An array
 * of pointers, freed with the collection. 0 or -ENOMEM. When the job is back.
 */
int lb_collection_flows(struct lb_collection *c, struct lb_flow_snapshot ***ret, size_t *count,
			uint64_t *missing);
/* When the job is back, or has not left. NULL inside is fine. */
void lb_collection_free(struct lb_collection **c);

#endif
