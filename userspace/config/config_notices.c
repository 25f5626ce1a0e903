/* SPDX-License-Identifier: MIT */
/*
 * Decides how a message about the configuration looks. What it prints comes from a file that may be
 * hostile: nothing that could steer a terminal or split a log line gets through.
 */
#include "config/config_notices.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Room for one message: two excerpts of the file and a sentence. */
#define TEXT_MAX 512

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

static struct lb_config_notice *append(struct lb_config_notices *n)
{
	struct lb_config_notice *items = n->items;

	/* Grows at powers of two: count says when, no capacity needs to be kept. */
	if ((n->count & (n->count - 1)) == 0) {
		items = realloc(items, (n->count ? n->count * 2 : 1) * sizeof(*items));
		if (!items)
			return NULL;
		n->items = items;
	}
	return &items[n->count];
}

void lb_config_notices_add(struct lb_config_notices *n, enum lb_config_severity severity,
			   uint32_t line, uint32_t column, const char *key, const char *fmt, ...)
{
	struct lb_config_notice *notice;
	char text[TEXT_MAX];
	va_list ap;

	if (severity == LB_CONFIG_ERROR && n->errors++ >= LB_CONFIG_ERRORS_KEPT)
		return;
	notice = append(n);
	if (!notice) {
		n->out_of_memory = true;
		return;
	}
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);

	*notice = (struct lb_config_notice){
		.severity = severity,
		.line = line,
		.column = column,
		.key = key ? strdup(key) : NULL,
		.text = strdup(text),
	};
	if (!notice->text || (key && !notice->key)) {
		free(notice->key);
		free(notice->text);
		n->out_of_memory = true;
		return;
	}
	make_printable(notice->text);
	if (notice->key)
		make_printable(notice->key);
	n->count++;
}

static int compare(const void *left, const void *right)
{
	const struct lb_config_notice *a = left, *b = right;

	if (a->line != b->line)
		return a->line < b->line ? -1 : 1;
	if (a->column != b->column)
		return a->column < b->column ? -1 : 1;
	if (a->severity != b->severity)
		return a->severity < b->severity ? -1 : 1;
	return strcmp(a->text, b->text);
}

void lb_config_notices_sort(struct lb_config_notices *n)
{
	if (n->count)
		qsort(n->items, n->count, sizeof(*n->items), compare);
}

bool lb_config_notices_refuse(const struct lb_config_notices *n)
{
	for (size_t i = 0; i < n->count; i++) {
		if (n->items[i].severity != LB_CONFIG_WARNING)
			return true;
	}
	return false;
}

int lb_config_notice_format(const struct lb_config_notice *notice, const char *path, char *buf,
			    size_t size)
{
	char place[32] = "";

	if (notice->line)
		snprintf(place, sizeof(place), "%u:%u: ", notice->line, notice->column);
	return snprintf(buf, size, "%s%s%s%s%s%s%s", path ? path : "",
			!path          ? ""
			: notice->line ? ":"
				       : ": ",
			place, notice->severity == LB_CONFIG_ERROR ? "" : "warning: ",
			notice->key ? notice->key : "", notice->key ? ": " : "", notice->text);
}

void lb_config_notices_print(const struct lb_config_notices *n, const char *path, FILE *out)
{
	for (size_t i = 0; i < n->count; i++) {
		char line[2 * TEXT_MAX];

		lb_config_notice_format(&n->items[i], path, line, sizeof(line));
		fprintf(out, "%s\n", line);
	}
	if (n->errors > LB_CONFIG_ERRORS_KEPT)
		fprintf(out, "%s%s%zu more errors\n", path ? path : "", path ? ": " : "",
			n->errors - LB_CONFIG_ERRORS_KEPT);
}

void lb_config_notices_fini(struct lb_config_notices *n)
{
	for (size_t i = 0; i < n->count; i++) {
		free(n->items[i].key);
		free(n->items[i].text);
	}
	free(n->items);
	*n = (struct lb_config_notices){0};
}
