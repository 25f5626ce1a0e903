/* SPDX-License-Identifier: MIT */
/*
 * See admit.h. Comes before anything that costs: a backend never hears of who is refused here. Asks
 * what costs its client nothing first: only who is let in by all others may spend a token.
 */
#include "flow/admit.h"

#include "flow/acl.h"
#include "flow/client_connection_limit.h"
#include "flow/rate_limit.h"
#include "kernel/admit.h"

/* The kernel drops what comes until there is a token again. */
static void tell_kernel(const struct lb_session *s, enum lb_rate_limit_verdict verdict,
			uint64_t until_ns)
{
	struct lb_admit *admit = __atomic_load_n(&s->rule->admit, __ATOMIC_ACQUIRE);

	if (!admit)
		return;
	if (verdict == LB_RATE_LIMIT_CLIENT)
		lb_admit_refuse(admit, s->rule->index, &s->client, until_ns);
	else
		lb_admit_refuse_rule(admit, s->rule->index, until_ns);
}

static bool has_token(struct lb_session *s)
{
	struct lb_rate_limit *limit = __atomic_load_n(&s->rule->rate_limit, __ATOMIC_ACQUIRE);
	enum lb_rate_limit_verdict verdict;
	uint64_t until_ns;

	if (!limit)
		return true;
	verdict = lb_rate_limit_take(limit, &s->client, lb_loop_now_ns(s->env->carrier.loop),
				     &until_ns);
	if (verdict == LB_RATE_LIMIT_TAKEN)
		return true;
	tell_kernel(s, verdict, until_ns);
	return false;
}

static enum lb_step refuse(struct lb_session *s, enum lb_reason reason)
{
	s->reason = reason;
	return LB_STEP_CLOSE;
}

static uint64_t now_us(const struct lb_session *s)
{
	return lb_loop_now_ns(s->env->carrier.loop) / 1000;
}

enum lb_step lb_admit_enter(struct lb_session *s)
{
	struct lb_client_connection_limit *limit = s->rule->client_connection_limit;
	const struct lb_acl *acl = __atomic_load_n(&s->rule->acl, __ATOMIC_ACQUIRE);

	if (acl && !lb_acl_allows(acl, &s->client))
		return refuse(s, LB_REASON_ACL_DENIED);
	if (limit) {
		if (!lb_client_connection_limit_take(limit, &s->client, now_us(s)))
			return refuse(s, LB_REASON_CLIENT_LIMIT);
		s->admitted = true;
	}
	if (!has_token(s))
		return refuse(s, LB_REASON_RATE_LIMITED);
	return LB_STEP_NEXT;
}

void lb_admit_leave(struct lb_session *s)
{
	if (s->admitted)
		lb_client_connection_limit_release(s->rule->client_connection_limit, &s->client);
	s->admitted = false;
}
