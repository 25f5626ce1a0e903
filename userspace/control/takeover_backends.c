/* SPDX-License-Identifier: MIT */
/*
 * See takeover_backends.h. What the file says anew counts; what checks have found here already
 * counts more than what they had found there.
 */
#include "control/takeover_backends.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/backends.h"
#include "control/drain.h"
#include "control/health.h"

#define NAME_BYTES 512u

struct work {
	struct lb_backends *backends;
	json_t *all;
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool over;
	void (*fn)(struct work *w, struct lb_rule *rule, json_t *entries);
};

static const char *name_of(const struct lb_rule *rule, char name[NAME_BYTES])
{
	(void)snprintf(name, NAME_BYTES, "%s%s%s", rule->of ? rule->of->config->name : "",
		       rule->of ? "/" : "", rule->config->name);
	return name;
}

/* --- out -------------------------------------------------------------------------------------- */

static json_t *write_backend(struct work *w, const struct lb_backend *b)
{
	struct lb_health_known known = lb_health_known(b);
	struct lb_drain_report drain;
	json_t *j = json_pack("{s:b,s:b,s:I,s:i,s:I,s:b}", "asked", known.asked, "up", known.up,
			      "ejected_ms", (json_int_t)known.ejected_ms, "ejected_times",
			      (int)known.ejected_times, "slow_ms", (json_int_t)known.slow_ms,
			      "disabled", b->out & LB_BACKEND_DISABLED ? 1 : 0);

	if (lb_drain_report(lb_backends_drains(w->backends), b, &drain))
		json_object_set_new(j, "drain_ms",
				    drain.cut_in_ms == LB_DRAIN_NEVER
					    ? json_null()
					    : json_integer((json_int_t)drain.cut_in_ms));
	return j;
}

/* What the file says of it, and what is so. */
static json_t *write_entry(const struct lb_pool_entry *e)
{
	return json_pack("{s:i,s:b,s:i,s:i,s:{}}", "file_weight", (int)e->config.weight,
			 "file_drain", e->config.drain, "weight", (int)e->whole_weight, "out",
			 (int)e->out & (LB_BACKEND_DRAINS | LB_BACKEND_DISABLED), "at");
}

static void write_rule(struct work *w, struct lb_rule *rule, json_t *entries)
{
	struct lb_backend **all = NULL;
	uint32_t count = 0;

	if (lb_pool_snapshot(rule->pool, &all, &count))
		return;
	for (uint32_t i = 0; i < count; i++) {
		const char *name = all[i]->config->addr;
		json_t *entry = json_object_get(entries, name);
		char addr[LB_ADDR_STR_MAX];

		if (!entry) {
			entry = write_entry(all[i]->entry);
			json_object_set_new(entries, name, entry);
		}
		json_object_set_new(json_object_get(entry, "at"),
				    lb_addr_format(&all[i]->addr, addr), write_backend(w, all[i]));
	}
	lb_pool_snapshot_free(&all, count);
}

/* --- in --------------------------------------------------------------------------------------- */

static uint64_t number(const json_t *j, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(j, key));

	return n > 0 ? (uint64_t)n : 0;
}

static bool is_true(const json_t *j, const char *key)
{
	return json_is_true(json_object_get(j, key));
}

static void read_weight(const struct lb_rule *rule, struct lb_backend *b, const json_t *entry)
{
	uint64_t weight = number(entry, "weight");

	if (number(entry, "file_weight") != b->config->weight || !weight ||
	    weight > LB_WEIGHT_UNIT * 256u || weight == b->whole_weight)
		return;
	b->entry->whole_weight = b->whole_weight = (uint32_t)weight;
	lb_health_reweigh(rule, b);
}

static void read_drain(struct work *w, const struct lb_rule *rule, struct lb_backend *b,
		       const json_t *entry, const json_t *at)
{
	const json_t *ms = json_object_get(at, "drain_ms");
	struct lb_drains *drains = lb_backends_drains(w->backends);
	bool here = b->out & LB_BACKEND_DRAINS;

	if (is_true(entry, "file_drain") != b->config->drain)
		return;
	if (!ms && here) {
		(void)lb_drain_end(drains, rule, b);
		b->entry->out &= (uint8_t)~LB_BACKEND_DRAINS;
	}
	if (!ms)
		return;
	(void)lb_drain_begin(drains, rule, b,
			     json_is_integer(ms) ? number(at, "drain_ms") : LB_DRAIN_NEVER, true);
	if (number(entry, "out") & LB_BACKEND_DRAINS)
		b->entry->out |= LB_BACKEND_DRAINS;
}

static void read_disabled(const struct lb_rule *rule, struct lb_backend *b, const json_t *entry,
			  const json_t *at)
{
	if (number(entry, "out") & LB_BACKEND_DISABLED)
		b->entry->out |= LB_BACKEND_DISABLED;
	if (!is_true(at, "disabled") || b->out & LB_BACKEND_DISABLED)
		return;
	if (lb_select_mark(rule->select, b, LB_BACKEND_DISABLED, true))
		lb_warn("rule %s: shares are uneven: no memory", rule->config->name);
}

static void read_backend(struct work *w, const struct lb_rule *rule, struct lb_backend *b,
			 const json_t *entry)
{
	char addr[LB_ADDR_STR_MAX];
	const json_t *at =
		json_object_get(json_object_get(entry, "at"), lb_addr_format(&b->addr, addr));
	const struct lb_health_known known = {
		.asked = is_true(at, "asked"),
		.up = is_true(at, "up"),
		.ejected_ms = number(at, "ejected_ms"),
		.ejected_times = (uint32_t)number(at, "ejected_times"),
		.slow_ms = number(at, "slow_ms"),
	};

	read_weight(rule, b, entry);
	if (!at)
		return;
	read_drain(w, rule, b, entry, at);
	read_disabled(rule, b, entry, at);
	lb_health_restore(b, &known);
}

static void read_rule(struct work *w, struct lb_rule *rule, json_t *entries)
{
	struct lb_backend **all = NULL;
	uint32_t count = 0;

	if (lb_pool_snapshot(rule->pool, &all, &count))
		return;
	for (uint32_t i = 0; i < count; i++)
		read_backend(w, rule, all[i], json_object_get(entries, all[i]->config->addr));
	lb_pool_snapshot_free(&all, count);
}

/* --- there and back --------------------------------------------------------------------------- */

static void do_all(struct work *w)
{
	char name[NAME_BYTES];
	struct lb_rule *rules;
	size_t count = lb_backends_rules(w->backends, &rules);

	for (size_t i = 0; i < count; i++) {
		json_t *entries;

		if (!lb_backends_is_served(w->backends, i))
			continue;
		entries = json_object_get(w->all, name_of(&rules[i], name));
		if (!entries && w->fn == write_rule) {
			entries = json_object();
			json_object_set_new(w->all, name, entries);
		}
		if (entries)
			w->fn(w, &rules[i], entries);
	}
}

static void do_work(void *arg)
{
	struct work *w = arg;

	do_all(w);
	pthread_mutex_lock(&w->lock);
	w->over = true;
	pthread_cond_signal(&w->ended);
	pthread_mutex_unlock(&w->lock);
}

static void run(struct work *w)
{
	bool posted;

	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->ended, NULL);
	/* Without memory it begins anew, as at any start. */
	posted = !lb_backends_post(w->backends, do_work, w);
	pthread_mutex_lock(&w->lock);
	while (posted && !w->over)
		pthread_cond_wait(&w->ended, &w->lock);
	pthread_mutex_unlock(&w->lock);
	pthread_cond_destroy(&w->ended);
	pthread_mutex_destroy(&w->lock);
}

json_t *lb_takeover_backends_write(struct lb_backends *b)
{
	struct work w = {.backends = b, .all = json_object(), .fn = write_rule};

	if (w.all)
		run(&w);
	return w.all;
}

void lb_takeover_backends_read(struct lb_backends *b, const json_t *all)
{
	struct work w = {.backends = b, .all = (json_t *)all, .fn = read_rule};

	if (json_is_object(all))
		run(&w);
}
