/* SPDX-License-Identifier: MIT */
/* same_host: where the control groups are mounted. */
#include "kernel/same_host.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static int find(const char *mounts, char *ret, size_t size)
{
	char text[512];
	LB_AUTO_FCLOSE FILE *f = NULL;

	snprintf(text, sizeof(text), "%s", mounts);
	f = fmemopen(text, strlen(text), "r");
	assert_non_null(f);
	return lb_same_host_find_cgroup(f, ret, size);
}

static void the_second_version_is_found_beside_the_first(void **state)
{
	char at[64];

	assert_int_equal(find("cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
			      "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n",
			      at, sizeof(at)),
			 0);
	assert_string_equal(at, "/sys/fs/cgroup/unified");
}

static void a_name_with_a_space_is_unescaped(void **state)
{
	char at[64];

	assert_int_equal(find("none /mnt/c\\040g cgroup2 rw 0 0\n", at, sizeof(at)), 0);
	assert_string_equal(at, "/mnt/c g");
}

static void nothing_is_found_where_there_is_none(void **state)
{
	char at[64] = "untouched";

	assert_int_equal(find("cgroup2 /not/really tmpfs rw 0 0\n", at, sizeof(at)), -ENOENT);
	assert_string_equal(at, "untouched");
}

static void a_name_that_does_not_fit_is_not_cut(void **state)
{
	char at[8] = "as was";

	assert_int_equal(find("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", at, sizeof(at)), -ENOENT);
	assert_string_equal(at, "as was");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_second_version_is_found_beside_the_first),
		cmocka_unit_test(a_name_with_a_space_is_unescaped),
		cmocka_unit_test(nothing_is_found_where_there_is_none),
		cmocka_unit_test(a_name_that_does_not_fit_is_not_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
