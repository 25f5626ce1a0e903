/* SPDX-License-Identifier: MIT */
/* See worker.h. Must never decide anything about a flow: that is flow/'s. */
#include "worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <lb/limits.h>

#include "base/cleanup.h"
#include "base/landlock.h"
#include "base/log.h"
#include "flow/distress.h"
#include "flow/graft_keeper.h"
#include "flow/sockmap.h"

#define COLLECT_MS 1000

struct lb_worker {
	struct lb_worker_opts opts;
	struct lb_flow_env env;
	struct lb_list listeners;
	size_t rules_count; /* atomic: rules beyond are not in service */
	struct lb_watch ring;
	struct lb_timer distress;
	pthread_t thread;
	bool started;
	bool owes_turn; /* atomic: it was asked and has not answered */
};

static void log_line(struct lb_flow_env *env, const char *line, size_t len)
{
	struct lb_worker *w = lb_container_of(env, struct lb_worker, env);

	w->opts.log_line(w->opts.log_arg, w->opts.index, line, len);
}

static void on_ring(struct lb_watch *watch, uint32_t events)
{
	lb_sockmap_ring_event(&lb_container_of(watch, struct lb_worker, ring)->env.carrier);
}

/* Sets up the worker's part of the kernel's tables. */
static int open_kernel(struct lb_worker *w)
{
	struct lb_carrier_env *env = &w->env.carrier;
	int err;

	env->kernel_why = w->opts.kernel_why;
	if (!w->opts.kernel)
		return 0;
	env->slots = w->opts.slots;
	err = lb_watch_add(env->loop, &w->ring, lb_ring_fd(w->opts.kernel, w->opts.index), EPOLLIN,
			   on_ring);
	if (err)
		return err;
	env->kernel = w->opts.kernel;
	return 0;
}

/* Grafted flows belong to no worker; one of them keeps all. */
static int open_keeper(struct lb_worker *w)
{
	const struct lb_graft_keeper_opts opts = {
		.env = &w->env,
		.rules = w->opts.rules,
		.rules_count = w->opts.rules_max,
		.ports = w->opts.ports,
		.shared = w->opts.grafts_shared,
	};

	w->env.carrier.grafts = w->opts.grafts;
	w->env.carrier.graft_why = w->opts.graft_why;
	if (!w->opts.grafts || w->opts.index)
		return 0;
	return lb_graft_keeper_new(&w->env.keeper, &opts);
}

uint32_t lb_worker_adopted(const struct lb_worker *w)
{
	return w->env.keeper ? lb_graft_keeper_adopted(w->env.keeper) : 0;
}

void lb_worker_lend_grafts(struct lb_worker *w)
{
	if (w->env.keeper)
		lb_graft_keeper_lend(w->env.keeper);
}

void lb_worker_take_grafts(struct lb_worker *w)
{
	if (w->env.keeper)
		lb_graft_keeper_take(w->env.keeper);
}

void lb_worker_inherit_grafts(struct lb_worker *w)
{
	if (w->env.keeper)
		lb_graft_keeper_inherit(w->env.keeper);
}

struct lb_flow_env *lb_worker_env(struct lb_worker *w)
{
	return &w->env;
}

static void do_granted(void *arg)
{
	lb_session_granted(arg);
}

/* Any thread. Without memory those at the door are found when their time is up. */
static void wake_for_door(struct lb_door *door)
{
	struct lb_flow_env *env = lb_container_of(door, struct lb_flow_env, door);

	(void)lb_loop_post(env->carrier.loop, do_granted, env);
}

int lb_worker_new(struct lb_worker **ret, const struct lb_worker_opts *opts)
{
	LB_AUTO(lb_worker_free) struct lb_worker *w = calloc(1, sizeof(*w));
	struct lb_flow_env *env;
	int err;

	if (!w)
		return -ENOMEM;
	w->opts = *opts;
	w->ring.fd = -1;
	env = &w->env;
	w->rules_count = opts->rules_count;
	lb_list_init(&w->listeners);
	lb_list_init(&env->sessions);
	lb_list_init(&env->walks);
	lb_slab_init(&env->slab, sizeof(struct lb_session));
	lb_slab_init(&env->shares, sizeof(struct lb_bandwidth_share));
	lb_door_init(&env->door, wake_for_door);
	env->limits = opts->limits;
	env->log_format = opts->log_format;
	env->log_line = opts->log_line ? log_line : NULL;
	env->carrier.worker = opts->index;
	env->carrier.scratch = malloc(LB_SCRATCH_BYTES);
	/* Rules that are not there cost no memory. */
	env->counters = calloc(opts->rules_max, sizeof(*env->counters));
	if (!env->carrier.scratch || !env->counters)
		return -ENOMEM;
	err = lb_loop_new(&env->carrier.loop);
	if (err)
		return err;
	err = open_kernel(w);
	if (!err)
		err = open_keeper(w);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(w);
	return 0;
}

/* --- listeners -------------------------------------------------------------------------------- */

int lb_worker_listen(struct lb_worker *w, struct lb_listener **pl)
{
	return lb_listener_start(pl, &w->env, &w->listeners);
}

void lb_worker_hand_listeners(struct lb_worker *w,
			      const struct lb_rule *(*heir)(const struct lb_rule *rule, void *arg),
			      void *arg)
{
	lb_listeners_hand(&w->listeners, heir, arg);
}

void lb_worker_visit_listeners(struct lb_worker *w,
			       void (*fn)(void *arg, const struct lb_rule *rule, int fd), void *arg)
{
	lb_listeners_visit(&w->listeners, fn, arg);
}

void lb_worker_leave_listeners(struct lb_worker *w,
			       bool (*is_kept)(const struct lb_rule *rule, void *arg), void *arg)
{
	lb_listeners_leave(&w->listeners, is_kept, arg);
}

static size_t count_rules(const struct lb_worker *w)
{
	return __atomic_load_n(&w->rules_count, __ATOMIC_ACQUIRE);
}

static bool is_distress_wanted(const struct lb_worker *w)
{
	for (size_t i = 0; i < count_rules(w); i++)
		if (__atomic_load_n(&w->opts.rules[i].failed, __ATOMIC_RELAXED))
			return true;
	return false;
}

static void on_distress_look(struct lb_timer *t)
{
	struct lb_worker *w = lb_container_of(t, struct lb_worker, distress);

	if (is_distress_wanted(w))
		lb_distress_look(&w->env);
	lb_timer_start(w->env.carrier.loop, t, LB_DISTRESS_LOOK_MS);
}

/* The descriptors it needs are open, and those to come are sockets and pipes. */
static void leave_files(const struct lb_worker *w)
{
#ifndef __SANITIZE_ADDRESS__ /* its reports read the program's file */
	int err = lb_landlock_no_files();

	if (err && !w->opts.index)
		lb_info("workers could open files, keys too: Landlock: %s", strerror(-err));
#endif
}

static void *run(void *arg)
{
	struct lb_worker *w = arg;
	char name[16];
	int err;

	snprintf(name, sizeof(name), "worker-%u", w->opts.index);
	pthread_setname_np(pthread_self(), name);
	leave_files(w);
	lb_timer_init(&w->distress, on_distress_look);
	lb_walk_begin(&w->env, &w->env.distress);
	lb_timer_start(w->env.carrier.loop, &w->distress, LB_DISTRESS_LOOK_MS);
	err = lb_loop_run(w->env.carrier.loop);
	if (err)
		lb_err("worker %u: the event loop failed: %s", w->opts.index, strerror(-err));
	return NULL;
}

int lb_worker_start(struct lb_worker *w)
{
	int err = pthread_create(&w->thread, NULL, run, w);

	if (err)
		return -err;
	w->started = true;
	return 0;
}

/* --- messages --------------------------------------------------------------------------------- */

static void do_drain(void *arg)
{
	struct lb_worker *w = arg;

	lb_listeners_stop(&w->listeners, true);
}

void lb_worker_drain(struct lb_worker *w)
{
	(void)lb_loop_post(w->env.carrier.loop, do_drain, w);
}

/*
 * One for all workers. Those that are asked cut their sessions; the last one sees to it that the
 * keeper cuts its grafts: by then no session can become one any more.
 */
struct cut {
	struct lb_worker *keeper; /* the worker that has it */
	struct lb_flows which;
	enum lb_reason reason;
	uint32_t left; /* atomic */
};

static void do_cut_grafts(void *arg)
{
	LB_AUTO_FREE struct cut *cut = arg;

	if (cut->keeper->env.keeper)
		lb_graft_keeper_cut(cut->keeper->env.keeper, cut->which, cut->reason);
}

/* A worker, or its share of the work that it could not be given, is done. */
static void cut_put(struct cut *cut)
{
	if (__atomic_sub_fetch(&cut->left, 1, __ATOMIC_ACQ_REL))
		return;
	if (lb_loop_post(cut->keeper->env.carrier.loop, do_cut_grafts, cut))
		free(cut);
}

struct cut_share {
	struct lb_worker *worker;
	struct cut *cut;
};

static void do_cut(void *arg)
{
	LB_AUTO_FREE struct cut_share *share = arg;

	lb_session_close_all(&share->worker->env, share->cut->which, share->cut->reason);
	cut_put(share->cut);
}

static int cut_one(struct lb_worker *w, struct cut *cut)
{
	struct cut_share *share = malloc(sizeof(*share));
	int err = share ? 0 : -ENOMEM;

	if (share) {
		*share = (struct cut_share){.worker = w, .cut = cut};
		err = lb_loop_post(w->env.carrier.loop, do_cut, share);
	}
	if (err) {
		free(share);
		cut_put(cut);
	}
	return err;
}

int lb_workers_cut(struct lb_worker *const *workers, uint32_t count, struct lb_flows which,
		   enum lb_reason reason)
{
	struct cut *cut = malloc(sizeof(*cut));
	int err = 0;

	if (!cut)
		return -ENOMEM;
	*cut = (struct cut){.keeper = workers[0], .which = which, .reason = reason, .left = count};
	for (uint32_t i = 0; i < count; i++) {
		int one = cut_one(workers[i], cut);

		err = err ? err : one;
	}
	return err;
}

struct look {
	struct lb_worker *worker;
	const struct lb_rule *rule;
};

static void do_look_again(void *arg)
{
	LB_AUTO_FREE struct look *look = arg;

	lb_session_look_again(&look->worker->env, look->rule);
}

int lb_workers_look_again(struct lb_worker *const *workers, uint32_t count,
			  const struct lb_rule *rule)
{
	int err = 0;

	for (uint32_t i = 0; i < count; i++) {
		struct look *look = malloc(sizeof(*look));

		if (look)
			*look = (struct look){.worker = workers[i], .rule = rule};
		if (look && !lb_loop_post(workers[i]->env.carrier.loop, do_look_again, look))
			continue;
		free(look);
		err = -ENOMEM;
	}
	return err;
}

/* Shared by the asker, who may give up, and the worker, who may be late: the last one frees. */
struct collect {
	pthread_mutex_t lock;
	pthread_cond_t ready;
	struct lb_worker *worker;
	int holders;
	bool done;
	size_t count;
	struct lb_counters counters[];
};

static void collect_put(struct collect *c)
{
	int left;

	pthread_mutex_lock(&c->lock);
	left = --c->holders;
	pthread_mutex_unlock(&c->lock);
	if (left)
		return;
	pthread_cond_destroy(&c->ready);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static void do_collect(void *arg)
{
	struct collect *c = arg;
	struct lb_flow_env *env = &c->worker->env;

	lb_list_for_each (node, &env->sessions)
		lb_account_fold(lb_container_of(node, struct lb_session, node));
	if (env->keeper)
		lb_graft_keeper_fold(env->keeper);
	pthread_mutex_lock(&c->lock);
	memcpy(c->counters, env->counters, c->count * sizeof(c->counters[0]));
	c->done = true;
	pthread_cond_signal(&c->ready);
	pthread_mutex_unlock(&c->lock);
	collect_put(c);
}

static struct collect *collect_new(struct lb_worker *w)
{
	pthread_condattr_t attr;
	size_t count = count_rules(w);
	struct collect *c = calloc(1, sizeof(*c) + count * sizeof(c->counters[0]));

	if (!c)
		return NULL;
	c->count = count;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->ready, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&c->lock, NULL);
	c->worker = w;
	c->holders = 2;
	return c;
}

int lb_worker_collect(struct lb_worker *w, struct lb_counters *sums)
{
	struct timespec until;
	struct collect *c = collect_new(w);
	bool done;

	if (!c)
		return -ENOMEM;
	if (lb_loop_post(w->env.carrier.loop, do_collect, c)) {
		c->holders = 1;
		collect_put(c);
		return -ENOMEM;
	}
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += COLLECT_MS / 1000;
	pthread_mutex_lock(&c->lock);
	while (!c->done && pthread_cond_timedwait(&c->ready, &c->lock, &until) != ETIMEDOUT)
		;
	done = c->done;
	pthread_mutex_unlock(&c->lock);
	for (size_t i = 0; i < c->count; i++)
		lb_account_add(&sums[i], done ? &c->counters[i] : &w->env.counters[i]);
	collect_put(c);
	return 0;
}

static void do_turn(void *arg)
{
	struct lb_worker *w = arg;

	__atomic_store_n(&w->owes_turn, false, __ATOMIC_RELAXED);
}

bool lb_worker_turns(struct lb_worker *w)
{
	if (__atomic_load_n(&w->owes_turn, __ATOMIC_RELAXED))
		return false;
	__atomic_store_n(&w->owes_turn, true, __ATOMIC_RELAXED);
	/* Without memory it cannot be asked; that is no fault of its loop's. */
	if (lb_loop_post(w->env.carrier.loop, do_turn, w))
		__atomic_store_n(&w->owes_turn, false, __ATOMIC_RELAXED);
	return true;
}

/* --- for a change of rules -------------------------------------------------------------------- */

void lb_worker_set_rules(struct lb_worker *w, size_t count)
{
	__atomic_store_n(&w->rules_count, count, __ATOMIC_RELEASE);
}

void lb_worker_forget_rule(struct lb_worker *w, uint32_t index)
{
	memset(&w->env.counters[index], 0, sizeof(w->env.counters[index]));
}

uint64_t lb_worker_active(const struct lb_worker *w, uint32_t index)
{
	return lb_count_read(&w->env.counters[index].active);
}

/* One for all workers, who are waited for. */
struct round {
	pthread_mutex_t lock;
	pthread_cond_t done;
	uint32_t left;
	void (*fn)(struct lb_worker *w, uint32_t index, void *arg);
	void *arg;
};

struct round_share {
	struct lb_worker *worker;
	struct round *round;
};

static void do_round(void *arg)
{
	struct round_share *share = arg;
	struct round *r = share->round;

	r->fn(share->worker, share->worker->opts.index, r->arg);
	pthread_mutex_lock(&r->lock);
	if (!--r->left)
		pthread_cond_signal(&r->done);
	pthread_mutex_unlock(&r->lock);
}

void lb_workers_do(struct lb_worker *const *workers, uint32_t count,
		   void (*fn)(struct lb_worker *w, uint32_t index, void *arg), void *arg)
{
	struct round_share shares[LB_WORKERS_MAX];
	struct round r = {.left = count, .fn = fn, .arg = arg};

	pthread_mutex_init(&r.lock, NULL);
	pthread_cond_init(&r.done, NULL);
	for (uint32_t i = 0; i < count; i++) {
		shares[i] = (struct round_share){.worker = workers[i], .round = &r};
		/* Without memory nothing else can be done than to ask again. */
		while (lb_loop_post(workers[i]->env.carrier.loop, do_round, &shares[i]))
			sched_yield();
	}
	pthread_mutex_lock(&r.lock);
	while (r.left)
		pthread_cond_wait(&r.done, &r.lock);
	pthread_mutex_unlock(&r.lock);
	pthread_cond_destroy(&r.done);
	pthread_mutex_destroy(&r.lock);
}

size_t lb_worker_judge_sessions(struct lb_worker *w, struct lb_flows which, enum lb_reason reason,
				bool cut)
{
	size_t n = lb_session_count(&w->env, which);

	if (cut && n)
		lb_session_close_all(&w->env, which, reason);
	return n;
}

size_t lb_worker_judge_grafts(struct lb_worker *w, struct lb_flows which, enum lb_reason reason,
			      bool cut)
{
	return w->env.keeper ? lb_graft_keeper_judge(w->env.keeper, which, reason, cut) : 0;
}

/* --- the end ---------------------------------------------------------------------------------- */

static void do_stop(void *arg)
{
	struct lb_worker *w = arg;

	lb_listeners_stop(&w->listeners, false);
	lb_session_close_all(&w->env, LB_FLOWS_ALL, LB_REASON_DRAINED);
	if (w->env.keeper)
		lb_graft_keeper_cut(w->env.keeper, LB_FLOWS_ALL, LB_REASON_DRAINED);
	lb_loop_stop(w->env.carrier.loop);
}

void lb_worker_stop(struct lb_worker *w)
{
	if (!w->started)
		return;
	while (lb_loop_post(w->env.carrier.loop, do_stop, w))
		sched_yield(); /* out of memory: nothing else can be done than to ask again */
	pthread_join(w->thread, NULL);
	w->started = false;
}

void lb_worker_free(struct lb_worker **pw)
{
	struct lb_worker *w = *pw;

	if (!w)
		return;
	*pw = NULL;
	if (w->env.carrier.loop) {
		lb_listeners_stop(&w->listeners, false);
		lb_graft_keeper_free(&w->env.keeper);
		if (w->ring.fd >= 0)
			lb_watch_remove(w->env.carrier.loop, &w->ring, false);
		lb_loop_free(w->env.carrier.loop);
	}
	lb_pipe_pool_fini(&w->env.carrier.pipes);
	lb_slab_fini(&w->env.slab);
	lb_slab_fini(&w->env.shares);
	lb_door_fini(&w->env.door);
	free(w->env.carrier.scratch);
	free(w->env.counters);
	free(w);
}
