/* SPDX-License-Identifier: MIT */
/* See top_rows.h. */
#include "tools/lbctl/top_rows.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/lbctl/word.h"

static struct lb_top_cell text(const json_t *row, const char *key)
{
	return (struct lb_top_cell){.text = lb_word(row, key)};
}

static struct lb_top_cell number(double n)
{
	return (struct lb_top_cell){.n = n};
}

static struct lb_top_cell both(const json_t *row, const char *a, const char *b)
{
	return (struct lb_top_cell){.n = lb_top_number(row, a), .m = lb_top_number(row, b)};
}

const char *lb_top_row_key(enum lb_top_view view, const json_t *row, char *key)
{
	static const char *const of[LB_TOP_TABLES_][4] = {
		[LB_TOP_RULES] = {"rule"},
		[LB_TOP_BACKENDS] = {"rule", "backend", "address", "id"},
		[LB_TOP_FLOWS] = {"id"},
		[LB_TOP_CLIENTS] = {"client"},
		[LB_TOP_CARRIERS] = {"carrier"},
		[LB_TOP_REFUSALS] = {"rule", "reason"},
	};
	size_t at = 0;

	at += (size_t)snprintf(key, LB_TOP_KEY_BYTES, "%d", (int)view);
	for (size_t i = 0; i < 4 && of[view][i] && at < LB_TOP_KEY_BYTES; i++)
		at += (size_t)snprintf(key + at, LB_TOP_KEY_BYTES - at, "\n%s",
				       lb_word(row, of[view][i]));
	return key;
}

double lb_top_refused_rate(const struct lb_top *t, const char *name, const json_t *row)
{
	json_t *words = json_object_get(row, "refusals"), *count;
	const char *word;
	double sum = 0;

	if (!json_is_object(words) || !json_object_get(t->rows_before, name))
		return LB_TOP_UNKNOWN;
	json_object_foreach(words, word, count) sum =
		lb_top_sum(sum, lb_top_rate_in(t, name, row, "refusals", word));
	return sum;
}

/* --- tables ----------------------------------------------------------------------------------- */

static const struct lb_top_column rules_columns[] = {
	{"RULE", LB_TOP_TEXT, 16, 0},      {"LISTEN", LB_TOP_TEXT, 21, 4},
	{"BACKENDS", LB_TOP_COUNTS, 8, 0}, {"FLOWS", LB_TOP_COUNT, 5, 0},
	{"QUEUE", LB_TOP_COUNT, 5, 1},     {"CONN/S", LB_TOP_RATE, 6, 0},
	{"REFUSED/S", LB_TOP_RATE, 9, 0},  {"UP/S", LB_TOP_RATE, 6, 0},
	{"DOWN/S", LB_TOP_RATE, 6, 0},     {"CONNS", LB_TOP_COUNT, 6, 5},
};

static void rules_cells(const struct lb_top *t, const json_t *row, const char *key,
			struct lb_top_cell *cells)
{
	cells[0] = text(row, "rule");
	cells[1] = text(row, "listen");
	cells[2] = both(row, "backends_eligible", "backends");
	cells[3] = number(lb_top_number(row, "flows"));
	cells[4] = number(lb_top_number(row, "queued"));
	cells[5] = number(lb_top_rate(t, key, row, "connections"));
	cells[6] = number(lb_top_refused_rate(t, key, row));
	cells[7] = number(lb_top_rate(t, key, row, "bytes_up"));
	cells[8] = number(lb_top_rate(t, key, row, "bytes_down"));
	cells[9] = number(lb_top_number(row, "connections"));
}

static const struct lb_top_column backends_columns[] = {
	{"BACKEND", LB_TOP_TEXT, 21, 0},  {"RULE", LB_TOP_TEXT, 8, 1},
	{"STATE", LB_TOP_TEXT, 8, 0},     {"ADDRESS", LB_TOP_TEXT, 21, 6},
	{"WEIGHT", LB_TOP_COUNT, 6, 5},   {"FLOWS", LB_TOP_COUNT, 5, 0},
	{"CONN/S", LB_TOP_RATE, 6, 0},    {"FAILED/S", LB_TOP_RATE, 8, 2},
	{"UP/S", LB_TOP_RATE, 6, 0},      {"DOWN/S", LB_TOP_RATE, 6, 0},
	{"CHECKS", LB_TOP_COUNTS, 11, 7}, {"LIMIT", LB_TOP_COUNT, 5, 8},
};

static void backends_cells(const struct lb_top *t, const json_t *row, const char *key,
			   struct lb_top_cell *cells)
{
	cells[0] = text(row, "backend");
	cells[1] = text(row, "rule");
	cells[2] = text(row, "state");
	cells[3] = text(row, "address");
	cells[4] = number(lb_top_number(row, "weight"));
	cells[5] = number(lb_top_number(row, "flows"));
	cells[6] = number(lb_top_rate(t, key, row, "connections"));
	cells[7] = number(lb_top_rate(t, key, row, "connect_failures"));
	cells[8] = number(lb_top_rate(t, key, row, "bytes_up"));
	cells[9] = number(lb_top_rate(t, key, row, "bytes_down"));
	cells[10] = both(row, "check_failures", "checks");
	cells[11] = number(lb_top_number(row, "limit"));
}

static const struct lb_top_column flows_columns[] = {
	{"CLIENT", LB_TOP_TEXT, 21, 0}, {"BACKEND", LB_TOP_TEXT, 14, 1},
	{"RULE", LB_TOP_TEXT, 8, 5},    {"CARRIER", LB_TOP_TEXT, 8, 0},
	{"WHY", LB_TOP_TEXT, 10, 6},    {"AGE", LB_TOP_MS, 6, 2},
	{"IDLE", LB_TOP_MS, 6, 7},      {"UP/S", LB_TOP_RATE, 6, 0},
	{"DOWN/S", LB_TOP_RATE, 6, 0},  {"RTT", LB_TOP_TIMES, 11, 3},
	{"RETR", LB_TOP_COUNTS, 7, 8},  {"BACKLOG", LB_TOP_COUNTS, 9, 4},
};

static void flows_cells(const struct lb_top *t, const json_t *row, const char *key,
			struct lb_top_cell *cells)
{
	const char *why = lb_word(row, "why");
	bool carried = *lb_word(row, "carrier");

	cells[0] = text(row, "client");
	cells[1] = text(row, "backend");
	cells[2] = text(row, "rule");
	cells[3] = text(row, carried ? "carrier" : "state");
	cells[4].text = strcmp(why, "none") ? why : "";
	cells[5] = number(lb_top_number(row, "age_ms"));
	cells[6] = number(lb_top_number(row, "idle_ms"));
	cells[7] = number(lb_top_number(row, "rate_up"));
	cells[8] = number(lb_top_number(row, "rate_down"));
	cells[9] = both(row, "rtt_client_us", "rtt_backend_us");
	cells[10] = both(row, "retransmissions_client", "retransmissions_backend");
	cells[11] = both(row, "backlog_up", "backlog_down");
}

static const struct lb_top_column clients_columns[] = {
	{"CLIENT", LB_TOP_TEXT, 21, 0},  {"FLOWS", LB_TOP_COUNT, 6, 0},
	{"UP/S", LB_TOP_RATE, 6, 0},     {"DOWN/S", LB_TOP_RATE, 6, 0},
	{"UP", LB_TOP_COUNT, 6, 1},      {"DOWN", LB_TOP_COUNT, 6, 1},
	{"BACKLOG", LB_TOP_COUNT, 7, 2}, {"OLDEST", LB_TOP_MS, 7, 3},
};

static void clients_cells(const struct lb_top *t, const json_t *row, const char *key,
			  struct lb_top_cell *cells)
{
	cells[0] = text(row, "client");
	cells[1] = number(lb_top_number(row, "flows"));
	cells[2] = number(lb_top_number(row, "rate_up"));
	cells[3] = number(lb_top_number(row, "rate_down"));
	cells[4] = number(lb_top_number(row, "bytes_up"));
	cells[5] = number(lb_top_number(row, "bytes_down"));
	cells[6] = number(lb_top_number(row, "backlog"));
	cells[7] = number(lb_top_number(row, "age_ms"));
}

static const struct lb_top_column carriers_columns[] = {
	{"CARRIER", LB_TOP_TEXT, 8, 0}, {"SERVICE", LB_TOP_TEXT, 10, 0},
	{"FLOWS", LB_TOP_COUNT, 6, 0},  {"ROOM FOR", LB_TOP_COUNT, 8, 1},
	{"BYTES/S", LB_TOP_RATE, 7, 0}, {"SHARE", LB_TOP_PERCENT, 6, 0},
	{"BYTES", LB_TOP_COUNT, 6, 0},  {"OF ALL", LB_TOP_PERCENT, 6, 2},
};

static double share(double part, double whole)
{
	if (part < 0 || whole < 0)
		return LB_TOP_UNKNOWN;
	return whole > 0 ? part * 100 / whole : 0;
}

static void carriers_cells(const struct lb_top *t, const json_t *row, const char *key,
			   struct lb_top_cell *cells)
{
	double bytes = 0, rate = 0;
	char name[LB_TOP_KEY_BYTES];
	json_t *one;
	size_t i;

	json_array_foreach(json_object_get(t->now, "carriers"), i, one)
	{
		bytes = lb_top_sum(bytes, lb_top_number(one, "bytes"));
		rate = lb_top_sum(rate, lb_top_rate(t, lb_top_row_key(LB_TOP_CARRIERS, one, name),
						    one, "bytes"));
	}
	cells[0] = text(row, "carrier");
	cells[1].text =
		json_is_true(json_object_get(row, "in_service")) ? "yes" : lb_word(row, "why");
	cells[2] = number(lb_top_number(row, "flows"));
	cells[3] = number(lb_top_number(row, "flows_max"));
	cells[4] = number(lb_top_rate(t, key, row, "bytes"));
	cells[5] = number(share(cells[4].n, rate));
	cells[6] = number(lb_top_number(row, "bytes"));
	cells[7] = number(share(cells[6].n, bytes));
}

static const struct lb_top_column refusals_columns[] = {
	{"REASON", LB_TOP_TEXT, 20, 0},
	{"RULE", LB_TOP_TEXT, 16, 0},
	{"PER S", LB_TOP_RATE, 8, 0},
	{"IN ALL", LB_TOP_COUNT, 8, 0},
};

static void refusals_cells(const struct lb_top *t, const json_t *row, const char *key,
			   struct lb_top_cell *cells)
{
	const json_t *rule = json_object_get(row, "of");
	char name[LB_TOP_KEY_BYTES];

	cells[0] = text(row, "reason");
	cells[1] = text(row, "rule");
	cells[2] = number(lb_top_rate_in(t, lb_top_row_key(LB_TOP_RULES, rule, name), rule,
					 "refusals", cells[0].text));
	cells[3] = number(lb_top_number(row, "count"));
}

static const struct {
	const struct lb_top_column *columns;
	size_t count;
	uint8_t sort; /* by default */
	void (*cells)(const struct lb_top *t, const json_t *row, const char *key,
		      struct lb_top_cell *cells);
} tables[] = {
#define TABLE(name, sort) name##_columns, LB_ARRAY_SIZE(name##_columns), sort, name##_cells
	[LB_TOP_RULES] = {TABLE(rules, 8)},       [LB_TOP_BACKENDS] = {TABLE(backends, 9)},
	[LB_TOP_FLOWS] = {TABLE(flows, 8)},       [LB_TOP_CLIENTS] = {TABLE(clients, 3)},
	[LB_TOP_CARRIERS] = {TABLE(carriers, 4)}, [LB_TOP_REFUSALS] = {TABLE(refusals, 2)},
#undef TABLE
};

size_t lb_top_columns(enum lb_top_view view, const struct lb_top_column **ret)
{
	*ret = tables[view].columns;
	return tables[view].count;
}

uint8_t lb_top_sort_by_default(enum lb_top_view view)
{
	return tables[view].sort;
}

uint8_t lb_top_next_sort(enum lb_top_view view, uint8_t sort, int by)
{
	return (uint8_t)((sort + (int)tables[view].count + by) % (int)tables[view].count);
}

/* --- rows ------------------------------------------------------------------------------------- */

static bool is(const json_t *row, const char *key, const char *wanted)
{
	return !*wanted || !strcmp(lb_word(row, key), wanted);
}

/* Of the rule, or of a route of it (sni). */
static bool is_of_rule(const json_t *row, const char *rule)
{
	return is(row, "rule", rule) || is(row, "of", rule);
}

/* "10.0.0.1" of "10.0.0.1:80", "fd00::1" of "[fd00::1]:80". */
static const char *host_of(const char *client, char host[LB_TOP_NAME_MAX])
{
	const char *end = strrchr(client, ':');
	size_t len = end ? (size_t)(end - client) : strlen(client);

	if (len >= 2 && client[0] == '[' && client[len - 1] == ']') {
		client++;
		len -= 2;
	}
	(void)snprintf(host, LB_TOP_NAME_MAX, "%.*s", (int)len, client);
	return host;
}

/* As narrow as the place is, whatever was asked for when the sample was taken. */
static bool belongs(const struct lb_top_place *here, const json_t *row)
{
	char host[LB_TOP_NAME_MAX];

	switch (here->view) {
	case LB_TOP_BACKENDS:
	case LB_TOP_REFUSALS:
		return is_of_rule(row, here->rule);
	case LB_TOP_FLOWS:
		return is_of_rule(row, here->rule) && is(row, "backend", here->backend) &&
		       is(row, "carrier", here->carrier) &&
		       (is(row, "client", here->client) ||
			!strcmp(host_of(lb_word(row, "client"), host), here->client));
	default:
		return true;
	}
}

static const json_t *list_of(const struct lb_top *t, enum lb_top_view view)
{
	switch (view) {
	case LB_TOP_RULES:
		return json_object_get(t->now, "rules");
	case LB_TOP_BACKENDS:
		return json_object_get(t->now, "backends");
	case LB_TOP_CARRIERS:
		return json_object_get(t->now, "carriers");
	case LB_TOP_CLIENTS:
		return t->clients;
	case LB_TOP_REFUSALS:
		return t->refusals;
	default:
		return json_object_get(t->flows, "flows");
	}
}

struct order {
	uint8_t column;
	bool is_text, upside_down;
};

static int compare(const void *a, const void *b, void *arg)
{
	const struct lb_top_row *x = a, *y = b;
	const struct order *o = arg;
	const struct lb_top_cell *c = &x->cells[o->column], *d = &y->cells[o->column];
	int way = o->upside_down ? -1 : 1, by;
	double n = c->n + c->m, m = d->n + d->m;

	if (o->is_text)
		by = strcmp(c->text, d->text) * way;
	else if ((n < 0) != (m < 0))
		by = n < 0 ? 1 : -1; /* what is not known is last either way */
	else
		by = (n < m) * way - (n > m) * way;
	return by ? by : strcmp(x->key, y->key);
}

int lb_top_rows_of(const struct lb_top *t, struct lb_top_rows *ret)
{
	const struct lb_top_place *here = lb_top_here(t);
	const json_t *list = list_of(t, here->view);
	struct order order = {.column = t->sort[here->view],
			      .upside_down = t->upside_down[here->view]};
	const json_t *row;
	size_t i;

	*ret = (struct lb_top_rows){.rows = calloc(json_array_size(list) + 1, sizeof(*ret->rows))};
	if (!ret->rows)
		return -ENOMEM;
	ret->columns_count = lb_top_columns(here->view, &ret->columns);
	order.is_text = ret->columns[order.column].format == LB_TOP_TEXT;
	json_array_foreach(list, i, row)
	{
		struct lb_top_row *r = &ret->rows[ret->count];

		if (!belongs(here, row))
			continue;
		r->json = row;
		tables[here->view].cells(t, row, lb_top_row_key(here->view, row, r->key), r->cells);
		ret->count++;
	}
	qsort_r(ret->rows, ret->count, sizeof(*ret->rows), compare, &order);
	return 0;
}

void lb_top_rows_fini(struct lb_top_rows *rows)
{
	free(rows->rows);
	*rows = (struct lb_top_rows){0};
}

size_t lb_top_selected(const struct lb_top *t, const struct lb_top_rows *rows)
{
	for (size_t i = 0; i < rows->count; i++)
		if (!strcmp(rows->rows[i].key, lb_top_here(t)->selected))
			return i;
	return 0;
}

const json_t *lb_top_flow(const struct lb_top *t)
{
	const json_t *row;
	size_t i;

	json_array_foreach(json_object_get(t->flows, "flows"), i, row)
	{
		if (!strcmp(lb_word(row, "id"), lb_top_here(t)->flow))
			return row;
	}
	return NULL;
}

/* --- made of samples -------------------------------------------------------------------------- */

static int add(json_t *client, const json_t *flow, const char *to, const char *from)
{
	double n = lb_top_number(flow, from);
	json_int_t sum = json_integer_value(json_object_get(client, to));

	return json_object_set_new(client, to, json_integer(sum + (n > 0 ? (json_int_t)n : 0)));
}

static int add_flow(json_t *client, const json_t *flow)
{
	static const char *const words[][2] = {
		{"rate_up", "rate_up"},    {"rate_down", "rate_down"},
		{"bytes_up", "bytes_up"},  {"bytes_down", "bytes_down"},
		{"backlog", "backlog_up"}, {"backlog", "backlog_down"},
	};
	json_int_t flows = json_integer_value(json_object_get(client, "flows"));
	double age = lb_top_number(flow, "age_ms");
	int err = json_object_set_new(client, "flows", json_integer(flows + 1));

	for (size_t i = 0; i < LB_ARRAY_SIZE(words) && !err; i++)
		err = add(client, flow, words[i][0], words[i][1]);
	if (!err && age > lb_top_number(client, "age_ms"))
		err = json_object_set_new(client, "age_ms", json_integer((json_int_t)age));
	return err;
}

json_t *lb_top_clients_of(const json_t *flows)
{
	json_t *by_host = json_object(), *list = json_array();
	char host[LB_TOP_NAME_MAX];
	const json_t *flow;
	int err = !by_host || !list;
	size_t i;

	for (i = 0; i < json_array_size(flows) && !err; i++) {
		json_t *client;

		flow = json_array_get(flows, i);
		host_of(lb_word(flow, "client"), host);
		client = json_object_get(by_host, host);
		if (!client) {
			client = json_pack("{s:s}", "client", host);
			err = json_object_set_new(by_host, host, client) ||
			      json_array_append(list, client);
		}
		err = err || add_flow(client, flow);
	}
	json_decref(by_host);
	if (!err)
		return list;
	json_decref(list);
	return NULL;
}

json_t *lb_top_refusals_of(const json_t *overview)
{
	json_t *list = json_array(), *rules = json_object_get(overview, "rules"), *rule;
	size_t i;

	json_array_foreach(rules, i, rule)
	{
		json_t *count;
		const char *word;

		json_object_foreach(json_object_get(rule, "refusals"), word, count)
		{
			if (json_array_append_new(list,
						  json_pack("{s:s,s:s,s:O,s:O}", "rule",
							    lb_word(rule, "rule"), "reason", word,
							    "count", count, "of", rule))) {
				json_decref(list);
				return NULL;
			}
		}
	}
	return list;
}
