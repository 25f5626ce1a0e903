/* SPDX-License-Identifier: MIT */
/*
 * Rules that a reload has removed: decides when their flows are cut, and when they are gone for
 * good. Must never free what a flow of theirs may still look at. See service.h.
 */
#include "base/clock.h"
#include "base/log.h"
#include "control/backends.h"
#include "control/service_parts.h"
#include "worker.h"

/* Flows of <rule>, which accepts none any more, seen from here: never fewer than there are. */
static uint64_t count_flows(const struct lb_service *s, const struct lb_rule *rule)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < s->workers_count; i++)
		n += lb_worker_active(s->workers[i], rule->index);
	return n;
}

static bool has_routes(const struct lb_service *s, const struct lb_rule *rule)
{
	for (size_t i = 0; i < s->rules_count; i++)
		if (s->rules[i].of == rule)
			return true;
	return false;
}

/*
 * Nobody can get there any more. A client of a rule that is gone may still be on its way to one of
 * its routes: they stay as long as it has flows, and it stays until they are gone.
 */
static bool is_deserted(const struct lb_service *s, const struct lb_rule *rule)
{
	if (count_flows(s, rule))
		return false;
	if (rule->of)
		return !s->states[rule->of->index].gone_ms || !count_flows(s, rule->of);
	return !has_routes(s, rule);
}

static void forget(struct lb_worker *w, uint32_t index, void *arg)
{
	lb_worker_forget_rule(w, ((const struct lb_rule *)arg)->index);
}

/* Its flows are. False: somebody still holds a backend of it. */
static bool bury(struct lb_service *s, struct lb_rule *rule)
{
	const char *name = rule->config->name;

	/* Also: each worker has ended the turn in which it saw the last one end. */
	lb_workers_do(s->workers, s->workers_count, forget, rule);
	lb_service_hold(s);
	if (lb_backends_demolish(s->backends, rule)) {
		lb_info("rule %s is gone", name);
		lb_service_free_rule(s, rule);
	}
	lb_service_let_go(s);
	return !rule->config;
}

bool lb_service_tick(struct lb_service *s)
{
	bool more = false;

	for (size_t i = 0; i < s->rules_count; i++) {
		struct lb_rule_state *state = &s->states[i];
		struct lb_rule *rule = &s->rules[i];

		if (!rule->config || !state->gone_ms)
			continue;
		if (is_deserted(s, rule) && bury(s, rule))
			continue;
		more = true;
		if (!state->cut &&
		    lb_clock_ms() - state->gone_ms >= rule->config->timeouts.drain_ms)
			state->cut = !lb_workers_cut(s->workers, s->workers_count,
						     LB_FLOWS_OF_RULE(rule->id), LB_REASON_DRAINED);
	}
	return more;
}
