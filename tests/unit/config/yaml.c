/* SPDX-License-Identifier: MIT */
#include "config/yaml.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static struct lb_yaml *parsed(const char *text)
{
	struct lb_yaml_error error = {0};
	struct lb_yaml *doc = NULL;

	if (lb_yaml_parse(&doc, text, strlen(text), &error))
		fail_msg("%u:%u: %s in:\n%s", error.line, error.column, error.text, text);
	return doc;
}

/* <text> must be refused at line:column with a message that holds <words>. */
static void check_refused(const char *text, size_t size, uint32_t line, uint32_t column,
			  const char *words)
{
	struct lb_yaml_error error = {0};
	struct lb_yaml *doc = NULL;

	assert_int_equal(lb_yaml_parse(&doc, text, size, &error), -EINVAL);
	assert_null(doc);
	if (error.line != line || error.column != column || !strstr(error.text, words))
		fail_msg("%u:%u: %s instead of %u:%u and \"%s\"", error.line, error.column,
			 error.text, line, column, words);
}

/* <unit> <count> times between <head> and <tail>; to be freed. */
static char *repeated(const char *head, const char *unit, size_t count, const char *tail)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	fputs(head, out);
	for (size_t i = 0; i < count; i++)
		fputs(unit, out);
	fputs(tail, out);
	assert_int_equal(fclose(out), 0);
	return text;
}

static void nodes_know_where_they_stood(void **state)
{
	LB_AUTO(lb_yaml_free)
	struct lb_yaml *doc = parsed("a: 1\n"
				     "é:  [x, 'y']\n"
				     "c:\n"
				     "  d: z\n");
	const struct lb_yaml_node *list, *inner;

	assert_int_equal(doc->root->kind, LB_YAML_MAPPING);
	assert_int_equal(doc->root->count, 3);
	list = lb_yaml_get(doc->root, "é");
	assert_int_equal(list->kind, LB_YAML_SEQUENCE);
	assert_int_equal(list->line, 2);
	assert_int_equal(list->column, 5); /* characters, not bytes */
	assert_true(lb_yaml_at(list, 0)->plain);
	assert_false(lb_yaml_at(list, 1)->plain);
	assert_int_equal(lb_yaml_at(list, 1)->column, 9);
	inner = lb_yaml_get_key(lb_yaml_get(doc->root, "c"), "d");
	assert_string_equal(inner->text, "d");
	assert_int_equal(inner->line, 4);
	assert_int_equal(inner->column, 3);
}

static void asking_for_what_is_not_there_gives_null(void **state)
{
	LB_AUTO(lb_yaml_free) struct lb_yaml *doc = parsed("a: [1]");
	const struct lb_yaml_node *list = lb_yaml_get(doc->root, "a");

	assert_null(lb_yaml_get(doc->root, "b"));
	assert_null(lb_yaml_get_key(doc->root, "b"));
	assert_null(lb_yaml_get(NULL, "a"));
	assert_null(lb_yaml_get_key(NULL, "a"));
	assert_null(lb_yaml_get(list, "a"));
	assert_null(lb_yaml_at(list, 1));
	assert_null(lb_yaml_at(doc->root, 0));
	assert_null(lb_yaml_at(NULL, 0));
}

static void an_alias_shares_the_anchored_node(void **state)
{
	LB_AUTO(lb_yaml_free) struct lb_yaml *doc = parsed("a: &x [1, 2]\nb: *x\nc: &x 3\nd: *x");

	assert_ptr_equal(lb_yaml_get(doc->root, "a"), lb_yaml_get(doc->root, "b"));
	/* An anchor that is set again counts from there on. */
	assert_string_equal(lb_yaml_get(doc->root, "d")->text, "3");
}

static void depth_is_bounded_exactly(void **state)
{
	LB_AUTO_FREE char *fits = NULL, *deep = NULL, *closing = NULL;
	LB_AUTO(lb_yaml_free) struct lb_yaml *doc = NULL;

	closing = repeated("", "]", LB_YAML_DEPTH_MAX, "");
	fits = repeated("", "[", LB_YAML_DEPTH_MAX, closing);
	doc = parsed(fits);
	deep = repeated("", "[", LB_YAML_DEPTH_MAX + 1, "");
	check_refused(deep, strlen(deep), 1, LB_YAML_DEPTH_MAX + 1, "nested");
}

static void number_of_values_is_bounded_exactly(void **state)
{
	LB_AUTO_FREE char *fits = NULL, *many = NULL;
	LB_AUTO(lb_yaml_free) struct lb_yaml *doc = NULL;

	fits = repeated("", "- a\n", LB_YAML_NODES_MAX - 1, "");
	doc = parsed(fits);
	assert_int_equal(doc->root->count, LB_YAML_NODES_MAX - 1);
	many = repeated("", "- a\n", LB_YAML_NODES_MAX, "");
	check_refused(many, strlen(many), LB_YAML_NODES_MAX, 3, "too large");
}

static void size_is_bounded_exactly(void **state)
{
	LB_AUTO_FREE char *text = malloc(LB_YAML_BYTES_MAX + 1);
	LB_AUTO(lb_yaml_free) struct lb_yaml *doc = NULL;
	struct lb_yaml_error error;

	assert_non_null(text);
	memset(text, '#', LB_YAML_BYTES_MAX + 1);
	memcpy(text, "a\n", 2);
	assert_int_equal(lb_yaml_parse(&doc, text, LB_YAML_BYTES_MAX, &error), 0);
	check_refused(text, LB_YAML_BYTES_MAX + 1, 1, 1, "too large");
}

static void keys_and_anchors_are_bounded(void **state)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	for (unsigned i = 0; i <= LB_YAML_KEYS_MAX; i++)
		fprintf(out, "k%u: 1\n", i);
	assert_int_equal(fclose(out), 0);
	check_refused(text, size, LB_YAML_KEYS_MAX + 1, 1, "keys in one mapping");
	free(text);

	out = open_memstream(&text, &size);
	for (unsigned i = 0; i <= LB_YAML_ANCHORS_MAX; i++)
		fprintf(out, "- &a%u x\n", i);
	assert_int_equal(fclose(out), 0);
	check_refused(text, size, LB_YAML_ANCHORS_MAX + 1, 3, "too many anchors");
	free(text);
}

static void refusals_name_the_place(void **state)
{
	static const struct {
		const char *text;
		uint32_t line, column;
		const char *words;
	} cases[] = {
		{"", 1, 1, "empty"},
		{"# only this\n", 2, 1, "empty"},
		{"a: 1\nb: 2\na: 3\n", 3, 1, "duplicate key \"a\", first given in line 1"},
		{"a: 1\n--- \nb: 2\n", 2, 1, "second document"},
		{"a: {b: *x}", 1, 8, "names no anchor"},
		{"a: &x {b: *x}", 1, 11, "names no anchor"},
		{"a: !!int 5", 1, 4, "tags"},
		{"[a]: 1", 1, 1, "a key must be a word"},
		{"\"\": 1", 1, 1, "a key is empty"},
		{"a: \"x\\0y\"", 1, 4, "NUL"},
		{"a: [1", 2, 1, "not YAML"},
		{"a:\n\tb: 1", 2, 1, "not YAML"},
		{"é: \x01", 1, 4, "not text"},
		{"a:\n - \xff", 2, 4, "not text"},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++)
		check_refused(cases[i].text, strlen(cases[i].text), cases[i].line, cases[i].column,
			      cases[i].words);
	check_refused("a\0b", 3, 1, 2, "NUL byte");
	check_refused(NULL, 0, 1, 1, "empty");
}

static void utf16_is_no_way_around_the_checks(void **state)
{
	static const char text[] = "\xff\xfe"
				   "a\0:\0 \0"
				   "1\0";

	check_refused(text, sizeof(text) - 1, 1, 4, "NUL byte");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_know_where_they_stood),
		cmocka_unit_test(asking_for_what_is_not_there_gives_null),
		cmocka_unit_test(an_alias_shares_the_anchored_node),
		cmocka_unit_test(depth_is_bounded_exactly),
		cmocka_unit_test(number_of_values_is_bounded_exactly),
		cmocka_unit_test(size_is_bounded_exactly),
		cmocka_unit_test(keys_and_anchors_are_bounded),
		cmocka_unit_test(refusals_name_the_place),
		cmocka_unit_test(utf16_is_no_way_around_the_checks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
