/* SPDX-License-Identifier: MIT */
#include "config/units.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

typedef int (*parse_fn)(const char *text, uint64_t *ret);

struct good {
	const char *text;
	uint64_t value;
};

struct bad {
	const char *text;
	int error;
};

static void check_good(parse_fn parse, const struct good *cases, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t n = 0;

		if (parse(cases[i].text, &n))
			fail_msg("\"%s\" did not parse", cases[i].text);
		assert_int_equal(n, cases[i].value);
	}
}

static void check_bad(parse_fn parse, const struct bad *cases, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t n = 42;

		if (parse(cases[i].text, &n) != cases[i].error)
			fail_msg("\"%s\" gave %lu or another error", cases[i].text, n);
		assert_int_equal(n, 42);
	}
}

static const struct bad bad_numbers[] = {
	{"", -EINVAL},
	{"-1", -EINVAL},
	{"+1", -EINVAL},
	{" 1", -EINVAL},
	{"1 ", -EINVAL},
	{"01", -EINVAL},
	{"00", -EINVAL},
	{"1_000", -EINVAL},
	{"0x10", -EINVAL},
	{"1e3", -EINVAL},
	{"1.5", -EINVAL},
	{"18446744073709551616", -ERANGE},
	{"99999999999999999999999", -ERANGE},
};

static void numbers_are_decimal_and_whole(void **state)
{
	static const struct good good[] = {
		{"0", 0}, {"7", 7}, {"1000", 1000}, {"18446744073709551615", UINT64_MAX}};

	check_good(lb_units_parse_number, good, LB_ARRAY_SIZE(good));
	check_bad(lb_units_parse_number, bad_numbers, LB_ARRAY_SIZE(bad_numbers));
}

static void times_are_milliseconds_or_carry_a_unit(void **state)
{
	static const struct good good[] = {
		{"0", 0},        {"250", 250},  {"500ms", 500},
		{"5s", 5000},    {"5 s", 5000}, {"10min", 600000},
		{"1h", 3600000}, {"0s", 0},     {"7d", 604800000},
	};
	static const struct bad bad[] = {
		{"s", -EINVAL},    {"5S", -EINVAL},      {"5m", -EINVAL},
		{"5  s", -EINVAL}, {"5s ", -EINVAL},     {"5 ", -EINVAL},
		{"5sec", -EINVAL}, {"1h30min", -EINVAL}, {"18446744073709551615s", -ERANGE},
		{"5MiB", -EINVAL},
	};

	check_good(lb_units_parse_ms, good, LB_ARRAY_SIZE(good));
	check_bad(lb_units_parse_ms, bad, LB_ARRAY_SIZE(bad));
	check_bad(lb_units_parse_ms, bad_numbers, LB_ARRAY_SIZE(bad_numbers));
}

static void sizes_tell_1024_from_1000(void **state)
{
	static const struct good good[] = {
		{"0", 0},
		{"4096", 4096},
		{"1B", 1},
		{"64KiB", 65536},
		{"10MiB", 10485760},
		{"1 GiB", 1073741824},
		{"1TiB", 1ull << 40},
		{"64kB", 64000},
		{"10MB", 10000000},
		{"1GB", 1000000000},
		{"1TB", 1000000000000},
	};
	static const struct bad bad[] = {
		{"1K", -EINVAL},   {"1M", -EINVAL},  {"1kb", -EINVAL}, {"1KB", -EINVAL},
		{"1mib", -EINVAL}, {"1ms", -EINVAL}, {"KiB", -EINVAL}, {"16777216TiB", -ERANGE},
	};

	check_good(lb_units_parse_bytes, good, LB_ARRAY_SIZE(good));
	check_bad(lb_units_parse_bytes, bad, LB_ARRAY_SIZE(bad));
	check_bad(lb_units_parse_bytes, bad_numbers, LB_ARRAY_SIZE(bad_numbers));
}

static void formatted_in_the_largest_unit_that_divides(void **state)
{
	char buf[LB_UNITS_STR_MAX];

	assert_string_equal(lb_units_format_ms(0, buf), "0");
	assert_string_equal(lb_units_format_ms(1500, buf), "1500ms");
	assert_string_equal(lb_units_format_ms(90000, buf), "90s");
	assert_string_equal(lb_units_format_ms(600000, buf), "10min");
	assert_string_equal(lb_units_format_ms(172800000, buf), "2d");
	assert_string_equal(lb_units_format_bytes(1000, buf), "1000");
	assert_string_equal(lb_units_format_bytes(65536, buf), "64KiB");
	assert_string_equal(lb_units_format_bytes(1ull << 40, buf), "1TiB");
}

static void what_is_formatted_parses_back(void **state)
{
	char buf[LB_UNITS_STR_MAX];

	for (uint64_t n = 1; n < UINT64_MAX / 3; n = n * 3 + n % 7) {
		uint64_t back = 0;

		assert_int_equal(lb_units_parse_ms(lb_units_format_ms(n, buf), &back), 0);
		assert_int_equal(back, n);
		assert_int_equal(lb_units_parse_bytes(lb_units_format_bytes(n, buf), &back), 0);
		assert_int_equal(back, n);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_are_decimal_and_whole),
		cmocka_unit_test(times_are_milliseconds_or_carry_a_unit),
		cmocka_unit_test(sizes_tell_1024_from_1000),
		cmocka_unit_test(formatted_in_the_largest_unit_that_divides),
		cmocka_unit_test(what_is_formatted_parses_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
