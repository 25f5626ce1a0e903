/* SPDX-License-Identifier: MIT */
/* See health.h. Must never block the checks: one backend's end is not another one's silence. */
#include "control/health.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/health_check.h"
#include "backend/passive_health.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "base/log.h"
#include "loop/loop.h"

/* A slow start has so many steps, none shorter than that. */
#define SLOW_STEPS   20u
#define SLOW_STEP_MS 50u
/* "host:port (address:port)". */
#define NAME_BYTES 384

/* A backend that is watched. Lives as long as the backend: flows may tell of it until then. */
struct watched {
	/* What other nodes know its checks as, while they are shared. */
	uint64_t subject;
	bool shared;
	struct lb_health_service *health;
	const struct lb_rule *rule;
	struct lb_backend *backend;    /* whose this is */
	struct lb_health_check *check; /* NULL: none */
	struct lb_passive passive;
	struct lb_passive_health_config passive_config; /* that <passive> is made for */
	struct lb_timer back;                           /* out: until it comes back */
	struct lb_timer slow;  /* it has come up, and is not yet given its whole share: next step */
	uint64_t slow_from_ms; /* since when */
	uint32_t failures;     /* atomic: not yet looked at .. */
	bool told;             /* .. atomic: and the thread knows */
	bool away;             /* not watched, for the time being or for good */
};

struct lb_health_service {
	struct lb_health_opts opts;
	struct lb_health_checks *checks;
	bool heard; /* atomic: other nodes have told something, and the loop knows */
};

/* --- other nodes (cluster/opinion) ------------------------------------------------------------ */

static uint64_t now_ms(const struct watched *w)
{
	return lb_loop_now_ms(w->health->opts.loop);
}

/* What is asked, of whom, for which rule: only who asks the same can tell of it. 0 or -ENOMEM. */
static int name_subject(const struct watched *w, uint64_t *ret)
{
	const struct lb_rule_config *rule = w->rule->config;
	const struct lb_health_check_config *check = &rule->health_check;
	char addr[LB_ADDR_STR_MAX];
	LB_AUTO_FREE char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return -ENOMEM;
	fprintf(out, "%s\n%s\n%s\n%d %u %d %d\n%s\n%s\n%s\n%s\n",
		w->rule->of ? w->rule->of->config->name : "", rule->name,
		lb_addr_format(&w->backend->addr, addr), (int)check->protocol,
		(unsigned int)check->port, check->tls, check->send_proxy, check->path,
		check->host ? check->host : w->backend->config->addr,
		check->send ? check->send : "", check->expect ? check->expect : "");
	for (size_t i = 0; i < check->expect_status_count; i++)
		fprintf(out, "%u-%u\n", (unsigned int)check->expect_status[i].from,
			(unsigned int)check->expect_status[i].to);
	if (fclose(out))
		return -ENOMEM;
	*ret = lb_hash(text, size);
	return 0;
}

static void end_sharing(struct watched *w)
{
	if (w->shared)
		lb_opinions_unwatch(w->health->opts.opinions, w->subject);
	w->shared = false;
}

/* As the configuration has it. Without memory it asks by itself. */
static void renew_sharing(struct watched *w)
{
	const struct lb_health_check_config *check = &w->rule->config->health_check;

	end_sharing(w);
	if (!w->check || !check->share || !w->health->opts.opinions || name_subject(w, &w->subject))
		return;
	/* Two of a checker's answers, the second one as late as may be. */
	w->shared = !lb_opinions_watch(w->health->opts.opinions, w->subject,
				       2 * check->interval_ms + check->timeout_ms);
}

static bool on_vouched(void *watcher, bool up, uint64_t *until_ms)
{
	const struct watched *w = watcher;
	struct lb_opinion opinion;

	if (!w->shared ||
	    !lb_opinions_vouch(w->health->opts.opinions, w->subject, up, now_ms(w), &opinion))
		return false;
	*until_ms = opinion.until_ms;
	return true;
}

static void on_answered(void *watcher, bool good)
{
	const struct watched *w = watcher;

	if (w->shared)
		lb_opinions_note(w->health->opts.opinions, w->subject, good, now_ms(w));
}

static void look_again(void *arg)
{
	struct lb_health_service *h = arg;

	__atomic_store_n(&h->heard, false, __ATOMIC_SEQ_CST);
	lb_health_checks_look_again(h->checks);
}

/* The cluster's thread; however much it hears, the loop is told once. */
static void on_heard(void *arg)
{
	struct lb_health_service *h = arg;

	if (!__atomic_exchange_n(&h->heard, true, __ATOMIC_SEQ_CST) &&
	    lb_loop_post(h->opts.loop, look_again, h))
		__atomic_store_n(&h->heard, false, __ATOMIC_SEQ_CST);
}

const char *lb_health_source(const struct lb_backend *b, char node[LB_WIRE_NAME_MAX])
{
	const struct watched *w = b->watch;
	struct lb_opinion opinion;
	bool up;

	if (!w || w->away || !w->check || !lb_health_check_known(w->check, &up))
		return NULL;
	if (!w->shared || !lb_health_check_trusts(w->check) ||
	    !lb_opinions_vouch(w->health->opts.opinions, w->subject, up, now_ms(w), &opinion))
		return "own";
	memcpy(node, opinion.node, LB_WIRE_NAME_MAX);
	return node;
}

static void tell_uneven(const struct lb_rule *rule, int err)
{
	if (err)
		lb_warn("rule %s: shares are uneven: %s", rule->config->name, strerror(-err));
}

static void mark(const struct watched *w, uint8_t bit, bool on)
{
	tell_uneven(w->rule, lb_select_mark(w->rule->select, w->backend, bit, on));
}

/* How many of a rule's backends take flows. */
struct standing {
	uint32_t all, eligible;
};

static struct standing standing_of(const struct lb_rule *rule)
{
	struct standing s;

	lb_pool_count(rule->pool, &s.all, &s.eligible);
	return s;
}

/* As the log calls it: one address of several says which. */
static const char *name_of(const struct lb_backend *b, char buf[NAME_BYTES])
{
	char addr[LB_ADDR_STR_MAX];

	lb_addr_format(&b->addr, addr);
	if (!strcmp(addr, b->config->addr))
		return b->config->addr;
	snprintf(buf, NAME_BYTES, "%s (%s)", b->config->addr, addr);
	return buf;
}

/* --- slow start ------------------------------------------------------------------------------- */

static void step(struct watched *w)
{
	uint64_t all = w->rule->config->health_check.slow_start_ms;
	uint64_t up = lb_loop_now_ms(w->health->opts.loop) - w->slow_from_ms;
	uint32_t whole = w->backend->whole_weight, now = whole;

	if (up < all) {
		now = (uint32_t)(whole * up / all);
		lb_timer_start(w->health->opts.loop, &w->slow,
			       all / SLOW_STEPS < SLOW_STEP_MS ? SLOW_STEP_MS : all / SLOW_STEPS);
	}
	tell_uneven(w->rule, lb_select_weigh(w->rule->select, w->backend, now ? now : 1));
}

static void on_step(struct lb_timer *t)
{
	step(lb_container_of(t, struct watched, slow));
}

void lb_health_reweigh(const struct lb_rule *rule, struct lb_backend *b)
{
	struct watched *w = b->watch;

	if (w && w->slow.armed)
		step(w);
	else
		tell_uneven(rule, lb_select_weigh(rule->select, b, b->whole_weight));
}

/* --- active ----------------------------------------------------------------------------------- */

static void tell(const struct lb_rule *rule, const struct lb_health_change *c)
{
	struct standing s = standing_of(rule);
	const char *name = rule->config->name;
	char buf[NAME_BYTES];
	const char *backend = name_of(c->backend, buf);

	if (!c->up)
		lb_warn("rule %s: backend %s is down: %s (%u in a row); %u of %u take flows", name,
			backend, c->cause, c->answers, s.eligible, s.all);
	else if (c->was_ms)
		lb_info("rule %s: backend %s is up again after %.1f s; %u of %u take flows", name,
			backend, (double)c->was_ms / 1000, s.eligible, s.all);
	else
		lb_info("rule %s: backend %s is up; %u of %u take flows", name, backend, s.eligible,
			s.all);
}

static void reset_flows(const struct watched *w)
{
	const struct lb_health_opts *opts = &w->health->opts;
	int err = lb_workers_cut(opts->workers, opts->workers_count,
				 LB_FLOWS_OF_BACKEND(w->backend->id), LB_REASON_BACKEND_DOWN);

	if (err)
		lb_warn("rule %s: not all flows of %s are reset: %s", w->rule->config->name,
			w->backend->config->addr, strerror(-err));
}

static void on_change(const struct lb_health_change *c)
{
	struct watched *w = c->watcher;

	/* Its share begins at next to nothing. */
	if (c->up && w->rule->config->health_check.slow_start_ms) {
		w->slow_from_ms = lb_loop_now_ms(w->health->opts.loop);
		step(w);
	}
	mark(w, LB_BACKEND_DOWN, !c->up);
	tell(w->rule, c);
	if (!c->up && w->rule->config->on_down == LB_ON_DOWN_RESET)
		reset_flows(w);
}

/* --- passive ---------------------------------------------------------------------------------- */

/* Whether one more may go: some stay in, and of those that take flows it is not the last. */
static bool may_eject(const struct watched *w)
{
	struct lb_pool *pool = w->rule->pool;
	uint32_t out = 0, eligible = 0, all;

	pthread_mutex_lock(&pool->lock);
	all = pool->count;
	for (uint32_t i = 0; i < all; i++) {
		out += !!(pool->backends[i]->out & LB_BACKEND_EJECTED);
		eligible += lb_backend_is_eligible(pool->backends[i]);
	}
	pthread_mutex_unlock(&pool->lock);
	return out < lb_passive_most(&w->passive_config, all) &&
	       eligible > (lb_backend_is_eligible(w->backend) ? 1u : 0u);
}

static void on_return(struct lb_timer *t)
{
	struct watched *w = lb_container_of(t, struct watched, back);
	struct standing s;
	char buf[NAME_BYTES];

	lb_passive_return(&w->passive, &w->passive_config, lb_loop_now_ms(w->health->opts.loop));
	mark(w, LB_BACKEND_EJECTED, false);
	s = standing_of(w->rule);
	lb_info("rule %s: backend %s may take flows again; %u of %u take flows",
		w->rule->config->name, name_of(w->backend, buf), s.eligible, s.all);
}

static void eject(struct watched *w, uint64_t now_ms)
{
	const struct lb_passive_health_config *config = &w->passive_config;
	uint64_t ms = lb_passive_eject(&w->passive, config, now_ms);
	struct standing s;
	char buf[NAME_BYTES];

	mark(w, LB_BACKEND_EJECTED, true);
	lb_timer_start(w->health->opts.loop, &w->back, ms);
	s = standing_of(w->rule);
	lb_warn("rule %s: backend %s is out for %.1f s: %u flows failed in %.1f s; %u of %u take "
		"flows",
		w->rule->config->name, name_of(w->backend, buf), (double)ms / 1000,
		config->failures, (double)config->window_ms / 1000, s.eligible, s.all);
}

static void on_failures(void *arg)
{
	struct watched *w = arg;
	struct lb_backend *held = w->backend;
	uint64_t now = lb_loop_now_ms(w->health->opts.loop);
	uint32_t n;

	__atomic_store_n(&w->told, false, __ATOMIC_SEQ_CST);
	n = __atomic_exchange_n(&w->failures, 0, __ATOMIC_SEQ_CST);
	if (n && !w->away && w->check)
		lb_health_check_doubt(w->check);
	if (n && !w->away && w->passive.at_ms &&
	    lb_passive_note(&w->passive, &w->passive_config, n, now) && may_eject(w))
		eject(w, now);
	lb_pool_put(&held);
}

/* However many fail at once, the thread is told once. */
void lb_health_failed(const struct lb_rule *rule, struct lb_backend *b)
{
	struct watched *w = __atomic_load_n(&b->watch, __ATOMIC_ACQUIRE);

	if (!w)
		return;
	__atomic_fetch_add(&w->failures, 1, __ATOMIC_SEQ_CST);
	if (__atomic_exchange_n(&w->told, true, __ATOMIC_SEQ_CST))
		return;
	lb_pool_hold(b);
	if (!lb_loop_post(w->health->opts.loop, on_failures, w))
		return;
	/* Without memory the next one tells. */
	__atomic_store_n(&w->told, false, __ATOMIC_SEQ_CST);
	lb_pool_put(&b);
}

/* --- birth and death -------------------------------------------------------------------------- */

static void watched_free(void *arg)
{
	struct watched *w = arg;

	lb_passive_fini(&w->passive);
	free(w);
}

static struct watched *watched_new(struct lb_health_service *h, const struct lb_rule *rule,
				   struct lb_backend *b)
{
	struct watched *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->health = h;
	w->rule = rule;
	w->backend = b;
	w->away = true;
	lb_timer_init(&w->back, on_return);
	lb_timer_init(&w->slow, on_step);
	return w;
}

static int init_passive(struct watched *w)
{
	w->passive_config = w->rule->config->passive_health;
	return lb_passive_init(&w->passive, &w->passive_config);
}

/* It has been away: nothing is known of it any more. */
static void forget(struct watched *w)
{
	const struct lb_health_check_config *check = &w->rule->config->health_check;
	bool unknown = check->enabled && check->initial == LB_HEALTH_CHECK_INITIAL_UNKNOWN;

	if (w->passive.out)
		lb_passive_return(&w->passive, &w->passive_config,
				  lb_loop_now_ms(w->health->opts.loop));
	if (w->backend->out & LB_BACKEND_EJECTED)
		mark(w, LB_BACKEND_EJECTED, false);
	if (!!(w->backend->out & LB_BACKEND_DOWN) != unknown)
		mark(w, LB_BACKEND_DOWN, unknown);
	if (w->backend->weight != w->backend->whole_weight)
		tell_uneven(w->rule,
			    lb_select_weigh(w->rule->select, w->backend, w->backend->whole_weight));
}

/* What <rule> wants of it. 0 or -ENOMEM. */
static int begin(struct watched *w)
{
	const struct lb_rule_config *config = w->rule->config;
	int err = 0;

	forget(w);
	if (config->passive_health.enabled && !w->passive.at_ms)
		err = init_passive(w);
	if (!err && config->health_check.enabled)
		err = lb_health_checks_add(w->health->checks, config, w->rule->check_tls,
					   w->backend, w, &w->check);
	w->away = err != 0;
	if (!err)
		renew_sharing(w);
	return err;
}

static bool is_same_passive(const struct lb_passive_health_config *a,
			    const struct lb_passive_health_config *b)
{
	return a->enabled == b->enabled && a->failures == b->failures &&
	       a->window_ms == b->window_ms && a->eject_ms == b->eject_ms &&
	       a->max_ejected_percent == b->max_ejected_percent;
}

/* What flows told before does not count any more. */
static int renew_passive(struct watched *w)
{
	const struct lb_passive_health_config *is = &w->rule->config->passive_health;

	if (is_same_passive(is, &w->passive_config) || (!is->enabled && !w->passive.at_ms))
		return 0;
	lb_timer_stop(w->health->opts.loop, &w->back);
	lb_passive_fini(&w->passive);
	w->passive_config = (struct lb_passive_health_config){0};
	if (w->backend->out & LB_BACKEND_EJECTED)
		mark(w, LB_BACKEND_EJECTED, false);
	return is->enabled ? init_passive(w) : 0;
}

/* Nobody asks how it is any more: it takes flows. */
static void end_checks(struct watched *w)
{
	end_sharing(w);
	lb_health_checks_remove(&w->check);
	lb_timer_stop(w->health->opts.loop, &w->slow);
	if (w->backend->weight != w->backend->whole_weight)
		tell_uneven(w->rule,
			    lb_select_weigh(w->rule->select, w->backend, w->backend->whole_weight));
	if (w->backend->out & LB_BACKEND_DOWN)
		mark(w, LB_BACKEND_DOWN, false);
}

static int renew_checks(struct watched *w, bool changed)
{
	const struct lb_rule_config *config = w->rule->config;

	if (!config->health_check.enabled) {
		if (w->check)
			end_checks(w);
		return 0;
	}
	if (w->check)
		return lb_health_checks_renew(w->check, config, w->rule->check_tls, changed);
	return lb_health_checks_add(w->health->checks, config, w->rule->check_tls, w->backend, w,
				    &w->check);
}

int lb_health_renew(struct lb_health_service *h, const struct lb_rule *rule, struct lb_backend *b,
		    bool changed)
{
	struct watched *w = b->watch;
	int err, one;

	if (!w || w->away)
		return lb_health_watch(h, rule, b);
	err = renew_passive(w);
	one = renew_checks(w, changed);
	renew_sharing(w);
	return err ? err : one;
}

static bool wants_any(const struct lb_rule *rule)
{
	return rule->config->passive_health.enabled || rule->config->health_check.enabled;
}

int lb_health_watch(struct lb_health_service *h, const struct lb_rule *rule, struct lb_backend *b)
{
	struct watched *w = b->watch;

	if (!w && !wants_any(rule))
		return 0;
	if (!w) {
		w = watched_new(h, rule, b);
		if (!w)
			return -ENOMEM;
		b->unwatch = watched_free;
		__atomic_store_n(&b->watch, w, __ATOMIC_RELEASE);
	}
	return w->away ? begin(w) : 0;
}

void lb_health_unwatch(struct lb_backend *b)
{
	struct watched *w = b->watch;

	if (!w || w->away)
		return;
	w->away = true;
	end_sharing(w);
	lb_health_checks_remove(&w->check);
	lb_timer_stop(w->health->opts.loop, &w->back);
	lb_timer_stop(w->health->opts.loop, &w->slow);
}

struct lb_health_known lb_health_known(const struct lb_backend *b)
{
	const struct watched *w = b->watch;
	struct lb_health_known known = {0};
	uint64_t now;

	if (!w || w->away)
		return known;
	now = lb_loop_now_ms(w->health->opts.loop);
	if (w->check)
		known.asked = lb_health_check_known(w->check, &known.up);
	if (w->passive.out && w->passive.until_ms > now)
		known.ejected_ms = w->passive.until_ms - now;
	known.ejected_times = w->passive.times;
	/* 0 is none. */
	if (w->slow.armed)
		known.slow_ms = now - w->slow_from_ms + 1;
	return known;
}

static void restore_passive(struct watched *w, const struct lb_health_known *known)
{
	uint64_t now = lb_loop_now_ms(w->health->opts.loop);
	uint64_t most = w->passive_config.eject_ms * 64;

	if (!known->ejected_ms || !w->passive.at_ms || w->passive.out)
		return;
	lb_passive_restore(&w->passive, known->ejected_times,
			   now + (known->ejected_ms < most ? known->ejected_ms : most));
	mark(w, LB_BACKEND_EJECTED, true);
	lb_timer_start(w->health->opts.loop, &w->back, w->passive.until_ms - now);
}

void lb_health_restore(struct lb_backend *b, const struct lb_health_known *known)
{
	struct watched *w = b->watch;
	uint64_t now;

	if (!w || w->away)
		return;
	if (known->asked && w->check && lb_health_check_restore(w->check, known->up))
		mark(w, LB_BACKEND_DOWN, !known->up);
	now = lb_loop_now_ms(w->health->opts.loop);
	if (known->slow_ms && known->slow_ms < now && w->rule->config->health_check.slow_start_ms) {
		w->slow_from_ms = now - known->slow_ms;
		step(w);
	}
	restore_passive(w, known);
}

int lb_health_new(struct lb_health_service **ret, const struct lb_health_opts *opts)
{
	LB_AUTO(lb_health_free) struct lb_health_service *h = calloc(1, sizeof(*h));
	const struct lb_health_checks_opts checks = {
		.loop = opts->loop,
		.changed = on_change,
		.share = {on_vouched, on_answered},
	};
	int err;

	if (!h)
		return -ENOMEM;
	h->opts = *opts;
	err = lb_health_checks_new(&h->checks, &checks);
	if (err)
		return err;
	if (h->opts.opinions)
		lb_opinions_listen(h->opts.opinions, on_heard, h);
	*ret = LB_TAKE_PTR(h);
	return 0;
}

void lb_health_free(struct lb_health_service **ph)
{
	struct lb_health_service *h = *ph;

	if (!h)
		return;
	*ph = NULL;
	lb_health_checks_free(&h->checks);
	free(h);
}
