/* SPDX-License-Identifier: MIT */
/* What lbctl puts into words the daemon's parser takes out again. */
#include "tools/lbctl/ask.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "control/admin_request.h"

static void words_come_back_as_they_were(void **state)
{
	static const char *const names[] = {"web", "my rule", "a\"b", "a\\b",    " ",
					    "\"",  "\\\"",    "a=b",  "\xc3\xbc"};
	char why[LB_ADMIN_WHY_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(names); i++) {
		struct lb_admin_request r;
		struct lb_ask a = {0};

		lb_ask_add(&a, "drain");
		lb_ask_add(&a, names[i]);
		lb_ask_add(&a, names[LB_ARRAY_SIZE(names) - 1 - i]);
		lb_ask_add_option(&a, "deadline_ms", "5");
		assert_false(a.failed);
		if (lb_admin_request_parse(&r, a.text, a.len, why))
			fail_msg("%.*s: %s", (int)a.len, a.text, why);
		assert_string_equal(r.rule, names[i]);
		assert_string_equal(r.backend, names[LB_ARRAY_SIZE(names) - 1 - i]);
		assert_int_equal(r.deadline_ms, 5);
		a = (struct lb_ask){0};
		lb_ask_add(&a, "flows");
		lb_ask_add_option(&a, "rule", names[i]);
		assert_int_equal(lb_admin_request_parse(&r, a.text, a.len, why), 0);
		assert_string_equal(r.rule, names[i]);
	}
}

static void a_request_is_never_longer_than_a_line(void **state)
{
	static char word[LB_ADMIN_LINE_MAX + 1];
	struct lb_ask a = {0}, b = {0};

	memset(word, 'x', LB_ADMIN_LINE_MAX);
	lb_ask_add(&a, word);
	assert_false(a.failed);
	lb_ask_add(&a, "y");
	assert_true(a.failed);
	memset(word, '"', LB_ADMIN_LINE_MAX);
	lb_ask_add(&b, word);
	assert_true(b.failed);
}

static void a_reply_is_a_whole_line(void **state)
{
	LB_AUTO_FREE char *reply = NULL;
	struct lb_ask a = {0};
	char request[16] = "";
	int ends[2];
	size_t len;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	lb_ask_add(&a, "status");
	assert_int_equal(send(ends[1], "{\"ok\":true}\n", 12, 0), 12);
	assert_int_equal(lb_ask_send(ends[0], &a, &reply, &len), 0);
	assert_string_equal(reply, "{\"ok\":true}");
	assert_int_equal(len, 11);
	assert_int_equal(recv(ends[1], request, sizeof(request), 0), 7);
	assert_string_equal(request, "status\n");
	/* Half of one, and then nobody. */
	assert_int_equal(send(ends[1], "{\"ok\":", 6, 0), 6);
	close(ends[1]);
	a = (struct lb_ask){0};
	lb_ask_add(&a, "status");
	assert_int_not_equal(lb_ask_send(ends[0], &a, &reply, &len), 0);
	close(ends[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words_come_back_as_they_were),
		cmocka_unit_test(a_request_is_never_longer_than_a_line),
		cmocka_unit_test(a_reply_is_a_whole_line),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
