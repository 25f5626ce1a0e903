/* SPDX-License-Identifier: MIT */
/*
 * Decides which fields the line of a flow has, in which order, and how they are quoted. Both forms
 * have the same fields under the same names. Must never allocate: workers call it.
 */
#include "flow/flow_line.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/addr.h"
#include "base/json.h"

struct text {
	char *at;
	size_t left; /* with the NUL */
	bool json;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(t->at, t->left, fmt, args);
	va_end(args);
	if (n < 0)
		return;
	if ((size_t)n >= t->left)
		n = (int)t->left - 1;
	t->at += n;
	t->left -= (size_t)n;
}

static void add_key(struct text *t, const char *key)
{
	add(t, t->json ? ",\"%s\":" : " %s=", key);
}

/* Quoted when it would not stand alone; names hold no control characters. */
static void add_word(struct text *t, const char *word)
{
	if (*word && !strpbrk(word, " \"=\\")) {
		add(t, "%s", word);
		return;
	}
	add(t, "\"");
	for (; *word; word++)
		add(t, strchr("\"\\", *word) ? "\\%c" : "%c", *word);
	add(t, "\"");
}

static void add_json_word(struct text *t, const char *word)
{
	size_t len;

	if (t->left < LB_JSON_STRING_MAX(0))
		return;
	len = lb_json_string(t->at, t->left, word);
	t->at += len;
	t->left -= len;
}

/* NULL: there is none. */
static void add_string(struct text *t, const char *key, const char *value)
{
	add_key(t, key);
	if (!value)
		add(t, t->json ? "null" : "-");
	else if (t->json)
		add_json_word(t, value);
	else
		add_word(t, value);
}

static void add_number(struct text *t, const char *key, uint64_t value)
{
	add_key(t, key);
	add(t, "%" PRIu64, value);
}

static void add_ms(struct text *t, const char *key, bool there, uint64_t us)
{
	add_key(t, key);
	if (there)
		add(t, "%.1f", (double)us / 1e3);
	else
		add(t, t->json ? "null" : "-");
}

static void add_time(struct text *t)
{
	char now[LB_LOG_TIME_MAX];

	(void)lb_log_time(now, sizeof(now));
	add(t, t->json ? "{\"time\":\"%s\"" : "time=%s", now);
}

size_t lb_flow_line(const struct lb_flow_record *r, enum lb_log_format format, char *line,
		    size_t size)
{
	struct text t = {.at = line, .left = size, .json = format == LB_LOG_JSON};
	char addr[LB_ADDR_STR_MAX];

	add_time(&t);
	add_string(&t, "rule", r->rule);
	add_string(&t, "client", lb_addr_format(r->client, addr));
	if (r->certified && *r->certified)
		add_string(&t, "certified", r->certified);
	add_string(&t, "backend", r->backend);
	add_string(&t, "carrier", r->carrier);
	add_string(&t, "why", r->carrier ? lb_why_word(r->why) : NULL);
	add_string(&t, "reason", lb_reason_word(r->reason));
	if (r->error)
		add_string(&t, "error", strerrorname_np(r->error));
	if (r->detail)
		add_string(&t, "detail", r->detail);
	add_number(&t, "up", r->bytes[0]);
	add_number(&t, "down", r->bytes[1]);
	add_number(&t, "duration_ms", r->duration_ms);
	add_ms(&t, "connect_ms", r->connected, r->connect_us);
	add_ms(&t, "first_byte_ms", r->answered, r->first_byte_us);
	add_number(&t, "tries", r->tries);
	if (r->unlogged)
		add_number(&t, "unlogged", r->unlogged);
	if (t.json)
		add(&t, "}");
	return size - t.left;
}
