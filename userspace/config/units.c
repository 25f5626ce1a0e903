/* SPDX-License-Identifier: MIT */
/*
 * Decides what "5s" and "10MiB" are worth. It must never guess: a unit it does not know, a sign or
 * a leading zero (octal to one reader, decimal to the next) is refused.
 */
#include "config/units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

struct unit {
	const char *name;
	uint64_t factor;
	bool plain; /* used for printing too; one of each size, largest first */
};

static const struct unit time_units[] = {
	{"d", 24ull * 60 * 60 * 1000, true},
	{"h", 60ull * 60 * 1000, true},
	{"min", 60ull * 1000, true},
	{"s", 1000, true},
	{"ms", 1, true},
};

static const struct unit byte_units[] = {
	{"TiB", 1ull << 40, true}, {"GiB", 1ull << 30, true}, {"MiB", 1ull << 20, true},
	{"KiB", 1ull << 10, true}, {"TB", 1000000000000ull},  {"GB", 1000000000ull},
	{"MB", 1000000ull},        {"kB", 1000ull},           {"B", 1},
};

/* Reads the digits at the start of <text>; *end is what follows them. */
static int parse_digits(const char *text, uint64_t *ret, const char **end)
{
	const char *p = text;
	uint64_t n = 0;

	if (*p < '0' || *p > '9' || (p[0] == '0' && p[1] >= '0' && p[1] <= '9'))
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		if (__builtin_mul_overflow(n, 10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*p - '0'), &n))
			return -ERANGE;
	}
	*ret = n;
	*end = p;
	return 0;
}

int lb_units_parse_number(const char *text, uint64_t *ret)
{
	const char *end;
	uint64_t n;
	int r;

	r = parse_digits(text, &n, &end);
	if (r)
		return r;
	if (*end)
		return -EINVAL;
	*ret = n;
	return 0;
}

static int parse_with_unit(const char *text, const struct unit *units, size_t count, uint64_t *ret)
{
	const char *end;
	uint64_t n;
	int r;

	r = parse_digits(text, &n, &end);
	if (r)
		return r;
	if (*end) {
		const struct unit *u = units;

		if (*end == ' ')
			end++;
		while (u < units + count && strcmp(u->name, end) != 0)
			u++;
		if (u == units + count)
			return -EINVAL;
		if (__builtin_mul_overflow(n, u->factor, &n))
			return -ERANGE;
	}
	*ret = n;
	return 0;
}

int lb_units_parse_ms(const char *text, uint64_t *ret)
{
	return parse_with_unit(text, time_units, LB_ARRAY_SIZE(time_units), ret);
}

int lb_units_parse_bytes(const char *text, uint64_t *ret)
{
	return parse_with_unit(text, byte_units, LB_ARRAY_SIZE(byte_units), ret);
}

static const char *format(uint64_t n, const struct unit *units, size_t count, char *buf)
{
	snprintf(buf, LB_UNITS_STR_MAX, "%" PRIu64, n);
	for (size_t i = 0; n && i < count; i++) {
		if (!units[i].plain || n % units[i].factor)
			continue;
		snprintf(buf, LB_UNITS_STR_MAX, "%" PRIu64 "%s", n / units[i].factor,
			 units[i].name);
		break;
	}
	return buf;
}

const char *lb_units_format_ms(uint64_t ms, char buf[LB_UNITS_STR_MAX])
{
	return format(ms, time_units, LB_ARRAY_SIZE(time_units), buf);
}

const char *lb_units_format_bytes(uint64_t bytes, char buf[LB_UNITS_STR_MAX])
{
	return format(bytes, byte_units, LB_ARRAY_SIZE(byte_units), buf);
}
