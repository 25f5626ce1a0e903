/* SPDX-License-Identifier: MIT */
/* See backends.h. Decides in which order backends come up, never who gets a flow. */
#include "control/backends.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/health_check.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "control/drain.h"
#include "control/health.h"
#include "control/roster.h"
#include "loop/loop.h"

/* While names are waited for: how often it is looked whether somebody wants us to end. */
#define LOOK_MS 100u

/* Work for the thread, for which the main thread waits. */
struct work {
	struct lb_backends *b;
	struct lb_backends_change *changes;
	size_t count;
	struct lb_rule *rule;
	int err;
	bool done; /* under <lock> */
};

struct lb_backends {
	struct lb_roster_env env;
	struct lb_rule *rules;
	uint32_t rules_max;
	pthread_mutex_t lock;
	pthread_cond_t done;
	struct work preparing;      /* here: the main thread may stop waiting for it */
	struct lb_roster **rosters; /* by rule */
	struct lb_timer look;       /* at signals, before the thread runs */
	bool interrupted;
	pthread_t thread;
	bool runs;
};

/* --- pools ------------------------------------------------------------------------------------ */

int lb_backends_build(struct lb_rule *rule, const struct lb_rule_config *config)
{
	int err = lb_pool_new(&rule->pool);

	if (!err)
		err = lb_select_new(&rule->select, rule->pool, config->balance);
	if (err)
		lb_err("rule %s: %s", config->name, strerror(-err));
	return err;
}

static void listen_to_flows(struct lb_rule *rule)
{
	const struct lb_health_check_config *check = &rule->config->health_check;

	__atomic_store_n(&rule->failed,
			 rule->config->passive_health.enabled || (check->enabled && check->share)
				 ? lb_health_failed
				 : NULL,
			 __ATOMIC_RELAXED);
}

static bool is_interrupted(void)
{
	sigset_t set;

	return !sigpending(&set) && (sigismember(&set, SIGTERM) || sigismember(&set, SIGINT));
}

static void on_look(struct lb_timer *t)
{
	struct lb_backends *b = lb_container_of(t, struct lb_backends, look);

	if (is_interrupted()) {
		b->interrupted = true;
		lb_loop_stop(b->env.loop);
	}
	lb_timer_start(b->env.loop, t, LOOK_MS);
}

static void stop_waiting(struct lb_roster_env *env)
{
	lb_loop_stop(env->loop);
}

/* Until each name has been answered, or not in time. 0 or -errno after a message. */
static int wait_for_names(struct lb_backends *b)
{
	int err;

	if (!b->env.pending)
		return 0;
	b->env.ready = stop_waiting;
	lb_timer_start(b->env.loop, &b->look, LOOK_MS);
	err = lb_loop_run(b->env.loop);
	lb_timer_stop(b->env.loop, &b->look);
	b->env.ready = NULL;
	if (!err && b->interrupted)
		err = -EINTR;
	if (err)
		lb_err("names of backends cannot be looked up: %s", strerror(-err));
	return err;
}

/* Every name has an address that must have one. 0, or -EADDRNOTAVAIL after a message. */
static int check_names(const struct lb_rule_config *config, const struct lb_roster *roster)
{
	const char *cause = NULL;
	const char *missing = lb_roster_missing(roster, &cause);

	if (!missing)
		return 0;
	lb_err("rule %s: backend %s: no address for this name: %s", config->name, missing, cause);
	return -EADDRNOTAVAIL;
}

static int commit_first(struct lb_rule *rule, struct lb_roster *roster)
{
	struct lb_roster *none = NULL;
	int err = check_names(rule->config, roster);

	if (err)
		return err;
	listen_to_flows(rule);
	err = lb_roster_commit(roster, &none, false);
	if (err)
		lb_err("rule %s: %s", rule->config->name, strerror(-err));
	return err;
}

int lb_backends_resolve(struct lb_backends *b, struct lb_rule *rules, size_t count)
{
	int err = 0;

	for (size_t i = 0; i < count && !err; i++) {
		err = lb_roster_new(&b->rosters[rules[i].index], &b->env, &rules[i],
				    rules[i].config, NULL);
		if (err)
			lb_err("rule %s: %s", rules[i].config->name, strerror(-err));
	}
	if (!err)
		err = wait_for_names(b);
	for (size_t i = 0; i < count && !err; i++)
		err = commit_first(&rules[i], b->rosters[rules[i].index]);
	return err;
}

uint64_t lb_backends_descriptors(const struct lb_backends *b, const struct lb_rule *rules,
				 size_t count)
{
	uint64_t checks = 0, names = 0;

	for (size_t i = 0; i < count; i++) {
		const struct lb_rule_config *config = rules[i].config;
		const struct lb_roster *roster = b->rosters[rules[i].index];
		uint32_t own = roster ? lb_roster_names_count(roster) : 0;
		bool many = own && config->resolve.addresses == LB_RESOLVE_ADDRESSES_ALL;

		names += own;
		if (roster && config->health_check.enabled)
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
		      struct lb_opinions *opinions, struct lb_worker *const *workers,
		      uint32_t workers_count)
{
	const struct lb_health_opts opts = {
		.loop = b->env.loop,
		.workers = workers,
		.workers_count = workers_count,
		.opinions = opinions,
	};
	const struct lb_drains_opts drains = {
		.loop = b->env.loop, .workers = workers, .workers_count = workers_count};
	int err = lb_health_new(&b->env.health, &opts);

	if (!err)
		err = lb_drains_new(&b->env.drains, &drains);
	b->env.same_host = same_host;
	b->env.runs = true;
	/* Once more: now they are watched. */
	for (uint32_t i = 0; i < b->rules_max && !err; i++)
		if (b->rosters[i])
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
	*rules = b->rules;
	return b->rules_max;
}

bool lb_backends_is_served(const struct lb_backends *b, size_t index)
{
	return b->rosters[index];
}

struct lb_drains *lb_backends_drains(const struct lb_backends *b)
{
	return b->env.drains;
}

int lb_backends_post(struct lb_backends *b, void (*fn)(void *arg), void *arg)
{
	return lb_loop_post(b->env.loop, fn, arg);
}

/* --- a change --------------------------------------------------------------------------------- */

static void work_done(struct work *w)
{
	pthread_mutex_lock(&w->b->lock);
	w->done = true;
	pthread_cond_signal(&w->b->done);
	pthread_mutex_unlock(&w->b->lock);
}

/* False: a signal has come first. */
static bool work_wait(struct work *w, bool interruptible)
{
	bool done;

	pthread_mutex_lock(&w->b->lock);
	while (!w->done && !(interruptible && is_interrupted())) {
		struct timespec until;

		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += LOOK_MS * 1000000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		(void)pthread_cond_timedwait(&w->b->done, &w->b->lock, &until);
	}
	done = w->done;
	pthread_mutex_unlock(&w->b->lock);
	return done;
}

/* What must not fail is asked for until there is memory for it. */
static void do_surely(struct work *w, void (*fn)(void *arg))
{
	while (lb_loop_post(w->b->env.loop, fn, w))
		sched_yield();
	(void)work_wait(w, false);
}

static void on_ready(struct lb_roster_env *env)
{
	env->ready = NULL;
	work_done(&lb_container_of(env, struct lb_backends, env)->preparing);
}

static void do_prepare(void *arg)
{
	struct work *w = arg;
	struct lb_roster_env *env = &w->b->env;

	for (size_t i = 0; i < w->count && !w->err; i++) {
		struct lb_backends_change *c = &w->changes[i];

		w->err = lb_roster_new(&c->roster, env, c->rule, c->config,
				       w->b->rosters[c->rule->index]);
	}
	if (w->err || !env->pending)
		work_done(w);
	else
		env->ready = on_ready;
}

int lb_backends_prepare(struct lb_backends *b, struct lb_backends_change *changes, size_t count)
{
	struct work *w = &b->preparing;
	int err;

	*w = (struct work){.b = b, .changes = changes, .count = count};
	err = lb_loop_post(b->env.loop, do_prepare, w);
	if (!err)
		err = work_wait(w, true) ? w->err : -EINTR;
	if (err)
		lb_err("names of backends cannot be looked up: %s", strerror(-err));
	for (size_t i = 0; i < count && !err; i++)
		err = check_names(changes[i].config, changes[i].roster);
	return err;
}

static void do_commit(void *arg)
{
	struct work *w = arg;

	for (size_t i = 0; i < w->count; i++) {
		struct lb_backends_change *c = &w->changes[i];
		struct lb_roster **place = &w->b->rosters[c->rule->index];
		struct lb_roster *old = *place;

		__atomic_store_n(&c->rule->config, c->config, __ATOMIC_RELEASE);
		listen_to_flows(c->rule);
		*place = LB_TAKE_PTR(c->roster);
		if (lb_roster_commit(*place, &old, c->checks_changed))
			lb_warn("rule %s: short of memory: it is not yet as it should be",
				c->config->name);
	}
	work_done(w);
}

void lb_backends_commit(struct lb_backends *b, struct lb_backends_change *changes, size_t count)
{
	do_surely(&(struct work){.b = b, .changes = changes, .count = count}, do_commit);
}

static void do_abort(void *arg)
{
	struct work *w = arg;

	w->b->env.ready = NULL;
	for (size_t i = 0; i < w->count; i++)
		lb_roster_free(&w->changes[i].roster);
	work_done(w);
}

void lb_backends_abort(struct lb_backends *b, struct lb_backends_change *changes, size_t count)
{
	do_surely(&(struct work){.b = b, .changes = changes, .count = count}, do_abort);
}

static void do_retire(void *arg)
{
	struct work *w = arg;
	struct lb_rule *rule = w->rule;

	__atomic_store_n(&rule->failed, NULL, __ATOMIC_RELAXED);
	lb_roster_retire(w->b->rosters[rule->index]);
	lb_roster_free(&w->b->rosters[rule->index]);
	work_done(w);
}

void lb_backends_retire(struct lb_backends *b, struct lb_rule *rule)
{
	do_surely(&(struct work){.b = b, .rule = rule}, do_retire);
}

void lb_backends_discard(struct lb_rule *rule)
{
	lb_select_free(&rule->select);
	lb_pool_free(&rule->pool);
}

/* Everything that its flows have told this thread has been heard: that came before. */
static void do_demolish(void *arg)
{
	struct work *w = arg;
	struct lb_rule *rule = w->rule;

	lb_roster_empty(&w->b->env, rule);
	w->err = lb_pool_is_deserted(rule->pool) ? 0 : -EBUSY;
	if (!w->err) {
		/* Who looks at rules in this thread does not see it any more. */
		__atomic_store_n(&rule->config, NULL, __ATOMIC_RELEASE);
		lb_backends_discard(rule);
	}
	work_done(w);
}

bool lb_backends_demolish(struct lb_backends *b, struct lb_rule *rule)
{
	struct work w = {.b = b, .rule = rule};

	do_surely(&w, do_demolish);
	return !w.err;
}

/* --- birth and death -------------------------------------------------------------------------- */

static void lock_init(struct lb_backends *b)
{
	pthread_condattr_t attr;

	pthread_mutex_init(&b->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b->done, &attr);
	pthread_condattr_destroy(&attr);
}

int lb_backends_new(struct lb_backends **ret, const struct lb_backends_opts *opts)
{
	LB_AUTO(lb_backends_free) struct lb_backends *b = calloc(1, sizeof(*b));
	struct lb_names_opts names = lb_roster_names;
	int err;

	if (!b)
		return -ENOMEM;
	lock_init(b);
	b->rules = opts->rules;
	b->rules_max = opts->rules_max;
	b->env.graft = opts->graft;
	b->env.ports = opts->ports;
	lb_timer_init(&b->look, on_look);
	b->rosters = calloc(opts->rules_max + 1, sizeof(struct lb_roster *));
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
	for (uint32_t i = 0; b->rosters && i < b->rules_max; i++)
		lb_roster_free(&b->rosters[i]);
	free(b->rosters);
	lb_names_free(&b->env.names);
	lb_drains_free(&b->env.drains);
	lb_health_free(&b->env.health);
	lb_loop_free(b->env.loop);
	pthread_cond_destroy(&b->done);
	pthread_mutex_destroy(&b->lock);
	free(b);
}
