/* SPDX-License-Identifier: MIT */
/*
 * What is asked and told of backends: the list of them, drain, weight, enable, disable. All of it
 * is done in the thread that watches over them, which alone changes their state; the job is away
 * meanwhile. A name that stands for several addresses means all of them, those that come later too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/admin_job.h"
#include "control/backend_row.h"
#include "control/backends.h"
#include "control/drain.h"
#include "control/health.h"
#include "control/service.h"

/* --- the list --------------------------------------------------------------------------------- */

static json_t *number_unless(uint64_t n, uint64_t none)
{
	return n == none ? json_null() : json_integer((json_int_t)n);
}

static json_t *json_of_drain(const struct lb_drains *drains, const struct lb_backend *b)
{
	struct lb_drain_report r;

	if (!lb_drain_report(drains, b, &r))
		return json_null();
	return json_pack(
		"{s:I,s:I,s:I,s:f,s:o,s:o,s:I,s:I,s:I}", "flows", (json_int_t)r.flows, "idle",
		(json_int_t)r.forecast.idle, "bytes_per_second",
		(json_int_t)r.forecast.bytes_per_second, "ends_per_second",
		r.forecast.ends_per_second, "cut_in_ms", number_unless(r.cut_in_ms, LB_DRAIN_NEVER),
		"gone_in_ms",
		number_unless(r.flows ? lb_forecast_gone_ms(&r.forecast) : 0, LB_FORECAST_UNKNOWN),
		"since_ms", (json_int_t)r.since_ms, "closed_idle", (json_int_t)r.closed, "cut",
		(json_int_t)r.cut);
}

static json_t *json_of(const struct lb_drains *drains, const struct lb_rule *rule,
		       const struct lb_backend *b)
{
	json_int_t share = (json_int_t)((uint64_t)b->weight * 100 / b->whole_weight);
	json_t *row = lb_backend_row(rule, b);
	char node[LB_WIRE_NAME_MAX];

	if (row && json_object_update_new(row, json_pack("{s:I,s:s?,s:o}", "share_percent", share,
							 "checked_by", lb_health_source(b, node),
							 "drain", json_of_drain(drains, b)))) {
		json_decref(row);
		return NULL;
	}
	return row;
}

static int list_rule(struct lb_admin_job *job, const struct lb_rule *rule)
{
	const struct lb_drains *drains = lb_backends_drains(job->opts->backends);
	struct lb_backend **all = NULL;
	uint32_t count = 0;
	int err = lb_pool_snapshot(rule->pool, &all, &count);

	for (uint32_t i = 0; i < count && !err; i++)
		lb_admin_text_add(&job->reply, json_of(drains, rule, all[i]));
	lb_pool_snapshot_free(&all, count);
	return err;
}

static struct lb_rule *find_rule(const struct lb_admin_job *job)
{
	struct lb_rule *rules;
	size_t count = lb_backends_rules(job->opts->backends, &rules);

	for (size_t i = 0; i < count; i++)
		if (lb_backends_is_served(job->opts->backends, i) &&
		    !strcmp(rules[i].config->name, job->request.rule))
			return &rules[i];
	return NULL;
}

static void list(struct lb_admin_job *job)
{
	struct lb_rule *rules, *only = NULL;
	size_t count = lb_backends_rules(job->opts->backends, &rules);
	int err = 0;

	if (job->request.rule) {
		only = find_rule(job);
		if (!only) {
			lb_admin_text_refuse(&job->reply, "no such rule");
			return;
		}
	}
	lb_admin_text_begin(&job->reply, NULL);
	lb_admin_text_begin_list(&job->reply, "backends");
	for (size_t i = 0; i < count && !err; i++)
		if (lb_backends_is_served(job->opts->backends, i) && (!only || only == &rules[i]))
			err = list_rule(job, &rules[i]);
	lb_admin_text_end_list(&job->reply);
	lb_admin_text_end(&job->reply);
	if (err)
		lb_admin_text_refuse(&job->reply, "out of memory");
}

/* --- changes ---------------------------------------------------------------------------------- */

/* What a name stands for: all backends of an entry, or the one at an address. */
struct target {
	struct lb_rule *rule;
	struct lb_backend **all; /* of the rule; held */
	uint32_t count;
	struct lb_pool_entry *entry; /* NULL: the one at .. */
	struct lb_backend *one;
};

static bool is_meant(const struct target *t, const struct lb_backend *b)
{
	return t->entry ? b->entry == t->entry : b == t->one;
}

static void find_backend(struct target *t, const char *name)
{
	struct lb_addr addr;
	bool numeric = !lb_addr_parse(name, &addr);

	for (uint32_t i = 0; i < t->count && !t->entry; i++) {
		if (!strcmp(t->all[i]->config->addr, name))
			t->entry = t->all[i]->entry;
		else if (numeric && lb_addr_equal(&t->all[i]->addr, &addr))
			t->one = t->all[i];
	}
}

/* False: refused. To be let go with target_fini(). */
static bool find_target(struct lb_admin_job *job, struct target *t)
{
	*t = (struct target){.rule = find_rule(job)};
	if (!t->rule) {
		lb_admin_text_refuse(&job->reply, "no such rule");
		return false;
	}
	if (lb_pool_snapshot(t->rule->pool, &t->all, &t->count)) {
		lb_admin_text_refuse(&job->reply, "out of memory");
		return false;
	}
	find_backend(t, job->request.backend);
	if (t->entry || t->one)
		return true;
	lb_admin_text_refuse(&job->reply, "no such backend in this rule");
	lb_pool_snapshot_free(&t->all, t->count);
	return false;
}

/* What is said of the whole entry holds for those that come later. */
static void note_in_entry(const struct target *t, uint8_t bit, bool on)
{
	if (!t->entry)
		return;
	t->entry->out = (uint8_t)(on ? t->entry->out | bit : t->entry->out & ~bit);
}

static void reply(struct lb_admin_job *job, json_t *more)
{
	json_t *head =
		json_pack("{s:s,s:s}", "rule", job->request.rule, "backend", job->request.backend);

	if (head && more)
		json_object_update_new(head, more);
	lb_admin_text_begin(&job->reply, head);
	lb_admin_text_end(&job->reply);
}

static void drain(struct lb_admin_job *job, struct target *t)
{
	uint64_t ms = job->request.deadline_ms, flows = 0;
	int err = 0;

	if (ms == LB_ADMIN_AS_CONFIGURED)
		ms = t->rule->config->timeouts.drain_ms;
	for (uint32_t i = 0; i < t->count && !err; i++) {
		if (!is_meant(t, t->all[i]))
			continue;
		flows += __atomic_load_n(&t->all[i]->active, __ATOMIC_RELAXED);
		err = lb_drain_begin(lb_backends_drains(job->opts->backends), t->rule, t->all[i],
				     ms, false);
	}
	if (err) {
		lb_admin_text_refuse(&job->reply, "out of memory");
		return;
	}
	note_in_entry(t, LB_BACKEND_DRAINS, true);
	reply(job, json_pack("{s:I,s:o}", "flows", (json_int_t)flows, "deadline_ms",
			     number_unless(ms, LB_ADMIN_NEVER)));
}

static void undrain(struct lb_admin_job *job, struct target *t)
{
	bool any = false;

	for (uint32_t i = 0; i < t->count; i++)
		if (is_meant(t, t->all[i]))
			any |= lb_drain_end(lb_backends_drains(job->opts->backends), t->rule,
					    t->all[i]);
	note_in_entry(t, LB_BACKEND_DRAINS, false);
	if (any)
		reply(job, NULL);
	else
		lb_admin_text_refuse(&job->reply, "it does not drain");
}

static void tell_uneven(const struct target *t, int err)
{
	if (err)
		lb_warn("rule %s: shares are uneven: %s", t->rule->config->name, strerror(-err));
}

static void disable(struct lb_admin_job *job, struct target *t, bool on)
{
	bool any = false;

	for (uint32_t i = 0; i < t->count; i++) {
		struct lb_backend *b = t->all[i];

		if (!is_meant(t, b) || !!(b->out & LB_BACKEND_DISABLED) == on)
			continue;
		any = true;
		tell_uneven(t, lb_select_mark(t->rule->select, b, LB_BACKEND_DISABLED, on));
	}
	note_in_entry(t, LB_BACKEND_DISABLED, on);
	if (!any) {
		lb_admin_text_refuse(&job->reply,
				     on ? "it is disabled already" : "it is not disabled");
		return;
	}
	lb_info("rule %s: backend %s is %s by lbctl", t->rule->config->name, job->request.backend,
		on ? "disabled" : "enabled");
	reply(job, NULL);
}

static void weigh(struct lb_admin_job *job, struct target *t)
{
	uint32_t before = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		struct lb_backend *b = t->all[i];

		if (!is_meant(t, b))
			continue;
		before = b->whole_weight / LB_WEIGHT_UNIT;
		b->whole_weight = job->request.weight * LB_WEIGHT_UNIT;
		lb_health_reweigh(t->rule, b);
	}
	if (t->entry)
		t->entry->whole_weight = job->request.weight * LB_WEIGHT_UNIT;
	lb_info("rule %s: backend %s: weight %u instead of %u, by lbctl", t->rule->config->name,
		job->request.backend, job->request.weight, before);
	reply(job,
	      json_pack("{s:i,s:i}", "weight", (int)job->request.weight, "before", (int)before));
}

static void change(struct lb_admin_job *job)
{
	struct target t;

	if (!find_target(job, &t))
		return;
	switch (job->request.verb) {
	case LB_ADMIN_DRAIN:
		drain(job, &t);
		break;
	case LB_ADMIN_UNDRAIN:
		undrain(job, &t);
		break;
	case LB_ADMIN_WEIGHT:
		weigh(job, &t);
		break;
	default:
		disable(job, &t, job->request.verb == LB_ADMIN_DISABLE);
	}
	lb_pool_snapshot_free(&t.all, t.count);
}

/* --- there and back --------------------------------------------------------------------------- */

static void do_it(void *arg)
{
	struct lb_admin_job *job = arg;

	if (job->request.verb == LB_ADMIN_BACKENDS)
		list(job);
	else
		change(job);
	lb_admin_job_back(job);
}

/* The byte counters of backends follow those of the rules: these are asked first. */
static int bring_up_to_date(struct lb_service *s)
{
	LB_AUTO_FREE struct lb_counters *sums = NULL;
	const struct lb_rule *rules;
	int err;

	lb_service_hold(s);
	sums = calloc(lb_service_rules(s, &rules) + 1, sizeof(*sums));
	err = sums ? lb_service_collect(s, sums) : -ENOMEM;
	lb_service_let_go(s);
	return err;
}

void lb_admin_answer_backends(struct lb_admin_job *job)
{
	if (job->request.verb == LB_ADMIN_BACKENDS && bring_up_to_date(job->opts->service)) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	lb_admin_job_leave(job, lb_admin_job_end);
	if (!lb_backends_post(job->opts->backends, do_it, job))
		return;
	lb_admin_job_stay(job);
	lb_admin_job_refuse(job, "out of memory");
}
