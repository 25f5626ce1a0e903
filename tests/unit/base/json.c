/* SPDX-License-Identifier: MIT */
#include "base/json.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/cleanup.h"

static const char *quoted(const char *text)
{
	static char to[512];
	size_t len = lb_json_string(to, sizeof(to), text);

	assert_int_equal(len, strlen(to));
	return to;
}

static void plain_text_stands_in_quotes(void **state)
{
	assert_string_equal(quoted(""), "\"\"");
	assert_string_equal(quoted("web-1"), "\"web-1\"");
	assert_string_equal(quoted("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\x9d"),
			    "\"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x90\x9d\"");
}

static void what_json_forbids_is_escaped(void **state)
{
	assert_string_equal(quoted("a\"b\\c"), "\"a\\\"b\\\\c\"");
	assert_string_equal(quoted("\n\t\x1b\x7f"), "\"\\u000a\\u0009\\u001b\\u007f\"");
}

static void bytes_that_are_not_utf8_are_replaced_one_by_one(void **state)
{
	static const char *const bad[] = {
		"\xff",
		"\x80",
		"\xc3",
		"\xe2\x82",
		"\xc0\xaf" /* overlong */,
		"\xed\xa0\x80" /* a surrogate */,
		"\xf4\x90\x80\x80" /* beyond */,
		"\xf0\x80\x80\xaf",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(bad); i++) {
		char expected[64] = "\"";

		for (size_t k = 0; k < strlen(bad[i]); k++)
			strcat(expected, "\\ufffd");
		strcat(expected, "\"");
		assert_string_equal(quoted(bad[i]), expected);
	}
	assert_string_equal(quoted("a\xc3(b"), "\"a\\ufffd(b\"");
}

/* All pairs of bytes, as somebody else reads them. */
static void whatever_it_is_a_parser_takes_it(void **state)
{
	for (unsigned int i = 1; i < 256; i++) {
		for (unsigned int j = 1; j < 256; j++) {
			const char text[] = {(char)i, (char)j, 'x', '\0'};
			json_t *value = json_loads(quoted(text), JSON_DECODE_ANY, NULL);
			size_t len = json_string_length(value);

			assert_true(json_is_string(value));
			assert_int_equal(json_string_value(value)[len - 1], 'x');
			json_decref(value);
		}
	}
}

static void what_does_not_fit_is_left_away_whole(void **state)
{
	char to[16];

	for (size_t size = 3; size < sizeof(to); size++) {
		json_t *value;

		memset(to, '#', sizeof(to));
		assert_true(lb_json_string(to, size, "a\n\xe2\x82\xac\"") < size);
		assert_int_equal(to[size], '#');
		value = json_loads(to, JSON_DECODE_ANY, NULL);
		assert_true(json_is_string(value));
		json_decref(value);
	}
}

static void dots_stand_for_what_does_not_fit(void **state)
{
	static const char *const cut[] = {"\"\"",     "\"a\"",     "\"ab\"",     "\"...\"",
					  "\"a...\"", "\"ab...\"", "\"abc...\"", "\"abcdefg\""};
	char to[16];

	for (size_t size = 3; size <= 10; size++) {
		(void)lb_json_string(to, size, "abcdefg");
		assert_string_equal(to, cut[size - 3]);
	}
	(void)lb_json_string(to, 9, "\x01\x02");
	assert_string_equal(to, "\"...\"");
}

static void the_longest_form_fits_the_bound(void **state)
{
	char text[33] = {0}, to[LB_JSON_STRING_MAX(sizeof(text) - 1)];

	memset(text, '\x01', sizeof(text) - 1);
	assert_int_equal(lb_json_string(to, sizeof(to), text), sizeof(to) - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_text_stands_in_quotes),
		cmocka_unit_test(what_json_forbids_is_escaped),
		cmocka_unit_test(bytes_that_are_not_utf8_are_replaced_one_by_one),
		cmocka_unit_test(whatever_it_is_a_parser_takes_it),
		cmocka_unit_test(what_does_not_fit_is_left_away_whole),
		cmocka_unit_test(dots_stand_for_what_does_not_fit),
		cmocka_unit_test(the_longest_form_fits_the_bound),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
