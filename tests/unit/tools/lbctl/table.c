/* SPDX-License-Identifier: MIT */
#include "tools/lbctl/table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static const struct lb_table_column columns[] = {{"NAME", false}, {"N", true}, {"LAST", false}};

static void prints(const char *const *cells, size_t count, const char *wanted)
{
	LB_AUTO(lb_table_free) struct lb_table *t = NULL;
	LB_AUTO_FREE char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	assert_int_equal(lb_table_new(&t, columns, LB_ARRAY_SIZE(columns)), 0);
	for (size_t i = 0; i < count; i++)
		lb_table_add(t, cells[i]);
	assert_int_equal(lb_table_print(t, out), 0);
	fclose(out);
	assert_string_equal(text, wanted);
}

static void columns_are_as_wide_as_their_widest_cell(void **state)
{
	static const char *const cells[] = {"a", "1", "x", "a long one", "12345", "yy"};

	prints(cells, LB_ARRAY_SIZE(cells),
	       "NAME            N  LAST\n"
	       "a               1  x\n"
	       "a long one  12345  yy\n");
}

static void without_rows_there_are_the_heads(void **state)
{
	prints(NULL, 0, "NAME  N  LAST\n");
}

static void a_row_that_is_not_whole_is_not_printed(void **state)
{
	static const char *const cells[] = {"a", "1", "x", "b"};

	prints(cells, LB_ARRAY_SIZE(cells), "NAME  N  LAST\na     1  x\n");
}

static void characters_count_not_bytes(void **state)
{
	static const char *const cells[] = {"\xc3\xbc\xc3\xb6\xe2\x82\xac!!", "1", "x"};

	prints(cells, LB_ARRAY_SIZE(cells),
	       "NAME   N  LAST\n\xc3\xbc\xc3\xb6\xe2\x82\xac!!  1  x\n");
}

static void nothing_steers_the_terminal(void **state)
{
	static const char *const cells[] = {"\x1b[2J", "\n", "\xc2\x9b\x7f"};

	prints(cells, LB_ARRAY_SIZE(cells), "NAME  N  LAST\n?[2J  ?  ???\n");
}

static void counts_have_three_digits_at_most(void **state)
{
	static const struct {
		uint64_t n;
		const char *text;
	} cases[] = {
		{0, "0"},
		{999, "999"},
		{1000, "1.0k"},
		{9999, "9.9k"},
		{10000, "10k"},
		{999999, "999k"},
		{1000000, "1.0M"},
		{34567890, "34M"},
		{1000000000, "1.0G"},
		{UINT64_MAX, "18E"},
	};
	char buf[LB_NUMBER_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++)
		assert_string_equal(lb_number_count(cases[i].n, buf), cases[i].text);
}

static void times_have_two_units_at_most(void **state)
{
	static const struct {
		uint64_t ms;
		const char *text;
	} cases[] = {
		{0, "0ms"},
		{999, "999ms"},
		{1000, "1.0s"},
		{9999, "9.9s"},
		{59999, "59s"},
		{60000, "1m00s"},
		{250000, "4m10s"},
		{3599999, "59m59s"},
		{3600000, "1h00m"},
		{86399999, "23h59m"},
		{86400000, "1d00h"},
		{446400000, "5d04h"},
		{UINT64_MAX, "213503982334d14h"},
	};
	char buf[LB_NUMBER_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++)
		assert_string_equal(lb_number_ms(cases[i].ms, buf), cases[i].text);
	assert_string_equal(lb_number_us(85, buf), "85us");
	assert_string_equal(lb_number_us(1234, buf), "1.2ms");
	assert_string_equal(lb_number_us(340000, buf), "340ms");
	assert_string_equal(lb_number_us(2100000, buf), "2.1s");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(columns_are_as_wide_as_their_widest_cell),
		cmocka_unit_test(without_rows_there_are_the_heads),
		cmocka_unit_test(a_row_that_is_not_whole_is_not_printed),
		cmocka_unit_test(characters_count_not_bytes),
		cmocka_unit_test(nothing_steers_the_terminal),
		cmocka_unit_test(counts_have_three_digits_at_most),
		cmocka_unit_test(times_have_two_units_at_most),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
