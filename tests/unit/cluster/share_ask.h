/* SPDX-License-Identifier: MIT */
/* Tokens of shares, for tests of them. */
#ifndef LB_TEST_CLUSTER_SHARE_ASK_H
#define LB_TEST_CLUSTER_SHARE_ASK_H

#include "cluster/share.h"
#include "sim.h"

#define KEY 77u

static const struct lb_share_label nobody = {.rule = "r"};

/* As who has no bucket of its own asks; <lacks> counts where the key is new. */
static inline enum lb_share_verdict take(struct lb_share *s, uint64_t key,
					 const struct lb_share_limit *limit, uint64_t lacks,
					 uint64_t now_us)
{
	const struct lb_share_ask ask = {key, *limit, &nobody, lacks};
	enum lb_share_verdict v;
	uint64_t until;

	v = lb_share_look(s, &ask, now_us, &until);
	if (v == LB_SHARE_UNTRACKED && !lb_share_track(s, &ask, now_us))
		v = lb_share_look(s, &ask, now_us, &until);
	if (v == LB_SHARE_HAS)
		lb_share_spend(s, &ask);
	if (v == LB_SHARE_REFUSED)
		assert_in_range(until, now_us + 1, now_us + LB_SHARE_TICK_MS * 1000);
	return v;
}

#endif
