/* SPDX-License-Identifier: MIT */
/* why: the words of include/lb/whys.def. It must never invent one of its own. */
#include "kernel/kernel.h"

#include "base/cleanup.h"

static const struct {
	const char *word;
	const char *help;
} whys[] = {
#define LB_WHY(symbol, why_word, why_help) [LB_WHY_##symbol] = {#why_word, why_help},
#include <lb/whys.def>
#undef LB_WHY
};

_Static_assert(LB_ARRAY_SIZE(whys) == LB_WHY_MAX_, "one line per why");

const char *lb_why_word(enum lb_why why)
{
	return whys[why].word;
}

const char *lb_why_help(enum lb_why why)
{
	return whys[why].help;
}
