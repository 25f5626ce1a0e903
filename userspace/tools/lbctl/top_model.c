/* SPDX-License-Identifier: MIT */
/* See top_model.h. Must never show a rate between two daemons. */
#include "tools/lbctl/top_model.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/lbctl/top_rows.h"
#include "tools/lbctl/word.h"

void lb_top_init(struct lb_top *t)
{
	*t = (struct lb_top){.interval_ms = 2000, .page = 1};
	for (int v = 0; v < LB_TOP_TABLES_; v++)
		t->sort[v] = lb_top_sort_by_default((enum lb_top_view)v);
}

static void drop_before(struct lb_top *t)
{
	json_decref(t->rows_before);
	json_decref(t->before);
	t->rows_before = t->before = NULL;
}

void lb_top_fini(struct lb_top *t)
{
	drop_before(t);
	json_decref(t->now);
	json_decref(t->flows);
	json_decref(t->clients);
	json_decref(t->refusals);
	*t = (struct lb_top){0};
}

struct lb_top_place *lb_top_here(const struct lb_top *t)
{
	return (struct lb_top_place *)&t->places[t->depth];
}

/* --- samples ---------------------------------------------------------------------------------- */

/* Numbers that a place in the order of replies would have to be found by. */
static int index_list(json_t *index, const json_t *sample, const char *list, enum lb_top_view view)
{
	char key[LB_TOP_KEY_BYTES];
	json_t *row;
	size_t i;

	json_array_foreach(json_object_get(sample, list), i, row)
	{
		if (json_object_set_nocheck(index, lb_top_row_key(view, row, key), row))
			return -ENOMEM;
	}
	return 0;
}

/* 0, or -ENOMEM and there is nothing to compare with. */
static int remember(struct lb_top *t, json_t *sample)
{
	json_t *index = json_object();

	drop_before(t);
	if (!index || index_list(index, sample, "rules", LB_TOP_RULES) ||
	    index_list(index, sample, "backends", LB_TOP_BACKENDS) ||
	    index_list(index, sample, "carriers", LB_TOP_CARRIERS) ||
	    json_object_set_nocheck(index, LB_TOP_NAME_OF_TOTAL,
				    json_object_get(sample, "total"))) {
		json_decref(index);
		return -ENOMEM;
	}
	t->rows_before = index;
	t->before = json_incref(sample);
	return 0;
}

static double elapsed_ms(const struct lb_top *t)
{
	/* Of another daemon, whatever its pid: 1 in a container. */
	if (!t->before || lb_top_number(t->before, "start_ms") != lb_top_number(t->now, "start_ms"))
		return 0;
	return lb_top_number(t->now, "uptime_ms") - lb_top_number(t->before, "uptime_ms");
}

int lb_top_take_overview(struct lb_top *t, json_t *reply)
{
	int err = 0;

	if (!json_is_true(json_object_get(reply, "ok")) ||
	    !json_is_object(json_object_get(reply, "total"))) {
		json_decref(reply);
		return -EINVAL;
	}
	if (t->now)
		err = remember(t, t->now);
	json_decref(t->now);
	t->now = reply;
	if (elapsed_ms(t) <= 0)
		drop_before(t);
	json_decref(t->refusals);
	t->refusals = lb_top_refusals_of(reply);
	return err || !t->refusals ? -ENOMEM : 0;
}

int lb_top_take_flows(struct lb_top *t, json_t *reply)
{
	if (!json_is_array(json_object_get(reply, "flows"))) {
		json_decref(reply);
		return -EINVAL;
	}
	json_decref(t->flows);
	t->flows = reply;
	json_decref(t->clients);
	t->clients = lb_top_clients_of(json_object_get(reply, "flows"));
	return t->clients ? 0 : -ENOMEM;
}

void lb_top_forget(struct lb_top *t)
{
	drop_before(t);
}

void lb_top_ask_flows(const struct lb_top *t, struct lb_ask *ask, uint32_t over_ms)
{
	const struct lb_top_place *here = lb_top_here(t);
	const struct {
		const char *key, *value;
	} words[] = {{"rule", here->rule},
		     {"backend", here->backend},
		     {"client", here->client},
		     {"carrier", here->carrier}};
	char number[16];

	*ask = (struct lb_ask){0};
	lb_ask_add(ask, "flows");
	lb_ask_add_option(ask, "sort", "rate");
	(void)snprintf(number, sizeof(number), "%u", LB_TOP_FLOWS_ASKED);
	lb_ask_add_option(ask, "limit", number);
	(void)snprintf(number, sizeof(number), "%u", over_ms);
	lb_ask_add_option(ask, "over_ms", number);
	for (size_t i = 0; i < LB_ARRAY_SIZE(words); i++)
		if (*words[i].value)
			lb_ask_add_option(ask, words[i].key, words[i].value);
}

/* --- rates ------------------------------------------------------------------------------------ */

double lb_top_number(const json_t *row, const char *key)
{
	const json_t *n = json_object_get(row, key);

	return json_is_number(n) && json_number_value(n) >= 0 ? json_number_value(n)
							      : LB_TOP_UNKNOWN;
}

double lb_top_sum(double a, double b)
{
	return a < 0 || b < 0 ? LB_TOP_UNKNOWN : a + b;
}

static double per_second(const struct lb_top *t, double now, double before)
{
	double ms = elapsed_ms(t);

	/* A counter that went back is another one: a rule that was removed and came again. */
	if (now < 0 || before < 0 || now < before || ms <= 0)
		return LB_TOP_UNKNOWN;
	return (now - before) * 1000 / ms;
}

double lb_top_rate(const struct lb_top *t, const char *name, const json_t *row, const char *key)
{
	const json_t *before = json_object_get(t->rows_before, name);

	return per_second(t, lb_top_number(row, key), lb_top_number(before, key));
}

double lb_top_rate_in(const struct lb_top *t, const char *name, const json_t *row, const char *key,
		      const char *word)
{
	const json_t *before = json_object_get(t->rows_before, name);
	double was = lb_top_number(json_object_get(before, key), word);
	double is = lb_top_number(json_object_get(row, key), word);

	if (!json_is_object(json_object_get(before, key)))
		return LB_TOP_UNKNOWN;
	return per_second(t, is < 0 ? 0 : is, was < 0 ? 0 : was);
}

/* --- keys ------------------------------------------------------------------------------------- */

static void show_view(struct lb_top *t, enum lb_top_view view)
{
	struct lb_top_place *here = lb_top_here(t);

	if (here->view == LB_TOP_FLOW && t->depth) {
		t->depth--;
		here = lb_top_here(t);
	}
	here->view = view;
	here->first = 0;
	*here->selected = '\0';
}

static void step_view(struct lb_top *t, int by)
{
	int view = (int)lb_top_here(t)->view;

	if (view >= LB_TOP_TABLES_)
		return;
	show_view(t, (enum lb_top_view)((view + LB_TOP_TABLES_ + by) % LB_TOP_TABLES_));
}

static void step_sort(struct lb_top *t, int by)
{
	enum lb_top_view view = lb_top_here(t)->view;

	if (view >= LB_TOP_TABLES_)
		return;
	t->sort[view] = lb_top_next_sort(view, t->sort[view], by);
	t->upside_down[view] = false;
}

static void move(struct lb_top *t, ptrdiff_t by)
{
	struct lb_top_rows rows;
	ptrdiff_t at;

	if (lb_top_here(t)->view >= LB_TOP_TABLES_ || lb_top_rows_of(t, &rows))
		return;
	at = (ptrdiff_t)lb_top_selected(t, &rows) + by;
	if (at >= (ptrdiff_t)rows.count)
		at = (ptrdiff_t)rows.count - 1;
	if (at < 0)
		at = 0;
	if (rows.count)
		(void)snprintf(lb_top_here(t)->selected, sizeof(lb_top_here(t)->selected), "%s",
			       rows.rows[at].key);
	lb_top_rows_fini(&rows);
}

/* False: the name is longer than any daemon's. */
static bool narrow(char *name, size_t size, const json_t *row, const char *key)
{
	const char *text = lb_word(row, key);

	if (strlen(text) >= size)
		return false;
	(void)snprintf(name, size, "%s", text);
	return *text;
}

static bool step_into(struct lb_top_place *p, const json_t *row)
{
	switch (p->view) {
	case LB_TOP_RULES:
	case LB_TOP_REFUSALS:
		p->view = LB_TOP_BACKENDS;
		return narrow(p->rule, sizeof(p->rule), row, "rule");
	case LB_TOP_BACKENDS:
		p->view = LB_TOP_FLOWS;
		return narrow(p->rule, sizeof(p->rule), row, "rule") &&
		       narrow(p->backend, sizeof(p->backend), row, "backend");
	case LB_TOP_CLIENTS:
		p->view = LB_TOP_FLOWS;
		return narrow(p->client, sizeof(p->client), row, "client");
	case LB_TOP_CARRIERS:
		p->view = LB_TOP_FLOWS;
		return narrow(p->carrier, sizeof(p->carrier), row, "carrier");
	case LB_TOP_FLOWS:
		p->view = LB_TOP_FLOW;
		/* By its client's port it is asked for, however slow it has become. */
		return narrow(p->flow, sizeof(p->flow), row, "id") &&
		       narrow(p->client, sizeof(p->client), row, "client");
	default:
		return false;
	}
}

static void enter(struct lb_top *t)
{
	struct lb_top_place next = *lb_top_here(t);
	struct lb_top_rows rows;

	if (next.view >= LB_TOP_TABLES_ || t->depth + 1 == LB_TOP_DEPTH_MAX ||
	    lb_top_rows_of(t, &rows))
		return;
	if (rows.count && step_into(&next, rows.rows[lb_top_selected(t, &rows)].json)) {
		next.first = 0;
		*next.selected = '\0';
		t->places[++t->depth] = next;
	}
	lb_top_rows_fini(&rows);
}

static void change_interval(struct lb_top *t, bool slower)
{
	static const uint32_t steps[] = {LB_TOP_INTERVAL_MIN, 1000, 2000, 5000,
					 LB_TOP_INTERVAL_MAX};
	size_t i = 0;

	while (i + 1 < LB_ARRAY_SIZE(steps) && steps[i] < t->interval_ms)
		i++;
	if (slower && i + 1 < LB_ARRAY_SIZE(steps))
		i += steps[i] == t->interval_ms;
	else if (!slower && i)
		i--;
	t->interval_ms = steps[i];
}

static void press_in_table(struct lb_top *t, unsigned int key)
{
	ptrdiff_t page = t->page > 1 ? (ptrdiff_t)t->page - 1 : 1;
	enum lb_top_view view = lb_top_here(t)->view;

	switch (key) {
	case LB_TOP_KEY_SORT:
	case LB_TOP_KEY_SORT_BACK:
		step_sort(t, key == LB_TOP_KEY_SORT ? 1 : -1);
		break;
	case LB_TOP_KEY_REVERSE:
		if (view < LB_TOP_TABLES_)
			t->upside_down[view] = !t->upside_down[view];
		break;
	case LB_TOP_KEY_UP:
	case LB_TOP_KEY_DOWN:
		move(t, key == LB_TOP_KEY_DOWN ? 1 : -1);
		break;
	case LB_TOP_KEY_PAGE_UP:
	case LB_TOP_KEY_PAGE_DOWN:
		move(t, key == LB_TOP_KEY_PAGE_DOWN ? page : -page);
		break;
	case LB_TOP_KEY_HOME:
	case LB_TOP_KEY_END:
		move(t, key == LB_TOP_KEY_END ? PTRDIFF_MAX / 2 : -PTRDIFF_MAX / 2);
		break;
	default:
		break;
	}
}

void lb_top_press(struct lb_top *t, unsigned int key)
{
	/* Whatever is pressed closes the help. */
	if (t->help && key != LB_TOP_KEY_NONE && key != LB_TOP_KEY_QUIT) {
		t->help = false;
		return;
	}
	if (key >= LB_TOP_KEY_VIEW && key < LB_TOP_KEY_VIEW + LB_TOP_TABLES_)
		show_view(t, (enum lb_top_view)(key - LB_TOP_KEY_VIEW));
	else if (key == LB_TOP_KEY_QUIT)
		t->quit = true;
	else if (key == LB_TOP_KEY_HELP)
		t->help = true;
	else if (key == LB_TOP_KEY_PAUSE)
		t->paused = !t->paused;
	else if (key == LB_TOP_KEY_SLOWER || key == LB_TOP_KEY_FASTER)
		change_interval(t, key == LB_TOP_KEY_SLOWER);
	else if (key == LB_TOP_KEY_NEXT || key == LB_TOP_KEY_PREVIOUS)
		step_view(t, key == LB_TOP_KEY_NEXT ? 1 : -1);
	else if (key == LB_TOP_KEY_ENTER)
		enter(t);
	else if (key == LB_TOP_KEY_BACK)
		t->depth -= t->depth > 0;
	else
		press_in_table(t, key);
}
