/* SPDX-License-Identifier: MIT */
/*
 * A request that is being answered. It belongs to the admin thread but while it is away: then
 * another thread works for it, and brings it back with lb_admin_job_back(). The client may be gone
 * by then; the job does not know.
 *
 *   lb_admin_answer() --answered--------------------------------> lb_admin_job_end()
 *          |                                                              ^
 *          +-- away: workers, the health thread --back--> job->next() ----+
 */
#ifndef LB_CONTROL_ADMIN_JOB_H
#define LB_CONTROL_ADMIN_JOB_H

#include "base/list.h"
#include "control/admin.h"
#include "control/admin_request.h"
#include "control/admin_text.h"
#include "loop/loop.h"

struct lb_admin_client;

struct lb_admin_job {
	struct lb_list node; /* in the admin's jobs */
	struct lb_admin *admin;
	const struct lb_admin_opts *opts;
	struct lb_loop *loop;           /* the admin's */
	struct lb_admin_client *client; /* NULL: it is gone */
	struct lb_admin_request request;
	void (*next)(struct lb_admin_job *job); /* in the admin's thread, when it is back */
	bool away;                              /* atomic */
	bool woken;                             /* atomic: it is back and next() has not run */
	struct lb_admin_text reply;
	/* Of whoever answers it. */
	void *work;
	void (*drop)(struct lb_admin_job *job); /* frees <work>; not while it is away */
};

/* It goes away; <next> when it is back. Admin's thread. */
void lb_admin_job_leave(struct lb_admin_job *job, void (*next)(struct lb_admin_job *job));
/* It could not go. */
void lb_admin_job_stay(struct lb_admin_job *job);
/* Any thread, the last thing it does with the job. */
void lb_admin_job_back(struct lb_admin_job *job);
/* job->reply is complete. The job is no more when this returns. Admin's thread. */
void lb_admin_job_end(struct lb_admin_job *job);
/* The same, with a refusal. */
void lb_admin_job_refuse(struct lb_admin_job *job, const char *why);

/* --- who answers, control/admin_answer.c and its neighbours --- */

/* Sees to it that the job ends, now or later. Admin's thread. */
void lb_admin_answer(struct lb_admin_job *job);
/* What needs the thread that watches over the backends: control/admin_backends.c. */
void lb_admin_answer_backends(struct lb_admin_job *job);
/* `flows` and `kill`: control/admin_flows.c. */
void lb_admin_answer_flows(struct lb_admin_job *job);
void lb_admin_answer_kill(struct lb_admin_job *job);
/* `cluster`: control/admin_cluster.c. */
void lb_admin_answer_cluster(struct lb_admin_job *job);
/* `reload`: control/admin_reload.c. */
void lb_admin_answer_reload(struct lb_admin_job *job);
/* `upgrade`: control/admin_upgrade.c. */
void lb_admin_answer_upgrade(struct lb_admin_job *job);

#endif
