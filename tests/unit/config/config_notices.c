/* SPDX-License-Identifier: MIT */
#include "config/config_notices.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "support.h"

static void errors_and_warnings_look_like_a_compilers(void **state)
{
	static const struct {
		struct lb_config_notice notice;
		const char *path, *line;
	} cases[] = {
		{{LB_CONFIG_ERROR, 3, 5, "rules[0].listen", "is wrong"},
		 "lb.yaml",
		 "lb.yaml:3:5: rules[0].listen: is wrong"},
		{{LB_CONFIG_WARNING, 3, 5, "rules[0].queue", "not yet"},
		 NULL,
		 "3:5: warning: rules[0].queue: not yet"},
		{{LB_CONFIG_REFUSES_TO_RUN, 3, 5, "tls", "not yet"},
		 NULL,
		 "3:5: warning: tls: not yet"},
		{{LB_CONFIG_ERROR, 1, 1, NULL, "empty"}, "lb.yaml", "lb.yaml:1:1: empty"},
		{{LB_CONFIG_ERROR, 0, 0, "NUM_ACCEPTORS", "is wrong"},
		 "lb.yaml",
		 "lb.yaml: NUM_ACCEPTORS: is wrong"},
	};
	char line[128];

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		lb_config_notice_format(&cases[i].notice, cases[i].path, line, sizeof(line));
		assert_string_equal(line, cases[i].line);
	}
}

static void control_characters_do_not_get_through(void **state)
{
	struct lb_config_notices n = {0};

	lb_config_notices_add(&n, LB_CONFIG_ERROR, 1, 1, "k\x1b[31m", "a\nb\tc\x7f \xc2\x9b é");
	assert_string_equal(n.items[0].key, "k?[31m");
	assert_string_equal(n.items[0].text, "a?b?c? ?? é");
	lb_config_notices_fini(&n);
}

static void only_warnings_let_the_daemon_run(void **state)
{
	struct lb_config_notices n = {0};

	assert_false(lb_config_notices_refuse(&n));
	lb_config_notices_add(&n, LB_CONFIG_WARNING, 1, 1, "queue", "not yet");
	assert_false(lb_config_notices_refuse(&n));
	assert_int_equal(n.errors, 0);
	lb_config_notices_add(&n, LB_CONFIG_REFUSES_TO_RUN, 2, 1, "tls", "not yet");
	assert_true(lb_config_notices_refuse(&n));
	assert_int_equal(n.errors, 0);
	lb_config_notices_fini(&n);
	assert_false(lb_config_notices_refuse(&n));
	assert_null(n.items);
}

static void sorted_by_place_with_the_placeless_first(void **state)
{
	struct lb_config_notices n = {0};
	LB_AUTO_FREE char *lines = NULL;

	lb_config_notices_add(&n, LB_CONFIG_WARNING, 2, 9, NULL, "e");
	lb_config_notices_add(&n, LB_CONFIG_WARNING, 2, 3, NULL, "d");
	lb_config_notices_add(&n, LB_CONFIG_ERROR, 2, 3, NULL, "c");
	lb_config_notices_add(&n, LB_CONFIG_ERROR, 1, 8, NULL, "b");
	lb_config_notices_add(&n, LB_CONFIG_ERROR, 0, 0, NULL, "a");
	lb_config_notices_sort(&n);
	lines = listed(&n);
	assert_string_equal(lines, "a\n1:8: b\n2:3: c\n2:3: warning: d\n2:9: warning: e\n");
	lb_config_notices_fini(&n);
}

static void errors_beyond_the_bound_are_counted_only(void **state)
{
	struct lb_config_notices n = {0};
	LB_AUTO_FREE char *lines = NULL;

	for (uint32_t i = 1; i <= LB_CONFIG_ERRORS_KEPT + 7; i++)
		lb_config_notices_add(&n, LB_CONFIG_ERROR, i, 1, NULL, "no");
	lb_config_notices_add(&n, LB_CONFIG_WARNING, 99, 1, NULL, "still heard");
	assert_int_equal(n.errors, LB_CONFIG_ERRORS_KEPT + 7);
	assert_int_equal(n.count, LB_CONFIG_ERRORS_KEPT + 1);
	lines = listed(&n);
	assert_non_null(strstr(lines, "99:1: warning: still heard\n7 more errors\n"));
	lb_config_notices_fini(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(errors_and_warnings_look_like_a_compilers),
		cmocka_unit_test(control_characters_do_not_get_through),
		cmocka_unit_test(only_warnings_let_the_daemon_run),
		cmocka_unit_test(sorted_by_place_with_the_placeless_first),
		cmocka_unit_test(errors_beyond_the_bound_are_counted_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
