/* SPDX-License-Identifier: MIT */
/* See walk.h. Must never look at what a session does. */
#include "flow/walk.h"

#include "base/cleanup.h"
#include "flow/session.h"

void lb_walk_begin(struct lb_flow_env *env, struct lb_walk *w)
{
	lb_list_append(&env->walks, &w->node);
	w->next = env->sessions.next;
	w->begun_ns = lb_loop_now_ns(env->carrier.loop);
}

struct lb_session *lb_walk_next(struct lb_flow_env *env, struct lb_walk *w)
{
	struct lb_session *s;

	if (w->next == &env->sessions)
		return NULL;
	s = lb_container_of(w->next, struct lb_session, node);
	/* They stand in the order in which they came. */
	if (s->came_ns > w->begun_ns)
		return NULL;
	w->next = w->next->next;
	return s;
}

void lb_walk_end(struct lb_walk *w)
{
	lb_list_remove(&w->node);
}

void lb_walk_pass_over(struct lb_flow_env *env, const struct lb_list *node)
{
	lb_list_for_each (it, &env->walks) {
		struct lb_walk *w = lb_container_of(it, struct lb_walk, node);

		if (w->next == node)
			w->next = node->next;
	}
}
