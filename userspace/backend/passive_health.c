/* SPDX-License-Identifier: MIT */
/* See passive_health.h. */
#include "backend/passive_health.h"

#include <errno.h>
#include <stdlib.h>

#define DOUBLED_MAX 6u
/* No failure was then. */
#define NEVER UINT64_MAX

static void forget(struct lb_passive *p, const struct lb_passive_health_config *config)
{
	for (uint32_t i = 0; i < config->failures; i++)
		p->at_ms[i] = NEVER;
}

int lb_passive_init(struct lb_passive *p, const struct lb_passive_health_config *config)
{
	*p = (struct lb_passive){.at_ms = calloc(config->failures, sizeof(*p->at_ms))};
	if (!p->at_ms)
		return -ENOMEM;
	forget(p, config);
	return 0;
}

void lb_passive_fini(struct lb_passive *p)
{
	free(p->at_ms);
	p->at_ms = NULL;
}

bool lb_passive_note(struct lb_passive *p, const struct lb_passive_health_config *config,
		     uint32_t n, uint64_t now_ms)
{
	uint64_t oldest;

	if (p->out)
		return false;
	for (uint32_t i = 0; i < n && i < config->failures; i++) {
		p->at_ms[p->next] = now_ms;
		p->next = (p->next + 1) % config->failures;
	}
	oldest = p->at_ms[p->next];
	return oldest != NEVER && now_ms - oldest <= config->window_ms;
}

static uint64_t time_out(const struct lb_passive *p, const struct lb_passive_health_config *config)
{
	uint32_t doubled = p->times - 1 < DOUBLED_MAX ? p->times - 1 : DOUBLED_MAX;

	return config->eject_ms << doubled;
}

uint64_t lb_passive_eject(struct lb_passive *p, const struct lb_passive_health_config *config,
			  uint64_t now_ms)
{
	if (now_ms >= p->until_ms)
		p->times = 0;
	p->times++;
	p->out = true;
	p->until_ms = now_ms + time_out(p, config);
	return time_out(p, config);
}

void lb_passive_restore(struct lb_passive *p, uint32_t times, uint64_t until_ms)
{
	p->out = true;
	p->times = times ? times : 1;
	p->until_ms = until_ms;
}

void lb_passive_return(struct lb_passive *p, const struct lb_passive_health_config *config,
		       uint64_t now_ms)
{
	p->out = false;
	p->until_ms = now_ms + time_out(p, config);
	forget(p, config);
}

uint32_t lb_passive_most(const struct lb_passive_health_config *config, uint32_t total)
{
	uint64_t most = (uint64_t)total * config->max_ejected_percent / 100;

	/* A share that is less than one is one: or a rule of two could lose none of them. */
	if (!most && config->max_ejected_percent)
		most = 1;
	return most >= total ? total - !!total : (uint32_t)most;
}
