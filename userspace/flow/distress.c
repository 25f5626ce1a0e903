/* SPDX-License-Identifier: MIT */
/* See distress.h. Must never cost more than SESSIONS_MAX system calls at a time. */
#include "flow/distress.h"

#include <linux/tcp.h>

#include "base/cleanup.h"
#include "flow/graft_socket.h"

#define SESSIONS_MAX 512
/* Timeouts in a row, each twice as long as the one before: 1.4 s at least. */
#define TIMEOUTS 3

static bool is_in_distress(const struct lb_session *s)
{
	struct tcp_info info;

	return !lb_graft_socket_info(s->pair.leg[LB_LEG_BACKEND].watch.fd, &info) &&
	       info.tcpi_retransmits >= TIMEOUTS;
}

void lb_distress_look(struct lb_flow_env *env)
{
	struct lb_walk *walk = &env->distress;

	for (int i = 0; i < SESSIONS_MAX; i++) {
		struct lb_session *s = lb_walk_next(env, walk);

		if (!s) {
			/* Round once: the next look begins with the oldest ones again. */
			lb_walk_end(walk);
			lb_walk_begin(env, walk);
			return;
		}
		if (!s->route->failed || !s->carrying || s->distressed || !is_in_distress(s))
			continue;
		s->distressed = true;
		lb_rule_failed(s->route, s->backend);
	}
}
