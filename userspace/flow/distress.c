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
	const struct lb_list *first = env->sessions.next;

	for (int i = 0; i < SESSIONS_MAX && !lb_list_empty(&env->sessions); i++) {
		struct lb_list *node = env->sessions.next;
		struct lb_session *s = lb_container_of(node, struct lb_session, node);

		if (i && node == first)
			return;
		/* Its turn comes again behind all others; the order means nothing else. */
		lb_list_remove(node);
		lb_list_append(&env->sessions, node);
		if (!s->rule->failed || !s->carrying || s->distressed || !is_in_distress(s))
			continue;
		s->distressed = true;
		s->rule->failed(s->rule, s->backend);
	}
}
