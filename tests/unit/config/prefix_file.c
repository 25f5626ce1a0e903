/* SPDX-License-Identifier: MIT */
#include "config/prefix_file.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static struct lb_prefixes list;
static size_t line;
static char text[160];

static int read_bytes(const char *bytes, size_t count)
{
	FILE *in = fmemopen((void *)bytes, count, "r");
	int err;

	assert_non_null(in);
	err = lb_prefix_file_read(in, &list, &line, text, sizeof(text));
	fclose(in);
	return err;
}

static int read_text(const char *t)
{
	return read_bytes(t, strlen(t));
}

static int teardown(void **state)
{
	lb_prefixes_free(&list);
	return 0;
}

static void entries_comments_and_blanks(void **state)
{
	char buf[LB_PREFIX_STR_MAX];

	assert_int_equal(read_text("# bad people\r\n"
				   "10.0.0.0/8\n"
				   "\n"
				   "  \t192.168.1.1   # one\n"
				   "2001:db8::/32\r\n"
				   "#10.9.9.9\n"
				   "198.51.100.7"),
			 0);
	assert_int_equal(list.count, 4);
	assert_string_equal(lb_prefix_format(&list.all[0], buf), "10.0.0.0/8");
	assert_string_equal(lb_prefix_format(&list.all[1], buf), "192.168.1.1/32");
	assert_string_equal(lb_prefix_format(&list.all[2], buf), "2001:db8::/32");
	assert_string_equal(lb_prefix_format(&list.all[3], buf), "198.51.100.7/32");
}

static void nothing_but_comments_is_an_empty_list(void **state)
{
	assert_int_equal(read_text("# none\n\n"), 0);
	assert_int_equal(list.count, 0);
}

static void the_first_bad_line_is_named_and_nothing_is_kept(void **state)
{
	static const struct {
		const char *text;
		size_t line;
		const char *says;
	} cases[] = {
		{"10.0.0.0/8\n10.0.0.0/33\n", 2, "10.0.0.0/33"},
		{"10.0.0.0/8 10.1.0.0/16\n", 1, "no address"},
		{"\n\nexample.org\n", 3, "example.org"},
		{"10.0.0.256\n", 1, "10.0.0.256"},
		{"2001:db8::/129", 1, "2001:db8::/129"},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		assert_int_equal(read_text(cases[i].text), -EINVAL);
		assert_int_equal(line, cases[i].line);
		assert_non_null(strstr(text, cases[i].says));
		assert_null(list.all);
	}
}

static void what_is_no_text_is_refused(void **state)
{
	static const char nul[] = "10.0.0.1\n\0"
				  "10.0.0.2\n",
			  inside[] = "10.0.0.1\0 10.0.0.2";
	char *endless = malloc(100000);

	assert_int_equal(read_bytes(nul, sizeof(nul) - 1), -EINVAL);
	assert_int_equal(line, 2);
	assert_int_equal(read_bytes(inside, sizeof(inside) - 1), -EINVAL);
	assert_non_null(endless);
	memset(endless, '1', 100000);
	assert_int_equal(read_bytes(endless, 100000), -EINVAL);
	assert_int_equal(line, 1);
	free(endless);
}

static void a_hundred_thousand_lines(void **state)
{
	size_t size = 0;
	char *bytes = NULL;
	FILE *out = open_memstream(&bytes, &size);

	assert_non_null(out);
	for (unsigned int i = 0; i < 100000; i++)
		fprintf(out, "10.%u.%u.%u\n", i >> 16 & 255, i >> 8 & 255, i & 255);
	fclose(out);
	assert_int_equal(read_bytes(bytes, size), 0);
	assert_int_equal(list.count, 100000);
	free(bytes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(entries_comments_and_blanks, teardown),
		cmocka_unit_test_teardown(nothing_but_comments_is_an_empty_list, teardown),
		cmocka_unit_test_teardown(the_first_bad_line_is_named_and_nothing_is_kept,
					  teardown),
		cmocka_unit_test_teardown(what_is_no_text_is_refused, teardown),
		cmocka_unit_test_teardown(a_hundred_thousand_lines, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
