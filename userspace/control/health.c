/* SPDX-License-Identifier: MIT */
/* See health.h. Must never block the checks: one backend's end is not another one's silence. */
#include "control/health.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "backend/health_check.h"
#include "backend/passive_health.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "loop/loop.h"

/* A slow start has so many steps, none shorter than that. */
#define SLOW_STEPS   20u
#define SLOW_STEP_MS 50u

/* A backend whose flows are listened to. */
struct watched {
	struct lb_health_service *health;
	const struct lb_rule *rule;
	struct lb_backend *backend;
	struct lb_passive passive;
	struct lb_timer timer; /* out: until it comes back */
	uint32_t failures;     /* atomic: not yet looked at .. */
	bool told;             /* .. atomic: and the thread knows */
};

/* A backend that has come up and is not yet given its whole share. */
struct slow {
	struct lb_health_service *health;
	const struct lb_rule *rule;
	struct lb_backend *backend;
	struct lb_timer timer; /* to the next step */
	uint64_t since_ms;
};

struct lb_health_service {
	struct lb_health_opts opts;
	struct lb_loop *loop;
	struct lb_health_checks *checks;
	struct watched **watched; /* by rule: one for each backend; NULL: none of that rule's */
	struct slow **slow;       /* by rule, as <watched> */
	bool has_work;
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

static void tell_uneven(const struct lb_rule *rule, int err)
{
	if (err)
		lb_warn("rule %s: shares are uneven: %s", rule->config->name, strerror(-err));
}

/* <b>'s down or ejected is new. */
static void apply(const struct lb_rule *rule, struct lb_backend *b)
{
	tell_uneven(rule, lb_select_note(rule->select, b, !b->draining && !b->down && !b->ejected));
}

/* --- slow start ------------------------------------------------------------------------------- */

static void step(struct slow *s)
{
	uint64_t all = s->rule->config->health_check.slow_start_ms;
	uint64_t up = lb_loop_now_ms(s->health->loop) - s->since_ms;
	uint32_t whole = s->backend->config->weight * LB_WEIGHT_UNIT, now = whole;

	if (up < all) {
		now = (uint32_t)(whole * up / all);
		lb_timer_start(s->health->loop, &s->timer,
			       all / SLOW_STEPS < SLOW_STEP_MS ? SLOW_STEP_MS : all / SLOW_STEPS);
	}
	tell_uneven(s->rule, lb_select_weigh(s->rule->select, s->backend, now ? now : 1));
}

static void on_step(struct lb_timer *t)
{
	step(lb_container_of(t, struct slow, timer));
}

/* <b> has come up: its share begins at next to nothing. */
static void start_slowly(struct lb_health_service *h, const struct lb_rule *rule,
			 const struct lb_backend *b)
{
	struct slow *s = &h->slow[rule->index][b->index];

	s->since_ms = lb_loop_now_ms(h->loop);
	step(s);
	apply(rule, s->backend);
}

static int prepare_slow(struct lb_health_service *h, const struct lb_rule *rule)
{
	const struct lb_health_check_config *config = &rule->config->health_check;
	struct slow *all;

	if (!config->enabled || !config->slow_start_ms)
		return 0;
	all = calloc(rule->pool->count + 1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	h->slow[rule->index] = all;
	for (uint32_t i = 0; i < rule->pool->count; i++) {
		all[i] = (struct slow){
			.health = h, .rule = rule, .backend = &rule->pool->backends[i]};
		lb_timer_init(&all[i].timer, on_step);
	}
	return 0;
}

/* --- active ----------------------------------------------------------------------------------- */

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
	int err;

	c->backend->down = !c->up;
	if (c->up && h->slow[rule->index])
		start_slowly(h, rule, c->backend);
	else
		apply(rule, c->backend);
	tell(rule, c);
	if (c->up || rule->config->on_down != LB_ON_DOWN_RESET)
		return;
	err = lb_workers_cut(h->opts.workers, h->opts.workers_count, its, LB_REASON_BACKEND_DOWN);
	if (err)
		lb_warn("rule %s: not all flows of %s are reset: %s", rule->config->name,
			c->backend->config->addr, strerror(-err));
}

/* --- passive ---------------------------------------------------------------------------------- */

/* Whether one more may go: some stay in, and of those that take flows it is not the last. */
static bool may_eject(const struct watched *w)
{
	const struct lb_pool *pool = w->rule->pool;
	uint32_t out = 0;

	for (uint32_t i = 0; i < pool->count; i++)
		out += pool->backends[i].ejected;
	return out < lb_passive_most(&w->rule->config->passive_health, pool->count) &&
	       count_eligible(pool) > (w->backend->eligible ? 1u : 0u);
}

static void on_return(struct lb_timer *t)
{
	struct watched *w = lb_container_of(t, struct watched, timer);

	lb_passive_return(&w->passive, &w->rule->config->passive_health,
			  lb_loop_now_ms(w->health->loop));
	w->backend->ejected = false;
	apply(w->rule, w->backend);
	lb_info("rule %s: backend %s may take flows again; %u of %u take flows",
		w->rule->config->name, w->backend->config->addr, count_eligible(w->rule->pool),
		w->rule->pool->count);
}

static void on_failures(void *arg)
{
	struct watched *w = arg;
	const struct lb_passive_health_config *config = &w->rule->config->passive_health;
	uint64_t now = lb_loop_now_ms(w->health->loop), ms;
	uint32_t n;

	__atomic_store_n(&w->told, false, __ATOMIC_SEQ_CST);
	n = __atomic_exchange_n(&w->failures, 0, __ATOMIC_SEQ_CST);
	if (!n || !lb_passive_note(&w->passive, config, n, now) || !may_eject(w))
		return;
	ms = lb_passive_eject(&w->passive, config, now);
	w->backend->ejected = true;
	apply(w->rule, w->backend);
	lb_timer_start(w->health->loop, &w->timer, ms);
	lb_warn("rule %s: backend %s is out for %.1f s: %u flows failed in %.1f s; %u of %u take "
		"flows",
		w->rule->config->name, w->backend->config->addr, (double)ms / 1000,
		config->failures, (double)config->window_ms / 1000, count_eligible(w->rule->pool),
		w->rule->pool->count);
}

/* Any worker. However many fail at once, the thread is told once. */
static void on_failed(const struct lb_rule *rule, struct lb_backend *b)
{
	struct watched *w = &((struct watched *)rule->failed_arg)[b->index];

	__atomic_fetch_add(&w->failures, 1, __ATOMIC_SEQ_CST);
	if (__atomic_exchange_n(&w->told, true, __ATOMIC_SEQ_CST))
		return;
	/* Without memory the next one tells. */
	if (lb_loop_post(w->health->loop, on_failures, w))
		__atomic_store_n(&w->told, false, __ATOMIC_SEQ_CST);
}

static int watch(struct lb_health_service *h, struct lb_rule *rule)
{
	struct watched *all;

	if (!rule->config->passive_health.enabled)
		return 0;
	all = calloc(rule->pool->count + 1, sizeof(*all));
	if (!all)
		return -ENOMEM;
	h->watched[rule->index] = all;
	for (uint32_t i = 0; i < rule->pool->count; i++) {
		struct watched *w = &all[i];

		*w = (struct watched){
			.health = h, .rule = rule, .backend = &rule->pool->backends[i]};
		lb_timer_init(&w->timer, on_return);
		if (lb_passive_init(&w->passive, &rule->config->passive_health))
			return -ENOMEM;
	}
	rule->failed_arg = all;
	rule->failed = on_failed;
	h->has_work = true;
	return 0;
}

/* --- birth and death -------------------------------------------------------------------------- */

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
	h->watched = calloc(h->opts.rules_count + 1, sizeof(struct watched *));
	h->slow = calloc(h->opts.rules_count + 1, sizeof(struct slow *));
	if (!h->watched || !h->slow)
		return -ENOMEM;
	opts.loop = h->loop;
	err = lb_health_checks_new(&h->checks, &opts);
	for (size_t i = 0; i < h->opts.rules_count && !err; i++) {
		struct lb_rule *rule = &h->opts.rules[i];

		err = lb_health_checks_add(h->checks, (uint32_t)i, rule->config, rule->pool);
		if (!err)
			err = prepare_slow(h, rule);
		if (!err)
			err = watch(h, rule);
	}
	h->has_work = h->has_work || (!err && lb_health_checks_count(h->checks));
	return err;
}

int lb_health_new(struct lb_health_service **ret, const struct lb_health_opts *opts)
{
	LB_AUTO(lb_health_free) struct lb_health_service *h = calloc(1, sizeof(*h));
	int err;

	if (!h)
		return -ENOMEM;
	h->opts = *opts;
	err = build(h);
	if (err)
		return err;
	if (h->has_work)
		*ret = LB_TAKE_PTR(h);
	return 0;
}

int lb_health_start(struct lb_health_service *h)
{
	int err;

	if (!h)
		return 0;
	err = -pthread_create(&h->thread, NULL, run, h);
	h->runs = !err;
	return err;
}

void lb_health_stop(struct lb_health_service *h)
{
	if (!h || !h->runs)
		return;
	lb_loop_stop(h->loop);
	pthread_join(h->thread, NULL);
	h->runs = false;
}

static void unwatch(const struct lb_rule *rule, struct watched *all)
{
	for (uint32_t i = 0; all && i < rule->pool->count; i++)
		lb_passive_fini(&all[i].passive);
	free(all);
}

void lb_health_free(struct lb_health_service **h)
{
	struct lb_health_service *health = *h;

	if (!health)
		return;
	*h = NULL;
	lb_health_checks_free(&health->checks);
	for (size_t i = 0; health->watched && i < health->opts.rules_count; i++)
		unwatch(&health->opts.rules[i], health->watched[i]);
	for (size_t i = 0; health->slow && i < health->opts.rules_count; i++)
		free(health->slow[i]);
	free(health->slow);
	free(health->watched);
	if (health->loop)
		lb_loop_free(health->loop);
	free(health);
}
