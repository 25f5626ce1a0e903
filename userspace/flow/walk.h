/* SPDX-License-Identifier: MIT */
/*
 * A walk over a worker's sessions that may rest between two of them for as long as it likes:
 * sessions end meanwhile, the one that is next too, and new ones come. Oldest first; one that
 * began after the walk is not visited, so every walk ends. Worker's thread only.
 */
#ifndef LB_FLOW_WALK_H
#define LB_FLOW_WALK_H

#include <stdint.h>

#include "base/list.h"

struct lb_flow_env;
struct lb_session;

struct lb_walk {
	struct lb_list node;  /* in env->walks */
	struct lb_list *next; /* in env->sessions, or its head */
	uint64_t begun_ns;
};

/* To be ended with lb_walk_end(). */
void lb_walk_begin(struct lb_flow_env *env, struct lb_walk *w);
/* The next session, which the caller may close; NULL: there is none left. */
struct lb_session *lb_walk_next(struct lb_flow_env *env, struct lb_walk *w);
void lb_walk_end(struct lb_walk *w);

/* <node>, of env->sessions, is about to be removed. */
void lb_walk_pass_over(struct lb_flow_env *env, const struct lb_list *node);

#endif
