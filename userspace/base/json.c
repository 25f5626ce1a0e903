/* SPDX-License-Identifier: MIT */
/* Decides how a text looks inside of JSON (RFC 8259, 7). Must never write half a character. */
#include "base/json.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define REPLACEMENT "\\ufffd"
/* For what does not fit. */
#define DOTS "..."

/*
 * How many bytes the character at <s> has; 0: it is none of UTF-8's. Overlong forms, surrogates and
 * what lies beyond U+10FFFF are none (RFC 3629, 4). The NUL at the end is no continuation.
 */
static size_t utf8_len(const unsigned char *s)
{
	static const struct {
		unsigned char lead_min, lead_max, second_min, second_max, len;
	} rows[] = {
		{0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
		{0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3},
		{0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4},
		{0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
	};

	if (*s < 0x80)
		return 1;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		if (*s < rows[i].lead_min || *s > rows[i].lead_max)
			continue;
		if (s[1] < rows[i].second_min || s[1] > rows[i].second_max)
			return 0;
		for (size_t k = 2; k < rows[i].len; k++)
			if ((s[k] & 0xc0) != 0x80)
				return 0;
		return rows[i].len;
	}
	return 0;
}

/* One character, <taken> bytes of <s>, as it stands in a string. Returns its length there. */
static size_t escape(char to[8], const unsigned char *s, size_t *taken)
{
	size_t len = utf8_len(s);

	*taken = len ? len : 1;
	if (!len)
		return (size_t)snprintf(to, 8, REPLACEMENT);
	if (*s == '"' || *s == '\\')
		return (size_t)snprintf(to, 8, "\\%c", *s);
	if (*s < 0x20 || *s == 0x7f)
		return (size_t)snprintf(to, 8, "\\u%04x", *s);
	memcpy(to, s, len);
	return len;
}

size_t lb_json_string(char *to, size_t size, const char *text)
{
	const unsigned char *s = (const unsigned char *)text;
	size_t at = 0, dots_at = 0, taken;

	to[at++] = '"';
	for (; *s; s += taken) {
		char one[8];
		size_t len = escape(one, s, &taken);

		if (at + len + 2 > size) {
			if (dots_at) {
				memcpy(to + dots_at, DOTS, strlen(DOTS));
				at = dots_at + strlen(DOTS);
			}
			break;
		}
		if (at + strlen(DOTS) + 2 <= size)
			dots_at = at;
		memcpy(to + at, one, len);
		at += len;
	}
	to[at++] = '"';
	to[at] = '\0';
	return at;
}
