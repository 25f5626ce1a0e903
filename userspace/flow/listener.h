/* SPDX-License-Identifier: MIT */
/*
 * The listening sockets of a worker, which may come, change their rule, and go while it runs. The
 * worker's thread only, if nothing else is said.
 */
#ifndef LB_FLOW_LISTENER_H
#define LB_FLOW_LISTENER_H

#include "flow/env.h"

struct lb_listener;

/*
 * For a worker to start: <fd> listens for <rule>; taken over on success. Any thread. 0 or -ENOMEM.
 */
int lb_listener_new(struct lb_listener **ret, const struct lb_rule *rule, int fd);
/* One that was not started, and its socket. NULL inside is fine. Any thread. */
void lb_listener_free(struct lb_listener **pl);

/* Of one that was not started. Any thread. */
int lb_listener_fd(const struct lb_listener *l);
/* One that was not started: its clients send no larger segments. Any thread. */
void lb_listener_limit_segments(struct lb_listener *l, int mss);

/* Accepts from now on; *pl becomes NULL, <listeners> has it. 0 or -errno. Also before it runs. */
int lb_listener_start(struct lb_listener **pl, struct lb_flow_env *env, struct lb_list *listeners);
/* Closes all; <drain>: when what is in their backlogs has been taken. */
void lb_listeners_stop(struct lb_list *listeners, bool drain);
/* fn(arg, rule, fd) for each. */
void lb_listeners_visit(struct lb_list *listeners,
			void (*fn)(void *arg, const struct lb_rule *rule, int fd), void *arg);
/*
 * Closes all. is_kept(rule, arg): another daemon has its sockets too, and takes what is in their
 * backlogs; those of the others are drained.
 */
void lb_listeners_leave(struct lb_list *listeners,
			bool (*is_kept)(const struct lb_rule *rule, void *arg), void *arg);
/*
 * heir(rule): for whom the listeners of <rule> listen from now on; NULL: for nobody, they are
 * drained and closed.
 */
void lb_listeners_hand(struct lb_list *listeners,
		       const struct lb_rule *(*heir)(const struct lb_rule *rule, void *arg),
		       void *arg);

#endif
