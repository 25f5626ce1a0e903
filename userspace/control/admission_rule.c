/* SPDX-License-Identifier: MIT */
/*
 * What a rule needs to judge its clients: its access lists and its rates, made, changed, and with
 * its limits of connections shared with other nodes. See admission.h. Must never let a rule that is
 * to share its limit serve without.
 */
#include "control/admission.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/admission_parts.h"
#include "flow/acl.h"
#include "flow/client_connection_limit.h"
#include "flow/rate_limit.h"
#include "flow/select.h"

bool admission_has_lists(const struct lb_rule_config *c)
{
	return c->allow_list_count || c->deny_list_count || c->allow_file.count ||
	       c->deny_file.count;
}

/* Both parts of a list in one. 0 with *ret to be freed, or -ENOMEM. */
static int join(struct lb_prefixes *ret, const struct lb_prefix *list, size_t count,
		const struct lb_prefixes *file)
{
	ret->count = count + file->count;
	ret->all = calloc(ret->count + 1, sizeof(*ret->all));
	if (!ret->all)
		return -ENOMEM;
	if (count)
		memcpy(ret->all, list, count * sizeof(*list));
	if (file->count)
		memcpy(ret->all + count, file->all, file->count * sizeof(*list));
	return 0;
}

static int build_acl(struct lb_acl **ret, const struct lb_rule_config *c)
{
	LB_AUTO(lb_prefixes_free) struct lb_prefixes allow = {}, deny = {};
	int err = join(&allow, c->allow_list, c->allow_list_count, &c->allow_file);

	if (!err)
		err = join(&deny, c->deny_list, c->deny_list_count, &c->deny_file);
	if (!err)
		err = lb_acl_new(ret, allow.all, allow.count, deny.all, deny.count);
	return err;
}

int lb_admission_build(struct lb_rule *rule, const struct lb_rule_config *c)
{
	int err = 0;

	if (admission_has_lists(c))
		err = build_acl(&rule->acl, c);
	if (!err && c->rate_limit.enabled)
		err = lb_rate_limit_new(&rule->rate_limit, &c->rate_limit);
	return err;
}

static bool is_shared(const struct lb_rule_config *config)
{
	return config->rate_limit.enabled && config->rate_limit.cluster;
}

static int check_shared(const struct lb_rule_config *config, const struct lb_limits *limits)
{
	if (limits || (!is_shared(config) && !config->connection_limits.cluster))
		return 0;
	lb_err("rule %s: %s.cluster: this node has been in no cluster since its start",
	       config->name, is_shared(config) ? "rate_limit" : "connection_limits");
	return -EINVAL;
}

static void share(struct lb_rate_limit *l, const struct lb_rule_config *config,
		  struct lb_limits *limits)
{
	lb_rate_limit_share(l, is_shared(config) ? limits : NULL, config->name, lb_clock_ns());
}

void lb_admission_share_connections(struct lb_rule *rule, const struct lb_rule_config *config,
				    struct lb_limits *limits)
{
	struct lb_limits *l = limits && config->connection_limits.cluster ? limits : NULL;
	const char *name = l ? config->name : NULL;

	if (rule->client_connection_limit)
		lb_client_connection_limit_share(rule->client_connection_limit, l, name);
	if (rule->select)
		lb_select_share(rule->select, l, name);
}

int lb_admission_share(struct lb_rule *rule, const struct lb_rule_config *config,
		       struct lb_limits *limits)
{
	int err = check_shared(config, limits);

	if (!err && rule->rate_limit)
		share(rule->rate_limit, config, limits);
	if (!err)
		lb_admission_share_connections(rule, config, limits);
	return err;
}

void lb_admission_unbuild(struct lb_rule *rule)
{
	lb_acl_free(&rule->acl);
	lb_rate_limit_free(&rule->rate_limit);
}

/* --- changes ---------------------------------------------------------------------------------- */

int lb_admission_prepare(struct lb_admission_change *c, const struct lb_rule *rule,
			 const struct lb_rule_config *config)
{
	int err = check_shared(config, c->limits);

	if (!err && admission_has_lists(config))
		err = build_acl(&c->acl, config);
	if (!err && config->rate_limit.enabled && !rule->rate_limit)
		err = lb_rate_limit_new(&c->rate_limit, &config->rate_limit);
	if (!err && c->rate_limit)
		share(c->rate_limit, config, c->limits);
	return err;
}

void admission_commit_rate(struct lb_rule *rule, const struct lb_rule_config *config,
			   struct lb_admission_change *c)
{
	struct lb_rate_limit *old = rule->rate_limit;

	/* Who owes goes on owing. */
	if (config->rate_limit.enabled && old) {
		share(old, config, c->limits);
		lb_rate_limit_set(old, &config->rate_limit, lb_clock_ns());
		return;
	}
	__atomic_store_n(&rule->rate_limit, c->rate_limit, __ATOMIC_RELEASE);
	c->rate_limit = old;
}

void lb_admission_change_fini(struct lb_admission_change *c)
{
	lb_acl_free(&c->acl);
	lb_rate_limit_free(&c->rate_limit);
}
