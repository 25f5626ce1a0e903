/* SPDX-License-Identifier: MIT */
/* load: the one line of a verifier log that an operator should see. */
#include "kernel/load.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"

static const struct {
	const char *log;
	const char *line;
} logs[] = {
	{"", ""},
	{"\n\n", ""},
	{"one line", "one line"},
	{"one line\n", "one line"},
	{"0: R1=ctx()\n; int x = *p; @ a.c:1\n1: (61) r0 = *(u32 *)(r2 +0)\n"
	 "R2 !read_ok\n"
	 "processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0\n",
	 "R2 !read_ok"},
	{"unknown func bpf_x#1\nverification time 12 usec\nstack depth 0\n"
	 "processed 9 insns (limit 1000000)\n\n",
	 "unknown func bpf_x#1"},
	{"processed 9 insns (limit 1000000)\n", ""},
	{"processed\n", "processed"},
};

static void the_last_line_that_is_no_statistics(void **state)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(logs); i++) {
		char line[64] = "stale";

		lb_load_last_line(logs[i].log, line, sizeof(line));
		assert_string_equal(line, logs[i].line);
	}
}

static void a_long_line_is_cut(void **state)
{
	char line[5];

	lb_load_last_line("R2 !read_ok", line, sizeof(line));
	assert_string_equal(line, "R2 !");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_last_line_that_is_no_statistics),
		cmocka_unit_test(a_long_line_is_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
