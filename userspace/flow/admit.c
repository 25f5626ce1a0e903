/* SPDX-License-Identifier: MIT */
/* See admit.h. Comes before anything that costs: a backend never hears of who is refused here. */
#include "flow/admit.h"

#include "flow/client_connection_limit.h"

enum lb_step lb_admit_enter(struct lb_session *s)
{
	struct lb_client_connection_limit *limit = s->rule->client_connection_limit;

	if (!limit)
		return LB_STEP_NEXT;
	if (!lb_client_connection_limit_take(limit, &s->client)) {
		s->reason = LB_REASON_CLIENT_LIMIT;
		return LB_STEP_CLOSE;
	}
	s->admitted = true;
	return LB_STEP_NEXT;
}

void lb_admit_leave(struct lb_session *s)
{
	if (s->admitted)
		lb_client_connection_limit_release(s->rule->client_connection_limit, &s->client);
	s->admitted = false;
}
