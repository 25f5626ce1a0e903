/* SPDX-License-Identifier: MIT */
/*
 * See drain.h. While a draining backend has flows, a survey looks at all flows once in LOOK_MS:
 * what it closes and counts, the thread reads when it is over. One survey for all of them.
 *
 * Must never touch a flow outside of a survey, nor close one in good order that has bytes under
 * way.
 */
#include "control/drain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "flow/graft_keeper.h"
#include "flow/grafts.h"
#include "flow/session.h"
#include "flow/snapshot.h"
#include "flow/survey.h"

#define LOOK_MS 500u
/* No byte for so long: idle. */
#define IDLE_NS 5000000000ull

/* Where a backend's drain is; named by the backend. */
struct lb_drain {
	struct lb_list node;
	const struct lb_rule *rule;
	struct lb_backend *backend; /* held */
	struct lb_forecast forecast;
	uint64_t begun_ms;
	uint64_t until_ms; /* lb_clock_ms() scale; LB_DRAIN_NEVER */
	uint64_t had;      /* flows, when it began */
	uint64_t cut;
	bool done;     /* it has no flow any more, and that was said */
	bool surveyed; /* from its begin to its end by the survey under way, or the last one */
	bool over;     /* taken back: to be freed when no survey names it any more */
	/* Atomic: what surveys count. */
	uint64_t idle;   /* in the one under way */
	uint64_t closed; /* in all of them */
};

struct lb_drains {
	struct lb_drains_opts opts;
	struct lb_flow_env **envs;
	struct lb_list drains;
	struct lb_timer look;
	struct lb_survey *survey; /* under way, or .. */
	bool visited;             /* .. atomic: over */
};

static void go_on(struct lb_drains *d);

/* --- in the workers --------------------------------------------------------------------------- */

static struct lb_drain *drain_of(const struct lb_backend *b)
{
	return b ? __atomic_load_n(&b->drain, __ATOMIC_ACQUIRE) : NULL;
}

static void count(uint64_t *counter)
{
	__atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

/* Neither in our hands nor in our sockets: nothing is lost, however soon the peers go. */
static bool is_clean(const struct lb_session *s, struct lb_flow_snapshot *f)
{
	if (!s->pair.carrier->clean(&s->pair))
		return false;
	lb_snapshot_ask(s, f);
	return f->has_legs && !f->backlog[0] && !f->backlog[1];
}

static void look_at_session(struct lb_session *s, struct lb_drain *drain)
{
	struct lb_flow_snapshot f;

	lb_snapshot_take(s, &f);
	/* The byte counters of the backend tell how fast it goes. */
	lb_account_fold(s);
	if (lb_loop_now_ns(s->env->carrier.loop) < f.last_ns + IDLE_NS)
		return;
	if (!is_clean(s, &f)) {
		/* Somebody does not take what the other one has sent: the deadline is for that. */
		count(&drain->idle);
		return;
	}
	count(&drain->closed);
	lb_session_close(s, LB_REASON_DRAINED, true);
}

/* No socket of ours is left to close in good order. */
static void look_at_graft(struct lb_flow_env *env, uint32_t pair, struct lb_drain *drain)
{
	struct lb_flow_snapshot f;

	lb_snapshot_take_graft(env, pair, &f);
	lb_graft_keeper_fold_one(env->keeper, pair);
	if (lb_loop_now_ns(env->carrier.loop) < f.last_ns + IDLE_NS)
		return;
	if (f.backlog[0] || f.backlog[1]) {
		count(&drain->idle);
		return;
	}
	count(&drain->closed);
	lb_graft_keeper_end(env->keeper, pair, LB_REASON_DRAINED);
}

static unsigned int visit(void *arg, const struct lb_survey_flow *f)
{
	const struct lb_backend *backend =
		f->session ? f->session->backend
			   : lb_grafts_owner(f->env->carrier.grafts, f->pair)->backend;
	struct lb_drain *drain = drain_of(backend);

	if (!drain || (f->session && !f->session->carrying))
		return 1;
	if (f->session)
		look_at_session(f->session, drain);
	else
		look_at_graft(f->env, f->pair, drain);
	return LB_SURVEY_PRICE_OF_ASKING;
}

static void on_visited(void *arg);

/* A worker's thread. Without memory the timer finds it. */
static void done(void *arg)
{
	struct lb_drains *d = arg;

	__atomic_store_n(&d->visited, true, __ATOMIC_RELEASE);
	(void)lb_loop_post(d->opts.loop, on_visited, d);
}

/* --- in the thread ---------------------------------------------------------------------------- */

static uint64_t flows_of(const struct lb_backend *b)
{
	return __atomic_load_n(&b->active, __ATOMIC_RELAXED);
}

static uint64_t bytes_of(const struct lb_backend *b)
{
	return __atomic_load_n(&b->counts.bytes[0], __ATOMIC_RELAXED) +
	       __atomic_load_n(&b->counts.bytes[1], __ATOMIC_RELAXED);
}

static uint64_t closed_of(const struct lb_drain *drain)
{
	return __atomic_load_n(&drain->closed, __ATOMIC_RELAXED);
}

static void drain_free(struct lb_drain *drain)
{
	lb_list_remove(&drain->node);
	lb_pool_put(&drain->backend);
	free(drain);
}

static void tell_done(const struct lb_drain *drain)
{
	uint64_t closed = closed_of(drain), gone = closed + drain->cut;

	lb_info("rule %s: backend %s is drained after %.1f s: of %llu flows %llu ended by "
		"themselves, %llu were idle and closed, %llu were cut",
		drain->rule->config->name, drain->backend->config->addr,
		(double)(lb_clock_ms() - drain->begun_ms) / 1000, (unsigned long long)drain->had,
		(unsigned long long)(drain->had > gone ? drain->had - gone : 0),
		(unsigned long long)closed, (unsigned long long)drain->cut);
}

/* Every time it is looked: what comes late, a connect that was under way, goes the same way. */
static void cut(struct lb_drains *d, struct lb_drain *drain)
{
	uint64_t left = flows_of(drain->backend);

	if (lb_workers_cut(d->opts.workers, d->opts.workers_count,
			   LB_FLOWS_OF_BACKEND(drain->backend->id), LB_REASON_DRAINED))
		return; /* without memory: the next time */
	/* Those of the first time; some of them are still there the second time. */
	if (drain->cut < left)
		drain->cut = left;
}

static void look_at(struct lb_drains *d, struct lb_drain *drain)
{
	struct lb_backend *b = drain->backend;
	uint64_t flows = flows_of(b), now = lb_clock_ms();

	/* Else not all of its bytes are counted: they would look like many at once. */
	if (drain->surveyed)
		lb_forecast_feed(&drain->forecast, now, flows,
				 __atomic_load_n(&drain->idle, __ATOMIC_RELAXED), bytes_of(b));
	if (drain->done || drain->over)
		return;
	if (!flows) {
		drain->done = true;
		if (drain->had)
			tell_done(drain);
	} else if (now >= drain->until_ms) {
		cut(d, drain);
	}
}

/* Nobody is to be held by us for having been drained once. */
static bool has_left(const struct lb_drain *drain)
{
	return __atomic_load_n(&drain->backend->out, __ATOMIC_RELAXED) & LB_BACKEND_LEFT;
}

/* The backend does not name it any more; a survey that is under way may. */
static void part(struct lb_drain *drain)
{
	drain->over = true;
	__atomic_store_n(&drain->backend->drain, NULL, __ATOMIC_RELEASE);
	__atomic_store_n(&drain->backend->drain_until_ms, 0, __ATOMIC_RELAXED);
}

static bool is_at_work(const struct lb_drain *drain)
{
	return !drain->done && !drain->over;
}

static void on_visited(void *arg)
{
	struct lb_drains *d = arg;
	struct lb_list *node = d->drains.next, *next;

	if (!__atomic_exchange_n(&d->visited, false, __ATOMIC_ACQ_REL))
		return;
	lb_survey_free(&d->survey);
	for (; node != &d->drains; node = next) {
		struct lb_drain *drain = lb_container_of(node, struct lb_drain, node);

		next = node->next;
		look_at(d, drain);
		if (drain->done && !drain->over && has_left(drain))
			part(drain);
		if (drain->over)
			drain_free(drain);
	}
	go_on(d);
}

static void survey(struct lb_drains *d)
{
	const struct lb_survey_opts opts = {.visit = visit, .done = done, .arg = d};

	lb_list_for_each (node, &d->drains) {
		struct lb_drain *drain = lb_container_of(node, struct lb_drain, node);

		drain->surveyed = true;
		__atomic_store_n(&drain->idle, 0, __ATOMIC_RELAXED);
	}
	/* What some worker could not be asked is asked the next time. */
	(void)lb_survey_start(&d->survey, d->envs, d->opts.workers_count, &opts);
}

static void on_look(struct lb_timer *t)
{
	struct lb_drains *d = lb_container_of(t, struct lb_drains, look);

	if (d->survey)
		on_visited(d); /* if it could not say that it is over */
	else
		survey(d);
	go_on(d);
}

static uint64_t left_ms(const struct lb_drain *drain, uint64_t now)
{
	if (drain->until_ms == LB_DRAIN_NEVER)
		return LB_DRAIN_NEVER;
	return drain->until_ms > now ? drain->until_ms - now : 0;
}

/* The next look: soon enough for the next deadline. None while nobody drains who has flows. */
static void go_on(struct lb_drains *d)
{
	uint64_t now = lb_clock_ms(), ms = LB_DRAIN_NEVER;

	lb_list_for_each (node, &d->drains) {
		const struct lb_drain *drain = lb_container_of(node, struct lb_drain, node);
		uint64_t left = left_ms(drain, now);

		if (!is_at_work(drain))
			continue;
		if (ms > LOOK_MS)
			ms = LOOK_MS;
		if (left && left < ms)
			ms = left;
	}
	if (ms != LB_DRAIN_NEVER)
		lb_timer_start(d->opts.loop, &d->look, ms);
	else
		lb_timer_stop(d->opts.loop, &d->look);
}

/* --- for everybody ---------------------------------------------------------------------------- */

static int add(struct lb_drains *d, const struct lb_rule *rule, struct lb_backend *b,
	       struct lb_drain **ret)
{
	struct lb_drain *drain = calloc(1, sizeof(*drain));

	if (!drain)
		return -ENOMEM;
	drain->rule = rule;
	drain->backend = lb_pool_hold(b);
	drain->begun_ms = lb_clock_ms();
	lb_list_append(&d->drains, &drain->node);
	__atomic_store_n(&b->drain, drain, __ATOMIC_RELEASE);
	*ret = drain;
	return 0;
}

static void mark(const struct lb_rule *rule, struct lb_backend *b, bool on)
{
	int err = lb_select_mark(rule->select, b, LB_BACKEND_DRAINS, on);

	if (err)
		lb_warn("rule %s: shares are uneven: %s", rule->config->name, strerror(-err));
}

static void tell_begin(const struct lb_drain *drain, uint64_t ms)
{
	char when[64] = "none is ever cut";

	if (ms != LB_DRAIN_NEVER)
		(void)snprintf(when, sizeof(when), "what is left in %.1f s is cut",
			       (double)ms / 1000);
	lb_info("rule %s: backend %s drains: it has %llu flows; %s", drain->rule->config->name,
		drain->backend->config->addr, (unsigned long long)drain->had, when);
}

int lb_drain_begin(struct lb_drains *d, const struct lb_rule *rule, struct lb_backend *b,
		   uint64_t ms, bool quietly)
{
	struct lb_drain *drain = drain_of(b);
	uint64_t now = lb_clock_ms();
	int err = drain ? 0 : add(d, rule, b, &drain);

	if (err)
		return err;
	mark(rule, b, true);
	/* After that: from here on they become fewer. */
	drain->had = flows_of(b) + closed_of(drain) + drain->cut;
	drain->done = !flows_of(b);
	drain->until_ms = ms < LB_DRAIN_NEVER - now ? now + ms : LB_DRAIN_NEVER;
	__atomic_store_n(&b->drain_until_ms,
			 drain->until_ms == LB_DRAIN_NEVER ? 0 : drain->until_ms, __ATOMIC_RELAXED);
	if (!quietly)
		tell_begin(drain, ms);
	if (!d->survey)
		survey(d);
	go_on(d);
	return 0;
}

bool lb_drain_end(struct lb_drains *d, const struct lb_rule *rule, struct lb_backend *b)
{
	struct lb_drain *drain = drain_of(b);

	if (!drain)
		return false;
	part(drain);
	mark(rule, b, false);
	lb_info("rule %s: backend %s drains no more, after %.1f s; it has %llu flows",
		rule->config->name, b->config->addr,
		(double)(lb_clock_ms() - drain->begun_ms) / 1000, (unsigned long long)flows_of(b));
	if (!d->survey)
		drain_free(drain);
	go_on(d);
	return true;
}

int lb_drain_follow(struct lb_drains *d, const struct lb_rule *rule, struct lb_backend *b)
{
	bool drains = __atomic_load_n(&b->out, __ATOMIC_RELAXED) & LB_BACKEND_DRAINS;

	if (!drains || drain_of(b))
		return 0;
	/* It has flows when they were grafted by an earlier daemon, or when it comes back. */
	return lb_drain_begin(d, rule, b, rule->config->timeouts.drain_ms, !flows_of(b));
}

void lb_drain_leave(struct lb_drains *d, struct lb_backend *b)
{
	struct lb_drain *drain = drain_of(b);

	if (!drain || !drain->done)
		return;
	part(drain);
	if (!d->survey)
		drain_free(drain);
}

bool lb_drain_report(const struct lb_drains *d, const struct lb_backend *b,
		     struct lb_drain_report *ret)
{
	const struct lb_drain *drain = drain_of(b);
	uint64_t now = lb_clock_ms();

	if (!drain)
		return false;
	*ret = (struct lb_drain_report){
		.flows = flows_of(b),
		.forecast = drain->forecast,
		.since_ms = now - drain->begun_ms,
		.cut_in_ms = left_ms(drain, now),
		.closed = closed_of(drain),
		.cut = drain->cut,
	};
	return true;
}

/* --- birth and death -------------------------------------------------------------------------- */

int lb_drains_new(struct lb_drains **ret, const struct lb_drains_opts *opts)
{
	LB_AUTO(lb_drains_free) struct lb_drains *d = calloc(1, sizeof(*d));

	if (!d)
		return -ENOMEM;
	d->opts = *opts;
	lb_list_init(&d->drains);
	lb_timer_init(&d->look, on_look);
	d->envs = calloc(opts->workers_count + 1, sizeof(struct lb_flow_env *));
	if (!d->envs)
		return -ENOMEM;
	for (uint32_t i = 0; i < opts->workers_count; i++)
		d->envs[i] = lb_worker_env(opts->workers[i]);
	*ret = LB_TAKE_PTR(d);
	return 0;
}

void lb_drains_stop(struct lb_drains *d)
{
	if (d)
		lb_survey_free(&d->survey);
}

void lb_drains_free(struct lb_drains **pd)
{
	struct lb_drains *d = *pd;

	if (!d)
		return;
	*pd = NULL;
	while (!lb_list_empty(&d->drains))
		drain_free(lb_container_of(d->drains.next, struct lb_drain, node));
	free(d->envs);
	free(d);
}
