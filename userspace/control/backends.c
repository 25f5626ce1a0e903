/* SPDX-License-Identifier: MIT */
/* See backends.h. Decides in which order backends come up, never who gets a flow. */
#include "control/backends.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "backend/health_check.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/drain.h"
#include "control/health.h"
#include "control/roster.h"
#include "loop/loop.h"

/* While names are waited for: how often it is looked whether somebody wants us to end. */
#define LOOK_MS 100u

struct lb_backends {
	struct lb_backends_opts opts;
	struct lb_roster_env env;
	struct lb_roster **rosters; /* by rule */
	struct lb_timer look;       /* at signals, before the thread runs */
	bool interrupted;
	pthread_t thread;
	bool runs;
};

/* --- pools ------------------------------------------------------------------------------------ */

int lb_backends_build(struct lb_backends *b, struct lb_rule *rule)
{
	int err = lb_pool_new(&rule->pool);

	if (!err)
		err = lb_select_new(&rule->select, rule->pool, rule->config->balance);
	if (!err)
		err = lb_roster_new(&b->rosters[rule->index], &b->env, rule);
	if (err)
		lb_err("rule %s: %s", rule->config->name, strerror(-err));
	else if (rule->config->passive_health.enabled)
		rule->failed = lb_health_failed;
	return err;
}

static void on_look(struct lb_timer *t)
{
	struct lb_backends *b = lb_container_of(t, struct lb_backends, look);
	sigset_t set;

	if (!sigpending(&set) && (sigismember(&set, SIGTERM) || sigismember(&set, SIGINT))) {
		b->interrupted = true;
		lb_loop_stop(b->env.loop);
	}
	lb_timer_start(b->env.loop, t, LOOK_MS);
}

/* Until each name has been answered, or not in time. 0 or -errno after a message. */
static int wait_for_names(struct lb_backends *b)
{
	int err;

	if (!b->env.pending)
		return 0;
	lb_timer_start(b->env.loop, &b->look, LOOK_MS);
	err = lb_loop_run(b->env.loop);
	lb_timer_stop(b->env.loop, &b->look);
	if (!err && b->interrupted)
		err = -EINTR;
	if (err)
		lb_err("names of backends cannot be looked up: %s", strerror(-err));
	return err;
}

static int apply_first(const struct lb_rule *rule, struct lb_roster *roster)
{
	const char *cause = NULL;
	const char *missing = lb_roster_missing(roster, &cause);
	int err;

	if (missing) {
		lb_err("rule %s: backend %s: no address for this name: %s", rule->config->name,
		       missing, cause);
		return -EADDRNOTAVAIL;
	}
	err = lb_roster_apply(roster);
	if (err)
		lb_err("rule %s: %s", rule->config->name, strerror(-err));
	return err;
}

int lb_backends_resolve(struct lb_backends *b)
{
	int err = wait_for_names(b);

	for (size_t i = 0; i < b->opts.rules_count && !err; i++)
		err = apply_first(&b->opts.rules[i], b->rosters[i]);
	return err;
}

uint64_t lb_backends_descriptors(const struct lb_backends *b)
{
	uint64_t checks = 0, names = 0;

	for (size_t i = 0; i < b->opts.rules_count; i++) {
		const struct lb_rule_config *config = b->opts.rules[i].config;
		uint32_t own = lb_roster_names_count(b->rosters[i]);
		bool many = own && config->resolve.addresses == LB_RESOLVE_ADDRESSES_ALL;

		names += own;
		if (config->health_check.enabled)
			checks += many ? LB_PROBES_MAX : config->backends_count;
	}
	if (names > LB_NAME_LOOKUPS_MAX)
		names = LB_NAME_LOOKUPS_MAX;
	/* A look-up may be asking two servers. */
	return (checks < LB_PROBES_MAX ? checks : LB_PROBES_MAX) + 2 * names;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void *run(void *arg)
{
	struct lb_backends *b = arg;
	int err;

	pthread_setname_np(pthread_self(), "backends");
	err = lb_loop_run(b->env.loop);
	if (err)
		lb_err("backends: the event loop failed: %s", strerror(-err));
	return NULL;
}

int lb_backends_start(struct lb_backends *b, const struct lb_same_host *same_host,
		      struct lb_worker *const *workers, uint32_t workers_count)
{
	const struct lb_health_opts opts = {
		.loop = b->env.loop, .workers = workers, .workers_count = workers_count};
	const struct lb_drains_opts drains = {
		.loop = b->env.loop, .workers = workers, .workers_count = workers_count};
	int err = lb_health_new(&b->env.health, &opts);

	if (!err)
		err = lb_drains_new(&b->env.drains, &drains);
	b->env.same_host = same_host;
	b->env.runs = true;
	/* Once more: now they are watched. */
	for (size_t i = 0; i < b->opts.rules_count && !err; i++)
		err = lb_roster_apply(b->rosters[i]);
	if (!err)
		err = -pthread_create(&b->thread, NULL, run, b);
	b->runs = !err;
	if (err)
		lb_err("backends: cannot watch over them: %s", strerror(-err));
	return err;
}

void lb_backends_stop(struct lb_backends *b)
{
	if (!b)
		return;
	if (b->runs) {
		lb_loop_stop(b->env.loop);
		pthread_join(b->thread, NULL);
		b->runs = false;
	}
	lb_drains_stop(b->env.drains);
}

size_t lb_backends_rules(const struct lb_backends *b, struct lb_rule **rules)
{
	*rules = b->opts.rules;
	return b->opts.rules_count;
}

struct lb_drains *lb_backends_drains(const struct lb_backends *b)
{
	return b->env.drains;
}

int lb_backends_post(struct lb_backends *b, void (*fn)(void *arg), void *arg)
{
	return lb_loop_post(b->env.loop, fn, arg);
}

/* --- birth and death -------------------------------------------------------------------------- */

int lb_backends_new(struct lb_backends **ret, const struct lb_backends_opts *opts)
{
	LB_AUTO(lb_backends_free) struct lb_backends *b = calloc(1, sizeof(*b));
	struct lb_names_opts names = lb_roster_names;
	int err;

	if (!b)
		return -ENOMEM;
	b->opts = *opts;
	b->env.graft = opts->graft;
	b->env.ports = opts->ports;
	lb_timer_init(&b->look, on_look);
	b->rosters = calloc(opts->rules_count + 1, sizeof(struct lb_roster *));
	if (!b->rosters)
		return -ENOMEM;
	err = lb_loop_new(&b->env.loop);
	names.loop = b->env.loop;
	if (!err)
		err = lb_names_new(&b->env.names, &names);
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
	for (size_t i = 0; b->rosters && i < b->opts.rules_count; i++)
		lb_roster_free(&b->rosters[i]);
	free(b->rosters);
	lb_names_free(&b->env.names);
	lb_drains_free(&b->env.drains);
	lb_health_free(&b->env.health);
	lb_loop_free(b->env.loop);
	for (size_t i = 0; i < b->opts.rules_count; i++) {
		lb_select_free(&b->opts.rules[i].select);
		lb_pool_free(&b->opts.rules[i].pool);
	}
	free(b);
}
