/* SPDX-License-Identifier: MIT */
/*
 * A line of a terminal under construction. What it is given may be hostile: a name from lb.yaml, an
 * error of some daemon. Nothing that could steer the terminal or take a place it should not gets
 * through. Characters are those of the locale. Pure.
 */
#ifndef LB_TOOLS_LBCTL_TOP_TEXT_H
#define LB_TOOLS_LBCTL_TOP_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#define LB_TOP_WIDTH_MAX 400

struct lb_top_text {
	char bytes[4 * LB_TOP_WIDTH_MAX + 1];
	size_t len;
	size_t columns; /* on the screen */
	size_t width;   /* as many there are */
};

/* Empty. */
void lb_top_text_begin(struct lb_top_text *t, size_t width);
/* As much of it as there is room for. */
void lb_top_text_put(struct lb_top_text *t, const char *text);
/* The same, formatted; up to 511 bytes. */
void lb_top_text_printf(struct lb_top_text *t, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* In <columns> columns: filled up with blanks, or cut, with a '~' where it is. */
void lb_top_text_put_cell(struct lb_top_text *t, const char *text, size_t columns, bool right);
/* Blanks up to the end. */
void lb_top_text_fill(struct lb_top_text *t);

/* Columns that <text> takes when it is put. */
size_t lb_top_text_columns(const char *text);

#endif
