/* SPDX-License-Identifier: MIT */
#include "tools/lbctl/top_text.h"

#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static struct lb_top_text t;

static int setup_utf8(void **state)
{
	return !setlocale(LC_CTYPE, "C.UTF-8");
}

static int setup_c(void **state)
{
	return !setlocale(LC_CTYPE, "C");
}

static void cell(const char *text, size_t columns, bool right, const char *wanted)
{
	lb_top_text_begin(&t, 80);
	lb_top_text_put_cell(&t, text, columns, right);
	assert_string_equal(t.bytes, wanted);
	assert_int_equal(t.columns, columns);
}

static void a_cell_is_filled_up_or_cut(void **state)
{
	cell("abc", 5, false, "abc  ");
	cell("abc", 5, true, "  abc");
	cell("abcde", 5, true, "abcde");
	cell("abcdef", 5, false, "abcd~");
	cell("abc", 1, false, "~");
	cell("", 3, false, "   ");
}

static void wide_characters_take_two_columns(void **state)
{
	cell("\xe4\xb8\xad\xe6\x96\x87", 5, false, "\xe4\xb8\xad\xe6\x96\x87 ");
	cell("\xe4\xb8\xad\xe6\x96\x87", 3, false, "\xe4\xb8\xad~");
	/* The second one has but half of its place. */
	cell("\xe4\xb8\xad\xe6\x96\x87x", 4, false, "\xe4\xb8\xad~ ");
	assert_int_equal(lb_top_text_columns("\xc3\xbc\xe4\xb8\xad!"), 4);
}

static void what_steers_hides_or_turns_is_shown_as_such(void **state)
{
	static const struct {
		const char *text, *wanted;
	} cases[] = {
		{"\x1b[2J", "?[2J"},       {"a\nb\rc\x7f", "a?b?c?"}, {"\xc2\x9b", "??"}, /* C1 */
		{"\xe2\x80\xae.", "???."}, /* right to left from here on */
		{"\xff\xfe", "??"},        /* no UTF-8 */
		{"\xe4\xb8", "??"},        /* half of a character */
		{"e\xcc\x81", "e??"},      /* a mark without a place of its own */
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		lb_top_text_begin(&t, 80);
		lb_top_text_put(&t, cases[i].text);
		assert_string_equal(t.bytes, cases[i].wanted);
		assert_int_equal(t.columns, strlen(cases[i].wanted));
		assert_int_equal(lb_top_text_columns(cases[i].text), strlen(cases[i].wanted));
	}
}

static void a_terminal_that_knows_ascii_alone_gets_nothing_else(void **state)
{
	lb_top_text_begin(&t, 80);
	lb_top_text_put(&t, "\xc3\xbc.");
	assert_string_equal(t.bytes, "??.");
}

static void a_line_is_never_longer_than_the_terminal_is_wide(void **state)
{
	static char longest[5000];

	memset(longest, 'x', sizeof(longest) - 1);
	for (size_t width = 0; width < 3; width++) {
		lb_top_text_begin(&t, width);
		lb_top_text_put(&t, "abc");
		lb_top_text_put_cell(&t, "abc", 10, true);
		lb_top_text_fill(&t);
		assert_int_equal(t.columns, width);
		assert_int_equal(strlen(t.bytes), width);
	}
	lb_top_text_begin(&t, 100000);
	lb_top_text_put(&t, longest);
	lb_top_text_put_cell(&t, longest, 10, true);
	lb_top_text_fill(&t);
	assert_int_equal(t.len, LB_TOP_WIDTH_MAX);
	lb_top_text_begin(&t, LB_TOP_WIDTH_MAX);
	for (int i = 0; i < 2 * LB_TOP_WIDTH_MAX; i++)
		lb_top_text_put(&t, "\xf0\x9f\x98\x80");
	lb_top_text_fill(&t);
	assert_int_equal(t.columns, LB_TOP_WIDTH_MAX);
	assert_true(t.len < sizeof(t.bytes));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(a_cell_is_filled_up_or_cut, setup_utf8),
		cmocka_unit_test_setup(wide_characters_take_two_columns, setup_utf8),
		cmocka_unit_test_setup(what_steers_hides_or_turns_is_shown_as_such, setup_utf8),
		cmocka_unit_test_setup(a_terminal_that_knows_ascii_alone_gets_nothing_else,
				       setup_c),
		cmocka_unit_test_setup(a_line_is_never_longer_than_the_terminal_is_wide,
				       setup_utf8),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
