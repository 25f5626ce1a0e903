/* SPDX-License-Identifier: MIT */
/*
 * Files that load and files that do not, each with the exact answer beside it:
 *
 *   tests/config/NN-name.yaml   with  .ok   notices as comments, then the canonical form
 *                               or    .err  notices, "line:column: message"
 *   tests/config/compat/        in another product's words; the first line is the answer
 *   lb.yaml, docs/configuration.md, docs/lb.yaml.5, docs/lb.schema.json
 *
 * Every file is a test of its own. LB_GOLDEN_UPDATE=1 writes the answers instead of comparing them.
 * Runs from the top of the tree.
 */
#include <dirent.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "config/schema.h"
#include "support.h"

#define DIR_GOLDEN "tests/config"
#define DIR_COMPAT "tests/config/compat"
#define TESTS_MAX  512
#define PATH_BYTES 512

static bool updating(void)
{
	return getenv("LB_GOLDEN_UPDATE") != NULL;
}

/* Compares <actual> with the file at <path>, or writes it there. */
static void compare_with_file(const char *path, const char *actual)
{
	LB_AUTO_FREE char *expected = NULL;
	size_t size;

	if (updating()) {
		FILE *out = fopen(path, "we");

		assert_non_null(out);
		fputs(actual, out);
		assert_int_equal(fclose(out), 0);
		return;
	}
	expected = slurp(path, &size);
	if (!expected)
		fail_msg("%s is missing (LB_GOLDEN_UPDATE=1 writes it)", path);
	assert_string_equal(actual, expected);
}

/* "x.yaml" -> "x.ok" */
static void answer_path(const char *yaml, const char *suffix, char path[PATH_BYTES])
{
	snprintf(path, PATH_BYTES, "%.*s.%s", (int)(strlen(yaml) - strlen(".yaml")), yaml, suffix);
}

/* Prefixes every line of <text> with "# ". To be freed. */
static char *as_comments(const char *text)
{
	char *result = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&result, &size);

	assert_non_null(out);
	for (const char *p = text; *p; p++) {
		if (p == text || p[-1] == '\n')
			fputs("# ", out);
		fputc(*p, out);
	}
	assert_int_equal(fclose(out), 0);
	return result;
}

static void check_fixed_point(const char *canonical)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = loaded(canonical, &notices);
	LB_AUTO_FREE char *again = printed(config);

	assert_string_equal(again, canonical);
	lb_config_free(&config);
	lb_config_notices_fini(&notices);
}

static void check_accepted(const char *yaml, const struct lb_config *config, const char *notices)
{
	LB_AUTO_FREE char *canonical = printed(config);
	LB_AUTO_FREE char *comments = as_comments(notices);
	LB_AUTO_FREE char *answer = NULL;
	char path[PATH_BYTES];

	answer_path(yaml, "ok", path);
	assert_true(asprintf(&answer, "%s%s", comments, canonical) >= 0);
	compare_with_file(path, answer);
	check_fixed_point(canonical);
	answer_path(yaml, "err", path);
	assert_int_equal(access(path, F_OK), -1);
}

static void check_refused(const char *yaml, const char *notices)
{
	char path[PATH_BYTES];

	answer_path(yaml, "err", path);
	compare_with_file(path, notices);
	answer_path(yaml, "ok", path);
	assert_int_equal(access(path, F_OK), -1);
}

static void gives_the_answer_beside_it(void **state)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = NULL;
	LB_AUTO_FREE char *lines = NULL;
	const char *yaml = *state;
	int r = lb_config_load(&config, yaml, &notices);

	lines = listed(&notices);
	if (r == 0) {
		assert_int_equal(notices.errors, 0);
		check_accepted(yaml, config, lines);
	} else {
		assert_int_equal(r, -EINVAL);
		assert_null(config);
		assert_true(notices.errors > 0);
		check_refused(yaml, lines);
	}
	lb_config_free(&config);
	lb_config_notices_fini(&notices);
}

static void has_a_question(void **state)
{
	const char *answer = *state;
	char path[PATH_BYTES];

	snprintf(path, sizeof(path), "%.*s.yaml", (int)(strrchr(answer, '.') - answer), answer);
	if (access(path, F_OK) != 0)
		fail_msg("%s answers no %s", answer, path);
}

/* "loads", "loads, with a warning that KEY SAYS THIS", "refused: WORDS (nearest known key: KEY)" */
static void check_promise(const char *promise, int r, const char *notices)
{
	LB_AUTO_FREE char *rest = NULL;
	char *nearest, *said;

	if (strncmp(promise, "loads", 5) == 0) {
		static const char warning[] = ", with a warning that ";

		assert_int_equal(r, 0);
		if (!promise[5])
			return;
		assert_memory_equal(promise + 5, warning, strlen(warning));
		rest = strdup(promise + 5 + strlen(warning));
		said = strchr(rest, ' ');
		assert_non_null(said);
		*said++ = '\0';
		assert_non_null(strstr(notices, rest));
		assert_non_null(strstr(notices, said));
		return;
	}
	assert_memory_equal(promise, "refused: ", 9);
	assert_int_equal(r, -EINVAL);
	rest = strdup(promise + 9);
	nearest = strstr(rest, " (nearest known key: ");
	if (nearest) {
		*nearest = '\0';
		nearest += strlen(" (nearest known key: ");
		nearest[strcspn(nearest, ")")] = '\0';
		assert_non_null(strstr(notices, nearest));
	}
	assert_non_null(strstr(notices, rest));
}

static void keeps_its_first_line(void **state)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = NULL;
	LB_AUTO_FREE char *text = NULL, *lines = NULL;
	const char *yaml = *state;
	size_t size;
	int r;

	text = slurp(yaml, &size);
	assert_non_null(text);
	assert_memory_equal(text, "# ", 2);
	text[strcspn(text, "\n")] = '\0';

	r = lb_config_load(&config, yaml, &notices);
	lines = listed(&notices);
	check_promise(text + 2, r, lines);
	lb_config_free(&config);
	lb_config_notices_fini(&notices);
}

static void the_shipped_sample_loads_without_a_word(void **state)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = NULL;
	LB_AUTO_FREE char *canonical = NULL;

	assert_int_equal(lb_config_load(&config, "lb.yaml", &notices), 0);
	assert_int_equal(notices.count, 0);
	assert_false(lb_config_notices_refuse(&notices));
	assert_string_equal(config->path, "lb.yaml");
	canonical = printed(config);
	check_fixed_point(canonical);
	lb_config_free(&config);
	lb_config_notices_fini(&notices);
}

static void print_json(FILE *out)
{
	assert_int_equal(lb_schema_print_json(out), 0);
}

static void compare_document(const char *path, void (*print)(FILE *out))
{
	LB_AUTO_FREE char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	print(out);
	assert_int_equal(fclose(out), 0);
	compare_with_file(path, text);
}

static void the_reference_says_what_the_table_says(void **state)
{
	compare_document("docs/configuration.md", lb_schema_print_markdown);
}

static void the_manual_page_says_what_the_table_says(void **state)
{
	compare_document("docs/lb.yaml.5", lb_schema_print_man);
}

static void the_schema_for_editors_says_what_the_table_says(void **state)
{
	compare_document("docs/lb.schema.json", print_json);
}

/* Every key of the table is in the canonical form of the file that sets them all. */
static void check_block_is_printed(const struct lb_schema_block *block, const char *canonical)
{
	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];
		char line[64];

		snprintf(line, sizeof(line), " %s:", key->name);
		if (!strstr(canonical, line) && !strstr(canonical, line + 1))
			fail_msg("02-everything.yaml does not set %s", key->name);
		if (key->type == LB_SCHEMA_BLOCK)
			check_block_is_printed(key->block, canonical);
	}
}

static void no_key_is_forgotten_in_02_everything(void **state)
{
	LB_AUTO_FREE char *canonical = NULL;
	size_t size;

	canonical = slurp(DIR_GOLDEN "/02-everything.ok", &size);
	assert_non_null(canonical);
	check_block_is_printed(&lb_schema_root, canonical);
}

static struct CMUnitTest tests[TESTS_MAX] = {
	cmocka_unit_test(the_shipped_sample_loads_without_a_word),
	cmocka_unit_test(the_reference_says_what_the_table_says),
	cmocka_unit_test(the_manual_page_says_what_the_table_says),
	cmocka_unit_test(the_schema_for_editors_says_what_the_table_says),
	cmocka_unit_test(no_key_is_forgotten_in_02_everything),
};
#define TESTS_FIXED 5
static size_t tests_count = TESTS_FIXED;

static bool has_suffix(const char *name, const char *suffix)
{
	size_t n = strlen(name), m = strlen(suffix);

	return n > m && strcmp(name + n - m, suffix) == 0;
}

static void add(const char *dir, const char *name, CMUnitTestFunction test)
{
	struct CMUnitTest *t = &tests[tests_count++];
	char *path;

	if (tests_count > TESTS_MAX || asprintf(&path, "%s/%s", dir, name) < 0)
		abort();
	*t = (struct CMUnitTest){.name = path, .test_func = test, .initial_state = path};
}

/* Adds a test for each file of <dir> whose name ends in <suffix>; returns how many. */
static size_t add_all(const char *dir, const char *suffix, CMUnitTestFunction test)
{
	struct dirent **names;
	int n = scandir(dir, &names, NULL, alphasort);
	size_t added = 0;

	for (int i = 0; i < n; i++) {
		if (has_suffix(names[i]->d_name, suffix)) {
			add(dir, names[i]->d_name, test);
			added++;
		}
		free(names[i]);
	}
	if (n >= 0)
		free(names);
	return added;
}

int main(void)
{
	int failed;

	if (!add_all(DIR_GOLDEN, ".yaml", gives_the_answer_beside_it) ||
	    !add_all(DIR_COMPAT, ".yaml", keeps_its_first_line)) {
		fprintf(stderr, "no files in " DIR_GOLDEN ": run this from the top of the tree\n");
		return 1;
	}
	add_all(DIR_GOLDEN, ".ok", has_a_question);
	add_all(DIR_GOLDEN, ".err", has_a_question);
	unsetenv("NUM_ACCEPTORS");
	failed = _cmocka_run_group_tests("config golden", tests, tests_count, NULL, NULL);
	for (size_t i = TESTS_FIXED; i < tests_count; i++)
		free(tests[i].initial_state);
	return failed;
}
