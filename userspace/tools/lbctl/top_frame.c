/* SPDX-License-Identifier: MIT */
/* See top_frame.h. Must never depend on a terminal: what is drawn is decided here. */
#include "tools/lbctl/top_frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "tools/lbctl/table.h"
#include "tools/lbctl/top_rows.h"
#include "tools/lbctl/top_table.h"
#include "tools/lbctl/top_text.h"
#include "tools/lbctl/word.h"

static const char *const titles[] = {
	[LB_TOP_RULES] = "Rules",       [LB_TOP_BACKENDS] = "Backends",
	[LB_TOP_FLOWS] = "Flows",       [LB_TOP_CLIENTS] = "Clients",
	[LB_TOP_CARRIERS] = "Carriers", [LB_TOP_REFUSALS] = "Refusals",
};

/* --- lines ------------------------------------------------------------------------------------ */

static void append(struct lb_top_frame *f, const struct lb_top_text *text, enum lb_top_look look)
{
	struct lb_top_line *lines = f->lines;

	if (f->failed || f->count >= f->height)
		return;
	if (!(f->count & (f->count - 1)))
		lines = realloc(lines, (f->count ? f->count * 2 : 1) * sizeof(*lines));
	if (lines) {
		f->lines = lines;
		lines[f->count] = (struct lb_top_line){strdup(text->bytes), look};
	}
	if (!lines || !lines[f->count].text)
		f->failed = true;
	else
		f->count++;
}

static void append_string(struct lb_top_frame *f, const char *string, enum lb_top_look look)
{
	struct lb_top_text text;

	lb_top_text_begin(&text, f->width);
	lb_top_text_put(&text, string);
	append(f, &text, look);
}

void lb_top_frame_fini(struct lb_top_frame *f)
{
	for (size_t i = 0; i < f->count; i++)
		free(f->lines[i].text);
	free(f->lines);
	*f = (struct lb_top_frame){0};
}

/* --- tables ----------------------------------------------------------------------------------- */

/* <row> NULL: the heads. */
static void append_row(struct lb_top_frame *f, const struct lb_top_rows *rows,
		       const struct lb_top_layout *l, const struct lb_top_row *row,
		       enum lb_top_look look)
{
	struct lb_top_text text;

	lb_top_text_begin(&text, f->width);
	lb_top_table_put(&text, rows, l, row);
	if (look != LB_TOP_PLAIN)
		lb_top_text_fill(&text);
	append(f, &text, look);
}

static bool is_bad(enum lb_top_view view, const json_t *row)
{
	if (view == LB_TOP_BACKENDS)
		return !json_is_true(json_object_get(row, "eligible"));
	return view == LB_TOP_RULES && lb_top_number(row, "backends_eligible") == 0;
}

static void append_table(struct lb_top_frame *f, enum lb_top_view view,
			 const struct lb_top_rows *rows, size_t first, size_t count,
			 size_t selected)
{
	struct lb_top_layout l;

	lb_top_table_lay_out(&l, rows, f->width);
	append_row(f, rows, &l, NULL, LB_TOP_HEAD);
	for (size_t i = first; i < rows->count && i - first < count; i++)
		append_row(f, rows, &l, &rows->rows[i],
			   i == selected                      ? LB_TOP_SELECTED
			   : is_bad(view, rows->rows[i].json) ? LB_TOP_ALARM
							      : LB_TOP_PLAIN);
}

/* --- the head --------------------------------------------------------------------------------- */

static void append_daemon(struct lb_top_frame *f, const struct lb_top *t)
{
	const json_t *reload = json_object_get(t->now, "reload");
	char buf[LB_NUMBER_MAX];
	struct lb_top_text text;
	bool bad = reload && !json_is_true(json_object_get(reload, "last_applied"));

	lb_top_text_begin(&text, f->width);
	lb_top_text_printf(&text, "layer4-lb %s", lb_word_or_dash(t->now, "version"));
	if (json_is_string(json_object_get(t->now, "instance")))
		lb_top_text_printf(&text, " %s", lb_word_or_dash(t->now, "instance"));
	lb_top_text_printf(
		&text, ", %s for %s, generation %.0f", lb_word_or_dash(t->now, "state"),
		lb_top_table_known(lb_number_ms, lb_top_number(t->now, "uptime_ms"), buf),
		lb_top_number(reload, "generation"));
	if (bad)
		lb_top_text_put(&text, " (the last reload was refused)");
	append(f, &text, bad ? LB_TOP_ALARM : LB_TOP_BOLD);
}

static void append_total(struct lb_top_frame *f, const struct lb_top *t)
{
	const json_t *total = json_object_get(t->now, "total");
	char buf[5][LB_NUMBER_MAX];
	struct lb_top_text text;

	lb_top_text_begin(&text, f->width);
	lb_top_text_printf(
		&text, "%s flows, %s connections/s, %s/s up, %s/s down, %s refused/s",
		lb_top_table_known(lb_number_count, lb_top_number(t->now, "flows"), buf[0]),
		lb_top_table_rate(lb_top_rate(t, LB_TOP_NAME_OF_TOTAL, total, "connections"),
				  buf[1]),
		lb_top_table_rate(lb_top_rate(t, LB_TOP_NAME_OF_TOTAL, total, "bytes_up"), buf[2]),
		lb_top_table_rate(lb_top_rate(t, LB_TOP_NAME_OF_TOTAL, total, "bytes_down"),
				  buf[3]),
		lb_top_table_rate(lb_top_refused_rate(t, LB_TOP_NAME_OF_TOTAL, total), buf[4]));
	append(f, &text, LB_TOP_PLAIN);
}

static void append_carriers(struct lb_top_frame *f, const struct lb_top *t)
{
	char key[LB_TOP_KEY_BYTES], buf[LB_NUMBER_MAX];
	struct lb_top_text text;
	json_t *c;
	size_t i;

	lb_top_text_begin(&text, f->width);
	lb_top_text_put(&text, "carriers:");
	json_array_foreach(json_object_get(t->now, "carriers"), i, c)
	{
		lb_top_row_key(LB_TOP_CARRIERS, c, key);
		lb_top_text_printf(&text, "%s %s", i ? "," : "", lb_word_or_dash(c, "carrier"));
		if (json_is_true(json_object_get(c, "in_service")))
			lb_top_text_printf(&text, " %s/s",
					   lb_top_table_rate(lb_top_rate(t, key, c, "bytes"), buf));
		else
			lb_top_text_printf(&text, " off (%s)", lb_word_or_dash(c, "why"));
	}
	append(f, &text, LB_TOP_PLAIN);
}

static void append_refusals(struct lb_top_frame *f, const struct lb_top *t)
{
	const json_t *total = json_object_get(t->now, "total");
	json_t *words = json_object_get(total, "refusals"), *count;
	char buf[LB_NUMBER_MAX];
	struct lb_top_text text;
	const char *word;
	bool any = false;

	lb_top_text_begin(&text, f->width);
	lb_top_text_put(&text, "refused:");
	json_object_foreach(words, word, count)
	{
		double n = lb_top_rate_in(t, LB_TOP_NAME_OF_TOTAL, total, "refusals", word);

		if (n <= 0)
			continue;
		lb_top_text_printf(&text, "%s %s %s/s", any ? "," : "", word,
				   lb_top_table_rate(n, buf));
		any = true;
	}
	if (!any)
		lb_top_text_put(&text, " nobody");
	append(f, &text, LB_TOP_PLAIN);
}

static void append_head(struct lb_top_frame *f, const struct lb_top *t)
{
	append_daemon(f, t);
	append_total(f, t);
	append_carriers(f, t);
	append_refusals(f, t);
}

/* --- where one is ----------------------------------------------------------------------------- */

static void append_tabs(struct lb_top_frame *f, const struct lb_top *t)
{
	struct lb_top_text text;
	char buf[LB_NUMBER_MAX];

	lb_top_text_begin(&text, f->width);
	for (int v = 0; v < LB_TOP_TABLES_; v++) {
		bool here = lb_top_here(t)->view == (enum lb_top_view)v;

		lb_top_text_printf(&text, "%s%d %s%s", here ? "[" : " ", v + 1, titles[v],
				   here ? "]" : " ");
	}
	lb_top_text_printf(&text, "  %s%s", lb_number_ms(t->interval_ms, buf),
			   t->paused ? " PAUSED" : "");
	append(f, &text, LB_TOP_BOLD);
}

/* "rule web, backend 10.0.0.1:80, by DOWN/S; the fastest 1000 of 12345" */
static void append_place(struct lb_top_frame *f, const struct lb_top *t)
{
	const struct lb_top_place *here = lb_top_here(t);
	const struct lb_top_column *columns;
	bool of_flows = here->view == LB_TOP_FLOWS || here->view == LB_TOP_CLIENTS;
	double shown = lb_top_number(t->flows, "shown"), all = lb_top_number(t->flows, "matched");
	struct lb_top_text text;

	lb_top_text_begin(&text, f->width);
	if (here->view < LB_TOP_TABLES_) {
		(void)lb_top_columns(here->view, &columns);
		lb_top_text_printf(&text, "by %s%s", columns[t->sort[here->view]].head,
				   t->upside_down[here->view] ? ", upside down" : "");
	} else {
		lb_top_text_printf(&text, "flow %s", here->flow);
	}
	if (of_flows && shown < all)
		lb_top_text_printf(&text, "; the fastest %.0f of %.0f flows", shown, all);
	if (*here->rule)
		lb_top_text_printf(&text, "; rule %s", here->rule);
	if (*here->backend)
		lb_top_text_printf(&text, "; backend %s", here->backend);
	if (*here->client && here->view != LB_TOP_FLOW)
		lb_top_text_printf(&text, "; client %s", here->client);
	if (*here->carrier)
		lb_top_text_printf(&text, "; on %s", here->carrier);
	append(f, &text, LB_TOP_PLAIN);
}

/* --- one flow --------------------------------------------------------------------------------- */

static void append_flow(struct lb_top_frame *f, const struct lb_top *t)
{
	static const struct {
		const char *name, *a, *b;
		enum lb_top_format format;
	} lines[] = {
		{"client", "client", NULL, LB_TOP_TEXT},
		{"backend", "backend", NULL, LB_TOP_TEXT},
		{"rule", "rule", NULL, LB_TOP_TEXT},
		{"state", "state", NULL, LB_TOP_TEXT},
		{"carrier", "carrier", NULL, LB_TOP_TEXT},
		{"why not a faster one", "why", NULL, LB_TOP_TEXT},
		{"age", "age_ms", NULL, LB_TOP_MS},
		{"idle for", "idle_ms", NULL, LB_TOP_MS},
		{"bytes up/down", "bytes_up", "bytes_down", LB_TOP_COUNTS},
		{"per second up/down", "rate_up", "rate_down", LB_TOP_COUNTS},
		{"backlog up/down", "backlog_up", "backlog_down", LB_TOP_COUNTS},
		{"RTT client/backend", "rtt_client_us", "rtt_backend_us", LB_TOP_TIMES},
		{"sent again client/backend", "retransmissions_client", "retransmissions_backend",
		 LB_TOP_COUNTS},
		{"worker", "worker", NULL, LB_TOP_COUNT},
	};
	const json_t *flow = lb_top_flow(t);
	char cell[LB_TOP_CELL_MAX];

	if (!flow) {
		append_string(f, "It has ended, or is not yet among those that were asked for.",
			      LB_TOP_PLAIN);
		return;
	}
	for (size_t i = 0; i < LB_ARRAY_SIZE(lines); i++) {
		const struct lb_top_cell c = {
			.text = lb_word_or_dash(flow, lines[i].a),
			.n = lb_top_number(flow, lines[i].a),
			.m = lines[i].b ? lb_top_number(flow, lines[i].b) : 0,
		};
		struct lb_top_text text;

		lb_top_table_format(lines[i].format, &c, cell);
		lb_top_text_begin(&text, f->width);
		lb_top_text_put_cell(&text, lines[i].name, 26, false);
		lb_top_text_put(&text, cell);
		append(f, &text, LB_TOP_PLAIN);
	}
}

/* --- all of it -------------------------------------------------------------------------------- */

static void append_help(struct lb_top_frame *f)
{
	static const char *const lines[] = {
		"1 .. 6, Tab          rules, backends, flows, clients, carriers, refusals",
		"up, down, PgUp, PgDn, Home, End (also k, j)    select a row",
		"Enter                into it: rule -> its backends -> their flows -> one flow;",
		"                     client or carrier -> its flows",
		"Backspace, Esc       back out",
		"s, S                 sort by the next column, by the one before",
		"r                    upside down",
		"p, space             pause, and go on",
		"+, -                 a longer interval, a shorter one",
		"h, ?                 this",
		"q                    quit",
		"",
		"UP is from client to backend, DOWN the way back. Rates are what happened between",
		"two looks; - is not known. A backend that takes no new flows, and a rule without",
		"one that does, stand out.",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(lines); i++)
		append_string(f, lines[i], LB_TOP_PLAIN);
}

/* The selected row stays on the screen. */
static void scroll(struct lb_top_place *here, size_t selected, size_t page, size_t count)
{
	if (selected < here->first)
		here->first = selected;
	else if (selected >= here->first + page)
		here->first = selected - page + 1;
	if (here->first + page > count)
		here->first = count > page ? count - page : 0;
}

static void append_page(struct lb_top_frame *f, struct lb_top *t)
{
	struct lb_top_place *here = lb_top_here(t);
	struct lb_top_rows rows;
	size_t selected;

	/* The head of the table and the last line of all are to come. */
	t->page = f->height > f->count + 3 ? f->height - f->count - 2 : 1;
	if (lb_top_rows_of(t, &rows)) {
		f->failed = true;
		return;
	}
	selected = lb_top_selected(t, &rows);
	scroll(here, selected, t->page, rows.count);
	append_table(f, here->view, &rows, here->first, t->page, selected);
	lb_top_rows_fini(&rows);
}

int lb_top_frame_draw(struct lb_top_frame *f, struct lb_top *t, const char *trouble, size_t width,
		      size_t height)
{
	*f = (struct lb_top_frame){.width = width, .height = height};
	append_head(f, t);
	append_tabs(f, t);
	append_place(f, t);
	if (t->help)
		append_help(f);
	else if (lb_top_here(t)->view == LB_TOP_FLOW)
		append_flow(f, t);
	else
		append_page(f, t);
	while (!f->failed && f->count + 1 < height)
		append_string(f, "", LB_TOP_PLAIN);
	append_string(f,
		      trouble ? trouble
			      : "q quit  h help  Enter into  Backspace back  s sort  p pause  "
				"+/- interval",
		      trouble ? LB_TOP_ALARM : LB_TOP_PLAIN);
	return f->failed ? -ENOMEM : 0;
}

int lb_top_frame_draw_all(struct lb_top_frame *f, struct lb_top *t, size_t width, size_t rows_max)
{
	struct lb_top_place *here = lb_top_here(t);

	*f = (struct lb_top_frame){.width = width, .height = SIZE_MAX};
	append_head(f, t);
	for (int v = 0; v < LB_TOP_TABLES_ && !f->failed; v++) {
		struct lb_top_rows rows;

		here->view = (enum lb_top_view)v;
		if (lb_top_rows_of(t, &rows)) {
			f->failed = true;
			break;
		}
		append_string(f, "", LB_TOP_PLAIN);
		append_table(f, here->view, &rows, 0, rows_max, SIZE_MAX);
		lb_top_rows_fini(&rows);
	}
	return f->failed ? -ENOMEM : 0;
}
