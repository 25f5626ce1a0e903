/* SPDX-License-Identifier: MIT */
/*
 * The admin socket: what lbctl talks to. A thread of its own; a client is bounded in everything
 * (how many, their lines, their replies, their time), and none can hold up a worker or another
 * client. Requests: control/admin_request.h. A reply is one line of JSON: {"ok":true,..} or
 * {"ok":false,"error":".."}. Main thread, all of it.
 */
#ifndef LB_CONTROL_ADMIN_H
#define LB_CONTROL_ADMIN_H

#include "flow/env.h"

struct lb_admin;
struct lb_backends;
struct lb_service;

/* All borrowed until lb_admin_close(). */
struct lb_admin_opts {
	const char *socket;   /* as configured */
	const char *instance; /* NULL: the default one */
	struct lb_service *service;
	struct lb_backends *backends;
	struct lb_flow_env *const *envs; /* of the workers, the keeper with the first */
	uint32_t envs_count;
	int fd; /* listens there already: taken over in any case; -1: none does */
};

/*
 * Listens and begins to answer: the workers run. 0, or -errno after a message. Whoever may not
 * write to /run does without, after a warning: *ret is untouched.
 */
int lb_admin_open(struct lb_admin **ret, const struct lb_admin_opts *opts);
/* The listening socket, to be shared. */
int lb_admin_fd(const struct lb_admin *a);
/* <shared>: another daemon has it too, and its name outlives us. */
void lb_admin_share(struct lb_admin *a, bool shared);
bool lb_admin_is_shared(const struct lb_admin *a);
/* No more new clients here; those that are there are served on. */
void lb_admin_leave(struct lb_admin *a);
/* Somebody waits for an answer, or has not fetched it. Any thread. */
bool lb_admin_is_answering(const struct lb_admin *a);
/* Before workers and health checks are stopped. NULL inside is fine. */
void lb_admin_close(struct lb_admin **a);

#endif
