/* SPDX-License-Identifier: MIT */
/* Decides which columns there is room for and how wide they are. See top_table.h. */
#include "tools/lbctl/top_table.h"

#include <stdio.h>
#include <string.h>

#define GAP 1u

/* --- numbers ---------------------------------------------------------------------------------- */

const char *lb_top_table_known(lb_top_number_fn format, double n, char buf[LB_NUMBER_MAX])
{
	if (n < 0)
		return "-";
	return format(n < 1.8e19 ? (uint64_t)n : UINT64_MAX, buf);
}

const char *lb_top_table_rate(double n, char buf[LB_NUMBER_MAX])
{
	if (n > 0 && n < 9.95)
		(void)snprintf(buf, LB_NUMBER_MAX, "%.1f", n);
	else
		return lb_top_table_known(lb_number_count, n, buf);
	return buf;
}

static void format_pair(const struct lb_top_cell *c, lb_top_number_fn format,
			char out[LB_TOP_CELL_MAX])
{
	char a[LB_NUMBER_MAX], b[LB_NUMBER_MAX];

	if (c->n < 0 || c->m < 0)
		(void)snprintf(out, LB_TOP_CELL_MAX, "-");
	else
		(void)snprintf(out, LB_TOP_CELL_MAX, "%s/%s", lb_top_table_known(format, c->n, a),
			       lb_top_table_known(format, c->m, b));
}

void lb_top_table_format(enum lb_top_format format, const struct lb_top_cell *c,
			 char out[LB_TOP_CELL_MAX])
{
	char buf[LB_NUMBER_MAX];

	switch (format) {
	case LB_TOP_TEXT:
		(void)snprintf(out, LB_TOP_CELL_MAX, "%s", *c->text ? c->text : "-");
		break;
	case LB_TOP_COUNT:
		(void)snprintf(out, LB_TOP_CELL_MAX, "%s",
			       lb_top_table_known(lb_number_count, c->n, buf));
		break;
	case LB_TOP_RATE:
		(void)snprintf(out, LB_TOP_CELL_MAX, "%s", lb_top_table_rate(c->n, buf));
		break;
	case LB_TOP_MS:
		(void)snprintf(out, LB_TOP_CELL_MAX, "%s",
			       lb_top_table_known(lb_number_ms, c->n, buf));
		break;
	case LB_TOP_PERCENT:
		(void)snprintf(out, LB_TOP_CELL_MAX, c->n < 0 ? "-" : "%.0f%%", c->n);
		break;
	case LB_TOP_COUNTS:
		format_pair(c, lb_number_count, out);
		break;
	case LB_TOP_TIMES:
		format_pair(c, lb_number_us, out);
		break;
	}
}

/* --- columns ---------------------------------------------------------------------------------- */

static size_t used(const struct lb_top_layout *l, size_t count)
{
	size_t sum = 0;

	for (size_t i = 0; i < count; i++)
		if (l->widths[i])
			sum += l->widths[i] + (sum ? GAP : 0);
	return sum;
}

/* The column that goes first; <count>: none may. */
static size_t least(const struct lb_top_layout *l, const struct lb_top_rows *rows)
{
	size_t found = rows->columns_count;

	for (size_t i = 0; i < rows->columns_count; i++)
		if (l->widths[i] && rows->columns[i].rank &&
		    (found == rows->columns_count ||
		     rows->columns[i].rank > rows->columns[found].rank))
			found = i;
	return found;
}

/* As wide as its widest text among the rows. */
static size_t wanted(const struct lb_top_rows *rows, size_t column)
{
	size_t most = strlen(rows->columns[column].head);

	for (size_t i = 0; i < rows->count; i++) {
		size_t n = lb_top_text_columns(rows->rows[i].cells[column].text);

		if (n > most)
			most = n;
	}
	return most < LB_TOP_WIDTH_MAX ? most : LB_TOP_WIDTH_MAX;
}

/* Texts share what is left, none of them more than it can use. */
static void widen(struct lb_top_layout *l, const struct lb_top_rows *rows, size_t width)
{
	size_t room = used(l, rows->columns_count), most[LB_TOP_COLUMNS_MAX] = {0};
	bool more = true;

	room = room < width ? width - room : 0;
	for (size_t i = 0; i < rows->columns_count; i++)
		if (l->widths[i] && rows->columns[i].format == LB_TOP_TEXT)
			most[i] = wanted(rows, i);
	while (room && more) {
		more = false;
		for (size_t i = 0; i < rows->columns_count && room; i++) {
			if (l->widths[i] >= most[i])
				continue;
			l->widths[i]++;
			room--;
			more = true;
		}
	}
}

void lb_top_table_lay_out(struct lb_top_layout *l, const struct lb_top_rows *rows, size_t width)
{
	size_t out;

	*l = (struct lb_top_layout){0};
	for (size_t i = 0; i < rows->columns_count; i++)
		l->widths[i] = rows->columns[i].width;
	while (used(l, rows->columns_count) > width) {
		out = least(l, rows);
		if (out == rows->columns_count)
			break;
		l->widths[out] = 0;
	}
	widen(l, rows, width);
}

void lb_top_table_put(struct lb_top_text *text, const struct lb_top_rows *rows,
		      const struct lb_top_layout *l, const struct lb_top_row *row)
{
	char cell[LB_TOP_CELL_MAX];

	for (size_t i = 0; i < rows->columns_count; i++) {
		const struct lb_top_column *c = &rows->columns[i];

		if (!l->widths[i])
			continue;
		if (row)
			lb_top_table_format(c->format, &row->cells[i], cell);
		if (text->columns)
			lb_top_text_put(text, " ");
		lb_top_text_put_cell(text, row ? cell : c->head, l->widths[i],
				     c->format != LB_TOP_TEXT);
	}
}
