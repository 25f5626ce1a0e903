/* SPDX-License-Identifier: MIT */
/* version: what uname says, and which of it is trusted. */
#include "kernel/version.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"

static const struct {
	const char *release;
	const char *build;
	struct lb_version version;
	bool keeps_streams;
} kernels[] = {
	/* around each floor */
	{"6.1.141", "#1 SMP", {6, 1, 141}, false},
	{"6.1.142", "#1 SMP", {6, 1, 142}, true},
	{"6.6.94", "#1 SMP", {6, 6, 94}, false},
	{"6.6.95", "#1 SMP", {6, 6, 95}, true},
	{"6.12.34", "#1 SMP", {6, 12, 34}, false},
	{"6.12.35", "#1 SMP", {6, 12, 35}, true},
	{"6.15.11", "#1 SMP", {6, 15, 11}, false},
	{"6.16", "#1 SMP", {6, 16, 0}, true},
	{"6.16.0-rc1", "#1 SMP", {6, 16, 0}, true},
	{"7.0.1", "#1 SMP", {7, 0, 1}, true},
	{"10.0", "#1 SMP", {10, 0, 0}, true},
	{"5.19.300", "#1 SMP", {5, 19, 300}, false},
	/* series that ended before the fix, however high their patch level */
	{"6.2.999", "#1 SMP", {6, 2, 999}, false},
	{"6.14.11", "#1 SMP", {6, 14, 11}, false},
	/* distributions */
	{"6.1.0-44-amd64",
	 "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-11-01)",
	 {6, 1, 192},
	 true},
	{"6.1.0-37-amd64",
	 "#1 SMP PREEMPT_DYNAMIC Debian 6.1.140-1 (2025-05-22)",
	 {6, 1, 140},
	 false},
	{"6.1.0-44-rt-amd64", "#1 SMP PREEMPT_RT Debian 6.1.192-1 (2026-11-01)", {6, 1, 192}, true},
	{"6.12.107+deb12-amd64",
	 "#1 SMP PREEMPT_DYNAMIC Debian 6.12.107-1~bpo12+1 (2026-10-01)",
	 {6, 12, 107},
	 true},
	{"6.12.20+rpt-rpi-v8",
	 "#1 SMP PREEMPT Debian 1:6.12.47-1+rpt1 (2025-09-16)",
	 {6, 12, 47},
	 true},
	{"6.8.0-45-generic", "#45-Ubuntu SMP PREEMPT_DYNAMIC", {6, 8, 0}, false},
	{"6.1.147-172.266.amzn2023.x86_64", "#1 SMP PREEMPT_DYNAMIC", {6, 1, 147}, true},
	{"6.6.87.2-microsoft-standard-WSL2", "#1 SMP PREEMPT_DYNAMIC", {6, 6, 87}, false},
	{"6.12.0-55.el10.x86_64", "#1 SMP PREEMPT_DYNAMIC", {6, 12, 0}, false},
	/* a Debian mark of another series speaks of the compiler's host, not of this kernel */
	{"6.1.10", "#1 SMP Debian 6.12.107-1", {6, 1, 10}, false},
	{"6.1.10", "#1 SMP Debian unknown", {6, 1, 10}, false},
	{"6.1.10", "", {6, 1, 10}, false},
};

static void each_kernel_is_read_and_judged(void **state)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(kernels); i++) {
		struct lb_version v = {};

		print_message("%s, %s\n", kernels[i].release, kernels[i].build);
		assert_int_equal(lb_version_parse(kernels[i].release, kernels[i].build, &v), 0);
		assert_int_equal(v.major, kernels[i].version.major);
		assert_int_equal(v.minor, kernels[i].version.minor);
		assert_int_equal(v.patch, kernels[i].version.patch);
		assert_int_equal(lb_version_keeps_streams(&v), kernels[i].keeps_streams);
	}
}

static void what_is_no_version_is_refused_and_touches_nothing(void **state)
{
	static const char *const bad[] = {
		"",
		"linux",
		"6",
		"6.",
		"6.x",
		".6.1",
		"-6.1",
		" 6.1",
		"99999999999999999999.1",
		"6.99999999999999999999",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(bad); i++) {
		struct lb_version v = {1, 2, 3};

		print_message("\"%s\"\n", bad[i]);
		assert_int_equal(lb_version_parse(bad[i], "Debian 6.1.192-1", &v), -EINVAL);
		assert_int_equal(v.major, 1);
		assert_int_equal(v.minor, 2);
		assert_int_equal(v.patch, 3);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_kernel_is_read_and_judged),
		cmocka_unit_test(what_is_no_version_is_refused_and_touches_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
