/* SPDX-License-Identifier: MIT */
/*
 * Decides who the backends of a rule are and whether they may be picked (flow/select decides who
 * is). Must never connect to anything.
 */
#include "backend/pool.h"

#include <errno.h>
#include <stdlib.h>

#include "backend/resolve.h"
#include "base/cleanup.h"

/* The stricter one of the rule's and its own. */
static uint32_t limit_of(const struct lb_rule_config *rule, const struct lb_backend_config *b)
{
	uint32_t all = rule->backend_connection_limit, own = b->max_connections;

	if (!all || !own)
		return all ? all : own;
	return all < own ? all : own;
}

int lb_pool_new(struct lb_pool **ret, const struct lb_rule_config *rule, const char **bad)
{
	LB_AUTO(lb_pool_free) struct lb_pool *pool = calloc(1, sizeof(*pool));
	int err;

	if (!pool)
		return -ENOMEM;
	pool->backends = calloc(rule->backends_count + 1, sizeof(*pool->backends));
	if (!pool->backends)
		return -ENOMEM;
	pool->count = (uint32_t)rule->backends_count;
	for (uint32_t i = 0; i < pool->count; i++) {
		struct lb_backend *b = &pool->backends[i];

		b->config = &rule->backends[i];
		b->index = i;
		b->weight = b->config->weight * LB_WEIGHT_UNIT;
		b->limit = limit_of(rule, b->config);
		b->draining = b->config->drain;
		b->down = rule->health_check.enabled &&
			  rule->health_check.initial == LB_HEALTH_CHECK_INITIAL_UNKNOWN;
		b->eligible = !b->draining && !b->down;
		err = lb_resolve(b->config->host, b->config->port, &b->addr);
		if (err) {
			*bad = b->config->addr;
			return err;
		}
	}
	*ret = LB_TAKE_PTR(pool);
	return 0;
}

void lb_pool_free(struct lb_pool **pool)
{
	if (!*pool)
		return;
	free((*pool)->backends);
	free(*pool);
	*pool = NULL;
}
