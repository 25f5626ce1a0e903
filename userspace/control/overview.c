/* SPDX-License-Identifier: MIT */
/*
 * Decides what is told of the service as a whole. Must never count anything itself, nor tell who
 * the clients are: the page shows it to whoever reaches the address.
 */
#include "control/overview.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "control/backend_row.h"
#include "control/service.h"
#include "kernel/admit.h"

/* As many rules and backends as a person might look at; a browser asks every two seconds. */
#define PAGE_ROWS_MAX 1000u

static const struct lb_carrier *const carriers[] = {&lb_relay, &lb_sockmap, &lb_graft};

static const char *const admit_verdicts[] = {
#define LB_ADMIT_VERDICT(symbol, word, help) #word,
#include <lb/admit_verdicts.def>
#undef LB_ADMIT_VERDICT
};

static const enum lb_reason refusals[] = {
#define LB_REASON(symbol, word, help)
#define LB_REFUSAL(symbol, word, help) LB_REASON_##symbol,
#include <lb/reasons.def>
#undef LB_REASON
};

struct view {
	struct lb_admin_text *text;
	struct lb_service *service;
	const struct lb_overview_opts *opts;
	const struct lb_rule *rules;
	size_t rules_count;
	struct lb_counters *sums; /* by rule */
	json_t **refusals;        /* likewise; of those that are shown */
	size_t rows, left_out;
};

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

/* A rule, or a route of one (sni), which has nothing but backends of its own .. */
static bool has_pool(const struct view *v, size_t rule)
{
	return v->rules[rule].config && !lb_service_is_gone(v->service, rule);
}

/* .. or a rule. */
static bool is_shown(const struct view *v, size_t rule)
{
	return has_pool(v, rule) && !v->rules[rule].of;
}

/* True when there is room for one more row. */
static bool take_row(struct view *v)
{
	if (v->rows < v->opts->rows_max) {
		v->rows++;
		return true;
	}
	v->left_out++;
	return false;
}

/* --- refusals --------------------------------------------------------------------------------- */

static void add_to(json_t *words, const char *word, uint64_t n)
{
	json_t *before = json_object_get(words, word);

	if (n)
		json_object_set_new(words, word, number(n + (uint64_t)json_integer_value(before)));
}

/* Words of reasons.def and admit_verdicts.def that were given at all, each with how often. */
static void add_refusals(json_t *words, const struct lb_rule *rule, const struct lb_counters *c)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(refusals); i++)
		add_to(words, lb_reason_word(refusals[i]), c->ends[refusals[i]]);
	for (int h = 0; rule->admit && h < LB_ADMIT_HOOK_MAX_; h++) {
		struct lb_admit_counts n;

		if (!lb_admit_counts(rule->admit, rule->index, h, &n))
			continue;
		for (int i = LB_ADMIT_PASSED + 1; i < LB_ADMIT_VERDICT_MAX_; i++)
			add_to(words, admit_verdicts[i], n.n[i]);
	}
}

/* --- the whole -------------------------------------------------------------------------------- */

static json_t *reload(struct lb_service *s)
{
	struct lb_reload_report r = lb_service_reloads(s);

	return json_pack("{s:I,s:I,s:I,s:I,s:b}", "generation", (json_int_t)r.generation, "applied",
			 (json_int_t)r.applied, "refused", (json_int_t)r.refused, "last_s",
			 (json_int_t)r.last_s, "last_applied", r.results & 1 || !r.last_s);
}

static json_t *head(struct lb_service *s, const struct lb_overview_opts *opts)
{
	return json_pack("{s:s,s:s?,s:i,s:s,s:I,s:i,s:I,s:I,s:o}", "version", LB_VERSION,
			 "instance", opts->instance, "pid", (int)getpid(), "state",
			 lb_service_is_draining(s) ? "draining" : "serving", "start_ms",
			 (json_int_t)lb_service_start_ms(s), "workers", (int)lb_service_workers(s),
			 "flows", (json_int_t)lb_service_flows(s), "access_log_dropped",
			 (json_int_t)lb_service_log_dropped(s), "reload", reload(s));
}

static json_t *counts(const struct lb_counters *c, json_t *words)
{
	return json_pack("{s:I,s:I,s:I,s:o}", "connections", (json_int_t)c->connections, "bytes_up",
			 (json_int_t)c->bytes[0], "bytes_down", (json_int_t)c->bytes[1], "refusals",
			 words);
}

static json_t *total(const struct view *v, struct lb_counters *all)
{
	json_t *words = json_object();

	for (size_t i = 0; i < v->rules_count; i++) {
		if (!is_shown(v, i))
			continue;
		lb_account_add(all, &v->sums[i]);
		v->refusals[i] = json_object();
		add_refusals(v->refusals[i], &v->rules[i], &v->sums[i]);
		for (void *at = json_object_iter(v->refusals[i]); at;
		     at = json_object_iter_next(v->refusals[i], at))
			add_to(words, json_object_iter_key(at),
			       (uint64_t)json_integer_value(json_object_iter_value(at)));
	}
	return counts(all, words);
}

/* Flows that are on it, and how many have room; null: nobody counts them, or any number has. */
static json_t *carrier(const struct view *v, const struct lb_carrier *c, uint64_t bytes)
{
	struct lb_graft_table *table = lb_service_graft_table(v->service);
	enum lb_why why = LB_WHY_NONE;
	json_t *flows = json_null(), *max = json_null();
	uint64_t room;

	if (c->id == LB_CARRIER_SOCKMAP) {
		why = lb_service_kernel(v->service)->why;
		flows = number(lb_service_sockmap_flows(v->service, &room));
		max = number(room);
	} else if (c->id == LB_CARRIER_GRAFT) {
		if (!table)
			why = lb_service_graft(v->service)->why;
		flows = number(lb_service_grafts(v->service));
		max = number(table ? lb_graft_table_pairs(table) : 0);
	}
	return json_pack("{s:s,s:b,s:s,s:o,s:o,s:I}", "carrier", c->name, "in_service",
			 c->id != LB_CARRIER_GRAFT ? why == LB_WHY_NONE : table != NULL, "why",
			 lb_why_word(why), "flows", flows, "flows_max", max, "bytes",
			 (json_int_t)bytes);
}

static json_t *rule(const struct view *v, size_t i)
{
	const struct lb_rule *rule = &v->rules[i];
	const struct lb_counters *c = &v->sums[i];
	const struct lb_service_pools pools = lb_service_pools(v->service, rule);
	char listen[LB_ADDR_STR_MAX];
	json_t *row = counts(c, json_incref(v->refusals[i]));

	if (row && json_object_update_new(
			   row, json_pack("{s:s,s:s,s:I,s:I,s:i,s:i,s:{s:I,s:I,s:I}}", "rule",
					  rule->config->name, "listen",
					  lb_addr_format(&rule->config->listen, listen), "flows",
					  (json_int_t)c->active, "queued", (json_int_t)pools.queued,
					  "backends", (int)pools.all, "backends_eligible",
					  (int)pools.eligible, "carrier_bytes", "relay",
					  (json_int_t)c->carrier_bytes[LB_CARRIER_RELAY], "sockmap",
					  (json_int_t)c->carrier_bytes[LB_CARRIER_SOCKMAP], "graft",
					  (json_int_t)c->carrier_bytes[LB_CARRIER_GRAFT]))) {
		json_decref(row);
		return NULL;
	}
	return row;
}

/* --- writing ---------------------------------------------------------------------------------- */

static void write_rules(struct view *v)
{
	lb_admin_text_begin_list(v->text, "rules");
	for (size_t i = 0; i < v->rules_count; i++)
		if (is_shown(v, i) && take_row(v))
			lb_admin_text_add(v->text, rule(v, i));
	lb_admin_text_end_list(v->text);
}

static int write_backends_of(struct view *v, const struct lb_rule *rule)
{
	struct lb_backend **all = NULL;
	uint32_t count = 0;
	int err = lb_pool_snapshot(rule->pool, &all, &count);

	for (uint32_t i = 0; i < count && !err; i++)
		if (take_row(v))
			lb_admin_text_add(v->text, lb_backend_row(rule, all[i]));
	lb_pool_snapshot_free(&all, count);
	return err;
}

static int write_all(struct view *v)
{
	struct lb_counters all = {0};
	int err = 0;

	/* The clock of whoever looks twice: that of the counters. */
	lb_admin_text_add_member(v->text, "uptime_ms",
				 number(lb_clock_ms() - lb_service_start_ms(v->service)));
	lb_admin_text_add_member(v->text, "total", total(v, &all));
	lb_admin_text_begin_list(v->text, "carriers");
	for (size_t i = 0; i < LB_ARRAY_SIZE(carriers); i++)
		lb_admin_text_add(v->text,
				  carrier(v, carriers[i], all.carrier_bytes[carriers[i]->id]));
	lb_admin_text_end_list(v->text);
	write_rules(v);
	lb_admin_text_begin_list(v->text, "backends");
	for (size_t i = 0; i < v->rules_count && !err; i++)
		if (has_pool(v, i))
			err = write_backends_of(v, &v->rules[i]);
	lb_admin_text_end_list(v->text);
	lb_admin_text_add_member(v->text, "left_out", number(v->left_out));
	lb_admin_text_end(v->text);
	return err;
}

int lb_overview_write(struct lb_admin_text *t, struct lb_service *s,
		      const struct lb_overview_opts *opts)
{
	LB_AUTO_FREE struct lb_counters *sums = NULL;
	LB_AUTO_FREE json_t **words = NULL;
	struct view v = {.text = t, .service = s, .opts = opts};
	json_t *first = head(s, opts);
	int err = -ENOMEM;

	if (!first)
		return err;
	lb_admin_text_begin(t, first);
	lb_service_hold(s);
	v.rules_count = lb_service_rules(s, &v.rules);
	v.sums = sums = calloc(v.rules_count + 1, sizeof(*sums));
	v.refusals = words = calloc(v.rules_count + 1, sizeof(json_t *));
	if (sums && words)
		err = lb_service_collect(s, sums);
	if (!err)
		err = write_all(&v);
	for (size_t i = 0; words && i < v.rules_count; i++)
		json_decref(words[i]);
	lb_service_let_go(s);
	return err;
}

int lb_overview_render(char **ret, size_t *len, void *service)
{
	const struct lb_overview_opts opts = {.rows_max = PAGE_ROWS_MAX};
	struct lb_admin_text text = {0};
	int err = lb_overview_write(&text, service, &opts);

	if (!err && text.failed)
		err = -ENOMEM;
	if (err) {
		lb_admin_text_fini(&text);
		return err;
	}
	*ret = text.bytes;
	*len = text.len;
	return 0;
}
