/* SPDX-License-Identifier: MIT */
#include "backend/answer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define OK200 "HTTP/1.1 200 OK\r\n"

static const struct lb_status_range only_204[] = {{204, 204}, {500, 502}};

/* What comes of <text> in pieces of <piece> bytes. */
static enum lb_verdict fed(struct lb_answer *a, const struct lb_health_check_config *config,
			   const char *text, size_t len, size_t piece)
{
	enum lb_verdict verdict = LB_VERDICT_MORE;

	lb_answer_init(a, config);
	for (size_t at = 0; at < len && verdict == LB_VERDICT_MORE; at += piece)
		verdict = lb_answer_feed(a, text + at, piece < len - at ? piece : len - at);
	return verdict;
}

static void assert_verdict(const struct lb_health_check_config *config, const char *text,
			   enum lb_verdict want, const char *cause)
{
	struct lb_answer a;

	for (size_t piece = 1; piece <= strlen(text) + 1; piece++) {
		assert_int_equal(fed(&a, config, text, strlen(text), piece), want);
		if (cause)
			assert_string_equal(a.cause, cause);
	}
}

static void the_status_decides_in_pieces_of_any_size(void **state)
{
	const struct lb_health_check_config http = {.protocol = LB_HEALTH_CHECK_HTTP};
	const struct {
		const char *text;
		enum lb_verdict verdict;
		const char *cause;
	} rows[] = {
		{OK200, LB_VERDICT_GOOD, NULL},
		{"HTTP/1.0 200 OK\r\n", LB_VERDICT_GOOD, NULL},
		{"HTTP/1.1 204\r\n", LB_VERDICT_GOOD, NULL},
		{"HTTP/1.1 399\n", LB_VERDICT_GOOD, NULL},
		{"HTTP/1.1 400 Bad\r\n", LB_VERDICT_BAD, "status 400"},
		{"HTTP/1.1 199 Odd\r\n\r\n", LB_VERDICT_MORE, NULL},
		{"HTTP/1.1 101 Switching\r\n", LB_VERDICT_BAD, "status 101"},
		{"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n", LB_VERDICT_BAD, "status 503"},
		{"HTTP/1.1 000 Zero\r\n", LB_VERDICT_BAD, "status 0"},
		{"HTTP/1.1 200", LB_VERDICT_MORE, NULL}, /* may be 2004 yet */
		{"HTTP/1.1 2004 OK\r\n", LB_VERDICT_BAD, "the answer is not HTTP/1"},
		{"HTTP/2.0 200 OK\r\n", LB_VERDICT_BAD, "the answer is not HTTP/1"},
		{"HTTP/1.2 200 OK\r\n", LB_VERDICT_BAD, "the answer is not HTTP/1"},
		{"http/1.1 200 OK\r\n", LB_VERDICT_BAD, "the answer is not HTTP/1"},
		{"HTTP/1.1  200 OK\r\n", LB_VERDICT_BAD, "the answer is not HTTP/1"},
		{"HTTP/1.1 2x0 OK\r\n", LB_VERDICT_BAD, "the answer is not HTTP/1"},
		{"SSH-2.0-OpenSSH\r\n", LB_VERDICT_BAD, "the answer is not HTTP/1"},
		{"\r\n" OK200, LB_VERDICT_BAD, "the answer is not HTTP/1"},
		/* Interim responses are read over, with their headers. */
		{"HTTP/1.1 100 Continue\r\n\r\n" OK200, LB_VERDICT_GOOD, NULL},
		{"HTTP/1.1 103 Early\r\nLink: <a>\r\nX: y\r\n\r\nHTTP/1.1 500 No\r\n",
		 LB_VERDICT_BAD, "status 500"},
		{"HTTP/1.1 100 C\n\n" OK200, LB_VERDICT_GOOD, NULL},
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		assert_verdict(&http, rows[i].text, rows[i].verdict, rows[i].cause);
}

static void expect_status_says_what_is_good(void **state)
{
	struct lb_health_check_config http = {.protocol = LB_HEALTH_CHECK_HTTP, .rise = 1};

	http.expect_status = (struct lb_status_range *)only_204;
	http.expect_status_count = 2;
	assert_verdict(&http, OK200, LB_VERDICT_BAD, "status 200");
	assert_verdict(&http, "HTTP/1.1 204 No\r\n", LB_VERDICT_GOOD, NULL);
	assert_verdict(&http, "HTTP/1.1 501 No\r\n", LB_VERDICT_GOOD, NULL);
	assert_verdict(&http, "HTTP/1.1 503 No\r\n", LB_VERDICT_BAD, "status 503");
}

static void headers_without_end_are_given_up(void **state)
{
	const struct lb_health_check_config http = {.protocol = LB_HEALTH_CHECK_HTTP};
	static char text[64 * 1024];
	struct lb_answer a;
	int n = snprintf(text, sizeof(text), "HTTP/1.1 102 Wait\r\nX: ");

	memset(text + n, 'y', sizeof(text) - (size_t)n);
	assert_int_equal(fed(&a, &http, text, sizeof(text), 1000), LB_VERDICT_BAD);
	assert_string_equal(a.cause, "no status in 16 KiB");
	assert_true(a.bytes <= 16385);
}

static void a_text_is_expected_from_the_first_byte_on(void **state)
{
	char expect[] = "+PONG\r\n";
	const struct lb_health_check_config tcp = {.expect = expect};

	assert_verdict(&tcp, "+PONG\r\n", LB_VERDICT_GOOD, NULL);
	assert_verdict(&tcp, "+PONG\r\nand more", LB_VERDICT_GOOD, NULL);
	assert_verdict(&tcp, "+PONG", LB_VERDICT_MORE, NULL);
	assert_verdict(&tcp, "-ERR", LB_VERDICT_BAD, "the answer is another one than `expect`");
	assert_verdict(&tcp, " +PONG\r\n", LB_VERDICT_BAD,
		       "the answer is another one than `expect`");
}

static void where_nothing_is_expected_a_connection_is_enough(void **state)
{
	const struct lb_health_check_config tcp = {}, http = {.protocol = LB_HEALTH_CHECK_HTTP};
	char expect[] = "x";
	const struct lb_health_check_config banner = {.expect = expect};
	struct lb_answer a;

	lb_answer_init(&a, &tcp);
	assert_int_equal(lb_answer_feed(&a, NULL, 0), LB_VERDICT_GOOD);
	lb_answer_init(&a, &http);
	assert_int_equal(lb_answer_feed(&a, NULL, 0), LB_VERDICT_MORE);
	lb_answer_init(&a, &banner);
	assert_int_equal(lb_answer_feed(&a, NULL, 0), LB_VERDICT_MORE);
}

static void an_end_is_bad_and_says_how_far_it_got(void **state)
{
	const struct lb_health_check_config http = {.protocol = LB_HEALTH_CHECK_HTTP};
	struct lb_answer a;

	lb_answer_init(&a, &http);
	assert_int_equal(lb_answer_end(&a), LB_VERDICT_BAD);
	assert_string_equal(a.cause, "closed without an answer");
	assert_int_equal(fed(&a, &http, "HTTP/1.1 20", 11, 11), LB_VERDICT_MORE);
	assert_int_equal(lb_answer_end(&a), LB_VERDICT_BAD);
	assert_string_equal(a.cause, "closed in the middle of the answer");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_status_decides_in_pieces_of_any_size),
		cmocka_unit_test(expect_status_says_what_is_good),
		cmocka_unit_test(headers_without_end_are_given_up),
		cmocka_unit_test(a_text_is_expected_from_the_first_byte_on),
		cmocka_unit_test(where_nothing_is_expected_a_connection_is_enough),
		cmocka_unit_test(an_end_is_bad_and_says_how_far_it_got),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
