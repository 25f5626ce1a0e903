/* SPDX-License-Identifier: MIT */
/* See health.h. Must never block the checks: one backend's end is not another one's silence. */
#include "control/health.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/health_check.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "loop/loop.h"

struct lb_health_service {
	struct lb_health_opts opts;
	struct lb_loop *loop;
	struct lb_health_checks *checks;
	pthread_t thread;
	bool runs;
};

static uint32_t count_eligible(const struct lb_pool *pool)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < pool->count; i++)
		n += __atomic_load_n(&pool->backends[i].eligible, __ATOMIC_RELAXED);
	return n;
}

static void tell(const struct lb_rule *rule, const struct lb_health_change *c)
{
	const char *name = rule->config->name, *backend = c->backend->config->addr;
	uint32_t left = count_eligible(rule->pool);

	if (!c->up)
		lb_warn("rule %s: backend %s is down: %s (%u in a row); %u of %u take flows", name,
			backend, c->cause, c->answers, left, rule->pool->count);
	else if (c->was_ms)
		lb_info("rule %s: backend %s is up again after %.1f s; %u of %u take flows", name,
			backend, (double)c->was_ms / 1000, left, rule->pool->count);
	else
		lb_info("rule %s: backend %s is up; %u of %u take flows", name, backend, left,
			rule->pool->count);
}

static void on_change(void *arg, const struct lb_health_change *c)
{
	struct lb_health_service *h = arg;
	const struct lb_rule *rule = &h->opts.rules[c->rule];
	const struct lb_flows its = {rule->index, c->backend->index};
	int err = lb_select_note(rule->select, c->backend, c->up && !c->backend->draining);

	if (err)
		lb_warn("rule %s: shares are uneven: %s", rule->config->name, strerror(-err));
	tell(rule, c);
	if (c->up || rule->config->on_down != LB_ON_DOWN_RESET)
		return;
	err = lb_workers_cut(h->opts.workers, h->opts.workers_count, its, LB_REASON_BACKEND_DOWN);
	if (err)
		lb_warn("rule %s: not all flows of %s are reset: %s", rule->config->name,
			c->backend->config->addr, strerror(-err));
}

static void *run(void *arg)
{
	struct lb_health_service *h = arg;
	int err;

	pthread_setname_np(pthread_self(), "health");
	lb_health_checks_start(h->checks);
	err = lb_loop_run(h->loop);
	if (err)
		lb_err("health checks: the event loop failed: %s", strerror(-err));
	return NULL;
}

static int build(struct lb_health_service *h)
{
	struct lb_health_checks_opts opts = {.changed = on_change, .arg = h};
	int err = lb_loop_new(&h->loop);

	if (err)
		return err;
	opts.loop = h->loop;
	err = lb_health_checks_new(&h->checks, &opts);
	for (size_t i = 0; i < h->opts.rules_count && !err; i++)
		err = lb_health_checks_add(h->checks, (uint32_t)i, h->opts.rules[i].config,
					   h->opts.rules[i].pool);
	return err;
}

int lb_health_start(struct lb_health_service **ret, const struct lb_health_opts *opts)
{
	LB_AUTO(lb_health_stop) struct lb_health_service *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return -ENOMEM;
	h->opts = *opts;
	err = build(h);
	if (err)
		return err;
	if (!lb_health_checks_count(h->checks))
		return 0;
	err = -pthread_create(&h->thread, NULL, run, h);
	if (err)
		return err;
	h->runs = true;
	*ret = LB_TAKE_PTR(h);
	return 0;
}

void lb_health_stop(struct lb_health_service **h)
{
	struct lb_health_service *health = *h;

	if (!health)
		return;
	*h = NULL;
	if (health->runs) {
		lb_loop_stop(health->loop);
		pthread_join(health->thread, NULL);
	}
	lb_health_checks_free(&health->checks);
	lb_loop_free(health->loop);
	free(health);
}
