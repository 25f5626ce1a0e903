/* SPDX-License-Identifier: MIT */
/*
 * Decides whose flows may be bypassed. The kernel knows endpoints, not rules: a rule without the
 * key that shares an address with one that has it (a backend of both, or one that is the other's
 * backend) is bypassed just so. It must never miss one: such a flow must not leave relay.
 */
#include "control/same_host.h"

#include <string.h>

#include "base/log.h"

#define SOCKETS_MAX 262144u

/* Of the rules that ask for it: their listeners and their backends. */
static uint32_t count_endpoints(const struct lb_rule *rules, size_t count)
{
	uint32_t n = 0;

	for (size_t i = 0; i < count; i++) {
		uint32_t all, eligible;

		if (!rules[i].config->same_host_bypass)
			continue;
		lb_pool_count(rules[i].pool, &all, &eligible);
		n += !rules[i].of + all;
	}
	return n;
}

static int add_rule(struct lb_same_host *h, const struct lb_rule *rule)
{
	struct lb_backend **all = NULL;
	uint32_t backends = 0;
	/* A route listens nowhere. */
	int err = rule->of ? 0 : lb_same_host_add(h, &rule->config->listen);

	if (!err)
		err = lb_pool_snapshot(rule->pool, &all, &backends);
	for (uint32_t i = 0; i < backends && !err; i++)
		err = lb_same_host_add(h, &all[i]->addr);
	lb_pool_snapshot_free(&all, backends);
	return err;
}

static int add_rules(struct lb_same_host *h, const struct lb_rule *rules, size_t count)
{
	int err = 0;

	for (size_t i = 0; i < count && !err; i++)
		if (rules[i].config->same_host_bypass)
			err = add_rule(h, &rules[i]);
	return err;
}

/* True when <h> knows one of its addresses. 0 or -ENOMEM. */
static int is_covered(const struct lb_same_host *h, const struct lb_rule *rule, bool *ret)
{
	struct lb_backend **all = NULL;
	uint32_t backends = 0;
	int err = lb_pool_snapshot(rule->pool, &all, &backends);

	*ret = lb_same_host_covers(h, &rule->config->listen);
	for (uint32_t i = 0; i < backends; i++)
		*ret = *ret || lb_same_host_covers(h, &all[i]->addr);
	lb_pool_snapshot_free(&all, backends);
	return err;
}

static int mark_rules(const struct lb_same_host *h, struct lb_rule *rules, size_t count)
{
	int err = 0;

	for (size_t i = 0; i < count && !err; i++) {
		err = is_covered(h, &rules[i], &rules[i].same_host);
		if (rules[i].same_host && !rules[i].config->same_host_bypass)
			lb_info("rule %s shares an address with same_host_bypass of another rule",
				rules[i].config->name);
	}
	return err;
}

struct lb_same_host *lb_same_host_apply(struct lb_rule *rules, size_t count,
					const struct lb_flow_limits *limits, const char *instance)
{
	/* Both ends of both legs. */
	const uint64_t sockets = limits->sessions_max * 4;
	const struct lb_same_host_opts opts = {
		.instance = instance,
		.sockets = sockets < SOCKETS_MAX ? (uint32_t)sockets : SOCKETS_MAX,
		.endpoints = count_endpoints(rules, count),
	};
	struct lb_same_host_report report = {};
	struct lb_same_host *h = NULL;
	int err;

	if (!opts.endpoints)
		return NULL;
	err = lb_same_host_open(&h, &opts, &report);
	if (!err) {
		err = add_rules(h, rules, count);
		if (!err)
			err = mark_rules(h, rules, count);
		if (err)
			snprintf(report.detail, sizeof(report.detail), "%s", strerror(-err));
	}
	if (err) {
		lb_same_host_close(h);
		lb_warn("same_host_bypass is not in service: %s; local hops go through TCP",
			report.detail);
		return NULL;
	}
	lb_info("same_host_bypass is in service: %u endpoints, control group %s%s%s",
		opts.endpoints, report.cgroup, *report.pin_note ? ", no pins: " : "",
		report.pin_note);
	return h;
}
