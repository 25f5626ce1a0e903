/* SPDX-License-Identifier: MIT */
/* See backends.h. Decides which addresses are in a rule's pool, never who gets a flow. */
#include "control/backends.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/resolve.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/health.h"
#include "loop/loop.h"

struct lb_backends {
	struct lb_backends_opts opts;
	struct lb_loop *loop;
	struct lb_health_service *health;
	uint32_t checked;
	pthread_t thread;
	bool runs;
};

/* --- pools ------------------------------------------------------------------------------------ */

/* The backend of <config>, held, in no set. 0 or -errno; *bad: the name that has no address. */
static int build_one(struct lb_backends *b, const struct lb_rule *rule,
		     const struct lb_backend_config *config, struct lb_backend **ret,
		     const char **bad)
{
	const struct lb_graft_config *graft = b->opts.graft;
	struct lb_pool_entry *entry;
	struct lb_addr addr;
	int err = lb_resolve(config->host, config->port, &addr);

	if (err) {
		*bad = config->addr;
		return err;
	}
	err = lb_pool_add_entry(rule->pool, config, &entry);
	if (!err)
		err = lb_pool_new_backend(entry, rule->config, &addr, false, ret);
	if (err)
		return err;
	return lb_ports_open(b->opts.ports, &addr, graft->port_min, graft->port_max,
			     &(*ret)->ports);
}

static int fill_pool(struct lb_backends *b, struct lb_rule *rule, const char **bad)
{
	const struct lb_rule_config *config = rule->config;
	uint32_t count = (uint32_t)config->backends_count;
	struct lb_backend **set = calloc(count + 1, sizeof(struct lb_backend *));
	int err = set ? 0 : -ENOMEM;

	for (uint32_t i = 0; i < count && !err; i++)
		err = build_one(b, rule, &config->backends[i], &set[i], bad);
	if (!err)
		err = lb_select_new(&rule->select, rule->pool, config->balance);
	if (!err)
		err = lb_select_change(rule->select, set, count);
	if (!err && config->health_check.enabled)
		b->checked += count;
	lb_pool_snapshot_free(&set, count);
	return err;
}

int lb_backends_build(struct lb_backends *b, struct lb_rule *rule)
{
	const char *bad = NULL;
	int err = lb_pool_new(&rule->pool);

	if (!err)
		err = fill_pool(b, rule, &bad);
	if (err)
		lb_err("rule %s: %s%s%s", rule->config->name, bad ? "backend " : "", bad ? bad : "",
		       bad ? ": no address for this name" : strerror(-err));
	else if (rule->config->passive_health.enabled)
		rule->failed = lb_health_failed;
	return err;
}

uint32_t lb_backends_checked(const struct lb_backends *b)
{
	return b->checked;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void *run(void *arg)
{
	struct lb_backends *b = arg;
	int err;

	pthread_setname_np(pthread_self(), "backends");
	err = lb_loop_run(b->loop);
	if (err)
		lb_err("backends: the event loop failed: %s", strerror(-err));
	return NULL;
}

static int watch_all(struct lb_backends *b, const struct lb_rule *rule)
{
	struct lb_backend **all = NULL;
	uint32_t count = 0;
	int err = lb_pool_snapshot(rule->pool, &all, &count);

	for (uint32_t i = 0; i < count && !err; i++)
		err = lb_health_watch(b->health, rule, all[i]);
	lb_pool_snapshot_free(&all, count);
	return err;
}

int lb_backends_start(struct lb_backends *b, struct lb_worker *const *workers,
		      uint32_t workers_count)
{
	const struct lb_health_opts opts = {
		.loop = b->loop, .workers = workers, .workers_count = workers_count};
	int err = lb_health_new(&b->health, &opts);

	for (size_t i = 0; i < b->opts.rules_count && !err; i++)
		err = watch_all(b, &b->opts.rules[i]);
	if (!err)
		err = -pthread_create(&b->thread, NULL, run, b);
	b->runs = !err;
	if (err)
		lb_err("backends: cannot watch over them: %s", strerror(-err));
	return err;
}

void lb_backends_stop(struct lb_backends *b)
{
	if (!b || !b->runs)
		return;
	lb_loop_stop(b->loop);
	pthread_join(b->thread, NULL);
	b->runs = false;
}

/* --- birth and death -------------------------------------------------------------------------- */

int lb_backends_new(struct lb_backends **ret, const struct lb_backends_opts *opts)
{
	LB_AUTO(lb_backends_free) struct lb_backends *b = calloc(1, sizeof(*b));
	int err;

	if (!b)
		return -ENOMEM;
	b->opts = *opts;
	err = lb_loop_new(&b->loop);
	if (!err)
		*ret = LB_TAKE_PTR(b);
	return err;
}

void lb_backends_free(struct lb_backends **pb)
{
	struct lb_backends *b = *pb;

	if (!b)
		return;
	*pb = NULL;
	lb_health_free(&b->health);
	lb_loop_free(b->loop);
	for (size_t i = 0; i < b->opts.rules_count; i++) {
		lb_select_free(&b->opts.rules[i].select);
		lb_pool_free(&b->opts.rules[i].pool);
	}
	free(b);
}
