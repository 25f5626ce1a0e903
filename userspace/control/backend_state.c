/* SPDX-License-Identifier: MIT */
/* See backend_state.h. */
#include "control/backend_state.h"

#include <stdio.h>

#include "backend/pool.h"
#include "base/cleanup.h"

const char *lb_backend_state_format(uint8_t out, char state[LB_BACKEND_STATE_MAX])
{
	static const struct {
		uint8_t bit;
		const char *word;
	} words[] = {
		{LB_BACKEND_DRAINS, "draining"},
		{LB_BACKEND_DISABLED, "disabled"},
		{LB_BACKEND_DOWN, "down"},
		{LB_BACKEND_EJECTED, "ejected"},
	};
	size_t at = 0;

	(void)snprintf(state, LB_BACKEND_STATE_MAX, "up");
	for (size_t i = 0; i < LB_ARRAY_SIZE(words) && at < LB_BACKEND_STATE_MAX; i++)
		if (out & words[i].bit)
			at += (size_t)snprintf(state + at, LB_BACKEND_STATE_MAX - at, "%s%s",
					       at ? "+" : "", words[i].word);
	return state;
}
