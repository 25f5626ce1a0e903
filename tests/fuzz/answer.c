/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as the answer to a health check: the verdict does not depend on how they are cut into
 * pieces, and a good one is only given to what says so.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static enum lb_verdict fed(struct lb_answer *a, const struct lb_health_check_config *config,
			   const char *bytes, size_t size, size_t piece)
{
	enum lb_verdict verdict = LB_VERDICT_MORE;

	lb_answer_init(a, config);
	for (size_t at = 0; at < size && verdict == LB_VERDICT_MORE; at += piece)
		verdict = lb_answer_feed(a, bytes + at, piece < size - at ? piece : size - at);
	return verdict;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char expect[] = "+PONG";
	const struct lb_health_check_config configs[] = {{.protocol = LB_HEALTH_CHECK_HTTP},
							 {.expect = expect}};
	const char *bytes = (const char *)data;

	for (size_t i = 0; i < 2; i++) {
		struct lb_answer whole, pieces;
		enum lb_verdict verdict = fed(&whole, &configs[i], bytes, size, size + 1);

		demand(fed(&pieces, &configs[i], bytes, size, 1) == verdict);
		demand(fed(&pieces, &configs[i], bytes, size, 7) == verdict);
		demand((verdict == LB_VERDICT_BAD) == (whole.cause[0] != '\0'));
		demand(memchr(whole.cause, 0, sizeof(whole.cause)));
		if (i == 0 && verdict == LB_VERDICT_GOOD)
			demand(whole.status >= 200 && whole.status < 400 && size > 12);
		if (i == 1 && verdict == LB_VERDICT_GOOD)
			demand(!memcmp(bytes, expect, sizeof(expect) - 1));
		if (verdict == LB_VERDICT_MORE)
			demand(lb_answer_end(&whole) == LB_VERDICT_BAD);
	}
	return 0;
}
