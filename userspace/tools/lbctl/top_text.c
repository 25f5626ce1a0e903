/* SPDX-License-Identifier: MIT */
/* See top_text.h. */
#include "tools/lbctl/top_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <wchar.h>

/*
 * The next character of <text>: its bytes and columns. One that the locale does not know, that has
 * no place of its own, or that could hide or turn others (controls, marks): every byte of it is a
 * '?'.
 */
static size_t next(const char *text, size_t *columns)
{
	mbstate_t state = {0};
	wchar_t c;
	size_t len = mbrtowc(&c, text, strlen(text), &state);
	int width = len && len < (size_t)-2 ? wcwidth(c) : -1;

	*columns = width > 0 ? (size_t)width : 0;
	return width > 0 ? len : 1;
}

size_t lb_top_text_columns(const char *text)
{
	size_t sum = 0, columns;

	while (*text) {
		text += next(text, &columns);
		sum += columns ? columns : 1;
	}
	return sum;
}

void lb_top_text_begin(struct lb_top_text *t, size_t width)
{
	t->len = t->columns = 0;
	t->width = width < LB_TOP_WIDTH_MAX ? width : LB_TOP_WIDTH_MAX;
	t->bytes[0] = '\0';
}

static void put_byte(struct lb_top_text *t, char c)
{
	if (t->columns == t->width || t->len + 1 >= sizeof(t->bytes))
		return;
	t->bytes[t->len++] = c;
	t->bytes[t->len] = '\0';
	t->columns++;
}

/* Up to the column <end>. */
static const char *put_until(struct lb_top_text *t, const char *text, size_t end)
{
	while (*text) {
		size_t columns, len = next(text, &columns);

		if (t->columns + (columns ? columns : 1) > end || t->len + len >= sizeof(t->bytes))
			break;
		if (!columns) {
			put_byte(t, '?');
		} else {
			memcpy(t->bytes + t->len, text, len);
			t->len += len;
			t->bytes[t->len] = '\0';
			t->columns += columns;
		}
		text += len;
	}
	return text;
}

void lb_top_text_put(struct lb_top_text *t, const char *text)
{
	(void)put_until(t, text, t->width);
}

void lb_top_text_printf(struct lb_top_text *t, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	(void)vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	lb_top_text_put(t, text);
}

void lb_top_text_put_cell(struct lb_top_text *t, const char *text, size_t columns, bool right)
{
	size_t wanted = lb_top_text_columns(text);
	size_t end = t->columns + columns < t->width ? t->columns + columns : t->width;
	size_t room = end - t->columns;

	for (size_t i = wanted; right && i < room; i++)
		put_byte(t, ' ');
	if (wanted <= room) {
		(void)put_until(t, text, end);
	} else if (room) {
		(void)put_until(t, text, end - 1);
		put_byte(t, '~');
	}
	while (t->columns < end)
		put_byte(t, ' ');
}

void lb_top_text_fill(struct lb_top_text *t)
{
	while (t->columns < t->width && t->len + 1 < sizeof(t->bytes))
		put_byte(t, ' ');
}
