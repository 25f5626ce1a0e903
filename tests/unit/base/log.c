/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/cleanup.h"

#define HEAD_LEN (sizeof("2026-01-31T12:00:00.000Z error ") - 1)

/* Standard error goes into a pipe while a test runs. */
struct captured {
	int read_fd;
	int saved_stderr;
	char text[65536];
};

static int setup_captured(void **state)
{
	static struct captured c;
	int fds[2];

	if (pipe2(fds, O_CLOEXEC | O_NONBLOCK))
		return -1;
	c.read_fd = fds[0];
	c.saved_stderr = dup(STDERR_FILENO);
	dup2(fds[1], STDERR_FILENO);
	close(fds[1]);
	lb_log_set_level(LB_LOG_INFO);
	lb_log_set_format(LB_LOG_TEXT);
	*state = &c;
	return 0;
}

static int teardown_captured(void **state)
{
	struct captured *c = *state;

	dup2(c->saved_stderr, STDERR_FILENO);
	close(c->saved_stderr);
	close(c->read_fd);
	return 0;
}

/* Everything logged since the last call, "" for nothing. */
static const char *logged(struct captured *c)
{
	ssize_t len = read(c->read_fd, c->text, sizeof(c->text) - 1);

	c->text[len > 0 ? len : 0] = '\0';
	return c->text;
}

static void a_line_has_time_level_and_text(void **state)
{
	const char *line;
	unsigned n[7];

	lb_warn("%s %d", "text", 7);
	line = logged(*state);
	assert_int_equal(sscanf(line, "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ", &n[0], &n[1], &n[2], &n[3],
				&n[4], &n[5], &n[6]),
			 7);
	assert_string_equal(line + HEAD_LEN - 6, "warn  text 7\n");
}

static void lines_above_the_level_are_dropped(void **state)
{
	for (enum lb_log_level max = LB_LOG_ERROR; max <= LB_LOG_DEBUG; max++) {
		lb_log_set_level(max);
		for (enum lb_log_level level = LB_LOG_ERROR; level <= LB_LOG_DEBUG; level++) {
			lb_log(level, "x");
			assert_int_equal(*logged(*state) != '\0', level <= max);
		}
	}
}

static void debug_arguments_are_not_evaluated_when_dropped(void **state)
{
	int calls = 0;

	lb_debug("%d", ++calls);
	assert_int_equal(calls, 0);
	lb_log_set_level(LB_LOG_DEBUG);
	lb_debug("%d", ++calls);
	assert_int_equal(calls, 1);
}

static void quoted_text_cannot_forge_a_line(void **state)
{
	lb_info("peer said: %s", "a\nb\rc\x1b[31m\td\x7f");
	assert_string_equal(logged(*state) + HEAD_LEN, "peer said: a b c [31m d \n");
}

static void a_newline_of_the_caller_is_not_doubled(void **state)
{
	lb_info("text\n\n");
	assert_string_equal(logged(*state) + HEAD_LEN, "text\n");
}

static void a_long_line_is_cut_with_dots(void **state)
{
	char text[8192];
	const char *line;
	size_t len;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	lb_info("%s", text);
	line = logged(*state);
	len = strlen(line);
	assert_int_equal(len, 2048);
	assert_string_equal(line + len - 5, "x...\n");
}

static void errno_is_usable_and_kept(void **state)
{
	errno = ENOSPC;
	lb_err("%m");
	assert_int_equal(errno, ENOSPC);
	assert_non_null(strstr(logged(*state), "No space left on device"));
}

static json_t *logged_json(struct captured *c)
{
	const char *line = logged(c);
	json_t *value = json_loads(line, 0, NULL);

	assert_non_null(value);
	assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
	assert_true(strlen(line) <= 4096);
	return value;
}

static const char *member(const json_t *line, const char *key)
{
	return json_string_value(json_object_get(line, key));
}

static void a_json_line_has_the_same_parts(void **state)
{
	json_t *line;
	unsigned n[7];

	lb_log_set_format(LB_LOG_JSON);
	errno = ENOSPC;
	lb_warn("peer said: %s: %m\n", "a\nb \"c\" \\ \xff");
	assert_int_equal(errno, ENOSPC);
	line = logged_json(*state);
	assert_int_equal(json_object_size(line), 3);
	assert_int_equal(sscanf(member(line, "time"), "%4u-%2u-%2uT%2u:%2u:%2u.%3uZ", &n[0], &n[1],
				&n[2], &n[3], &n[4], &n[5], &n[6]),
			 7);
	assert_string_equal(member(line, "level"), "warn");
	assert_string_equal(member(line, "message"),
			    "peer said: a\nb \"c\" \\ \xef\xbf\xbd: No space left on device");
	json_decref(line);
}

static void a_long_json_line_is_json_still(void **state)
{
	char text[8192];
	json_t *line, *message;

	lb_log_set_format(LB_LOG_JSON);
	for (const char *c = "x\x01\xff\"\n"; *c; c++) {
		memset(text, *c, sizeof(text) - 1);
		text[sizeof(text) - 1] = '\0';
		lb_info("%sEND", text);
		line = logged_json(*state);
		message = json_object_get(line, "message");
		assert_true(json_string_length(message) > 600);
		/* It says that there was more. */
		assert_string_equal(json_string_value(message) + json_string_length(message) - 3,
				    "...");
		json_decref(line);
	}
}

#define THREADS      4
#define THREAD_LINES 50

static void *log_from_thread(void *arg)
{
	for (int i = 0; i < THREAD_LINES; i++)
		lb_info("%s", (const char *)arg);
	return NULL;
}

static void lines_of_threads_do_not_mix(void **state)
{
	static const char *const texts[THREADS] = {"aaaaaaaa", "bbbbbbbb", "cccccccc", "dddddddd"};
	int seen[THREADS] = {0};
	pthread_t threads[THREADS];
	char *line, *save = NULL;

	for (int i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, log_from_thread, (void *)texts[i]);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);

	line = strtok_r((char *)logged(*state), "\n", &save);
	for (; line; line = strtok_r(NULL, "\n", &save)) {
		for (int i = 0; i < THREADS; i++)
			seen[i] += !strcmp(line + HEAD_LEN, texts[i]);
	}
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(seen[i], THREAD_LINES);
}

static void level_words_parse_in_any_case_or_leave_the_output(void **state)
{
	static const struct {
		const char *word;
		enum lb_log_level level;
	} cases[] = {
		{"error", LB_LOG_ERROR}, {"warn", LB_LOG_WARN},   {"Warning", LB_LOG_WARN},
		{"INFO", LB_LOG_INFO},   {"debug", LB_LOG_DEBUG}, {"trace", LB_LOG_DEBUG},
	};
	enum lb_log_level level;

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		assert_int_equal(lb_log_level_parse(cases[i].word, &level), 0);
		assert_int_equal(level, cases[i].level);
	}
	level = LB_LOG_WARN;
	assert_int_equal(lb_log_level_parse("", &level), -EINVAL);
	assert_int_equal(lb_log_level_parse("informative", &level), -EINVAL);
	assert_int_equal(level, LB_LOG_WARN);
}

static void every_level_name_parses_to_itself(void **state)
{
	for (enum lb_log_level level = LB_LOG_ERROR; level <= LB_LOG_DEBUG; level++) {
		enum lb_log_level parsed;

		assert_int_equal(lb_log_level_parse(lb_log_level_name(level), &parsed), 0);
		assert_int_equal(parsed, level);
	}
}

#define captured_test(f) cmocka_unit_test_setup_teardown(f, setup_captured, teardown_captured)

int main(void)
{
	const struct CMUnitTest tests[] = {
		captured_test(a_line_has_time_level_and_text),
		captured_test(lines_above_the_level_are_dropped),
		captured_test(debug_arguments_are_not_evaluated_when_dropped),
		captured_test(quoted_text_cannot_forge_a_line),
		captured_test(a_newline_of_the_caller_is_not_doubled),
		captured_test(a_long_line_is_cut_with_dots),
		captured_test(errno_is_usable_and_kept),
		captured_test(a_json_line_has_the_same_parts),
		captured_test(a_long_json_line_is_json_still),
		captured_test(lines_of_threads_do_not_mix),
		cmocka_unit_test(level_words_parse_in_any_case_or_leave_the_output),
		cmocka_unit_test(every_level_name_parses_to_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
