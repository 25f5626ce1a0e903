/* SPDX-License-Identifier: MIT */
/* See table.h. Must never let through what a terminal would obey. */
#include "tools/lbctl/table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define GAP 2

struct lb_table {
	const struct lb_table_column *columns;
	size_t columns_count;
	size_t *widths;
	char **cells; /* owned */
	size_t cells_count;
	bool failed;
};

/* Columns on the screen: every character of UTF-8 counts once. */
static size_t width_of(const char *text)
{
	size_t n = 0;

	for (; *text; text++)
		n += ((unsigned char)*text & 0xc0) != 0x80;
	return n;
}

/* C0, DEL, and C1 in its two-byte UTF-8 form. */
static void make_printable(char *text)
{
	unsigned char *p = (unsigned char *)text;

	for (; *p; p++) {
		if (*p < 0x20 || *p == 0x7f)
			*p = '?';
		else if (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)
			p[0] = p[1] = '?';
	}
}

int lb_table_new(struct lb_table **ret, const struct lb_table_column *columns, size_t count)
{
	LB_AUTO(lb_table_free) struct lb_table *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->columns = columns;
	t->columns_count = count;
	t->widths = calloc(count + 1, sizeof(*t->widths));
	if (!t->widths)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		t->widths[i] = width_of(columns[i].head);
	*ret = LB_TAKE_PTR(t);
	return 0;
}

/* Grows at powers of two: the count says when. */
static bool make_room(struct lb_table *t)
{
	size_t n = t->cells_count;
	char **grown;

	if (n & (n - 1))
		return true;
	grown = realloc(t->cells, (n ? n * 2 : 1) * sizeof(char *));
	if (!grown)
		return false;
	t->cells = grown;
	return true;
}

void lb_table_add(struct lb_table *t, const char *text)
{
	size_t column = t->cells_count % t->columns_count, width;
	char *copy;

	if (t->failed)
		return;
	copy = make_room(t) ? strdup(text) : NULL;
	if (!copy) {
		t->failed = true;
		return;
	}
	make_printable(copy);
	width = width_of(copy);
	if (width > t->widths[column])
		t->widths[column] = width;
	t->cells[t->cells_count++] = copy;
}

static void print_cell(const struct lb_table *t, size_t column, const char *text, FILE *out)
{
	int pad = (int)(t->widths[column] - width_of(text));
	bool last = column + 1 == t->columns_count;

	if (t->columns[column].right)
		fprintf(out, "%*s%s", pad, "", text);
	else
		fprintf(out, "%s%*s", text, last ? 0 : pad, "");
	if (last)
		fputc('\n', out);
	else
		fprintf(out, "%*s", GAP, "");
}

int lb_table_print(const struct lb_table *t, FILE *out)
{
	if (t->failed)
		return -ENOMEM;
	for (size_t i = 0; i < t->columns_count; i++)
		print_cell(t, i, t->columns[i].head, out);
	for (size_t row = 0; row + t->columns_count <= t->cells_count; row += t->columns_count)
		for (size_t i = 0; i < t->columns_count; i++)
			print_cell(t, i, t->cells[row + i], out);
	return 0;
}

void lb_table_free(struct lb_table **pt)
{
	struct lb_table *t = *pt;

	if (!t)
		return;
	*pt = NULL;
	for (size_t i = 0; i < t->cells_count; i++)
		free(t->cells[i]);
	free(t->cells);
	free(t->widths);
	free(t);
}

/* --- numbers ---------------------------------------------------------------------------------- */

/* <n> parts of which <unit> make one, with a digit behind the point while there is one before. */
static const char *scaled(uint64_t n, uint64_t unit, const char *name, char *buf)
{
	uint64_t tenths = n / unit * 10 + n % unit * 10 / unit;

	if (tenths < 100)
		(void)snprintf(buf, LB_NUMBER_MAX, "%" PRIu64 ".%" PRIu64 "%s", tenths / 10,
			       tenths % 10, name);
	else
		(void)snprintf(buf, LB_NUMBER_MAX, "%" PRIu64 "%s", tenths / 10, name);
	return buf;
}

const char *lb_number_count(uint64_t n, char buf[LB_NUMBER_MAX])
{
	static const char *const names[] = {"k", "M", "G", "T", "P", "E"};
	uint64_t unit = 1000;
	size_t i = 0;

	if (n < 1000) {
		(void)snprintf(buf, LB_NUMBER_MAX, "%" PRIu64, n);
		return buf;
	}
	while (i + 1 < LB_ARRAY_SIZE(names) && n / unit >= 1000) {
		unit *= 1000;
		i++;
	}
	return scaled(n, unit, names[i], buf);
}

/* "4m10s" */
static const char *two(uint64_t large, const char *name, uint64_t small, const char *small_name,
		       char *buf)
{
	(void)snprintf(buf, LB_NUMBER_MAX, "%" PRIu64 "%s%02" PRIu64 "%s", large, name, small,
		       small_name);
	return buf;
}

const char *lb_number_ms(uint64_t ms, char buf[LB_NUMBER_MAX])
{
	uint64_t s = ms / 1000;

	if (ms < 1000)
		(void)snprintf(buf, LB_NUMBER_MAX, "%" PRIu64 "ms", ms);
	else if (s < 60)
		return scaled(ms, 1000, "s", buf);
	else if (s < 3600)
		return two(s / 60, "m", s % 60, "s", buf);
	else if (s < 86400)
		return two(s / 3600, "h", s / 60 % 60, "m", buf);
	else
		return two(s / 86400, "d", s / 3600 % 24, "h", buf);
	return buf;
}

const char *lb_number_us(uint64_t us, char buf[LB_NUMBER_MAX])
{
	if (us < 1000)
		(void)snprintf(buf, LB_NUMBER_MAX, "%" PRIu64 "us", us);
	else if (us < 1000000)
		return scaled(us, 1000, "ms", buf);
	else
		return scaled(us, 1000000, "s", buf);
	return buf;
}
