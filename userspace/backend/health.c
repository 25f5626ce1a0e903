/* SPDX-License-Identifier: MIT */
/* See health.h. */
#include "backend/health.h"

#define NEXT_MIN_MS 10u

void lb_health_init(struct lb_health *h, const struct lb_health_check_config *config)
{
	*h = (struct lb_health){.up = !config->enabled ||
				      config->initial == LB_HEALTH_CHECK_INITIAL_UP};
}

/* Answers in a row that it takes to leave the state. */
static uint32_t needed(const struct lb_health *h, const struct lb_health_check_config *config)
{
	return h->up ? config->fall : config->rise;
}

bool lb_health_note(struct lb_health *h, const struct lb_health_check_config *config, bool good)
{
	bool first = !h->asked;

	h->asked = true;
	if (good == h->up) {
		h->streak = 0;
		return false;
	}
	if (++h->streak < needed(h, config) && !first)
		return false;
	h->up = good;
	h->streak = 0;
	return true;
}

uint64_t lb_health_next_ms(const struct lb_health *h, const struct lb_health_check_config *config)
{
	uint64_t ms = config->interval_ms;

	if (!h->up || h->streak)
		ms /= needed(h, config);
	return ms < NEXT_MIN_MS ? NEXT_MIN_MS : ms;
}
