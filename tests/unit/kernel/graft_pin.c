/* SPDX-License-Identifier: MIT */
/* graft_pin, graft_attach: names and handles by which versions and instances are told apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "kernel/graft_handle.h"

static void a_version_has_one_directory_name(void **state)
{
	static const char *const wrong[] = {"",      "abi",   "abi0", "abi01", "abi-1",
					    "abi1x", "abi 1", "ABI1", "xabi1", "abi99999999999"};
	static const uint32_t versions[] = {1, 2, 10, 77, 999999999};
	char name[16];

	for (size_t i = 0; i < LB_ARRAY_SIZE(wrong); i++)
		assert_int_equal(lb_graft_pin_abi_of(wrong[i]), 0);
	for (size_t i = 0; i < LB_ARRAY_SIZE(versions); i++) {
		lb_graft_pin_abi_name(versions[i], name);
		assert_int_equal(lb_graft_pin_abi_of(name), versions[i]);
	}
}

/* What is attached by one version is found by another: these numbers never change. */
static void handles_are_for_ever(void **state)
{
	assert_int_equal(lb_links_handle("layer4-lb", 1), 0x890bf01);
	assert_int_equal(lb_links_handle("layer4-lb-test", 1), 0x3aee5e01);
	assert_int_equal(lb_links_handle("layer4-lb-test", 77), 0x3aee5e4d);
}

/* Of the kernel's u32 none is 0, which would mean "choose one". */
static void no_handle_is_zero_or_negative(void **state)
{
	for (uint32_t abi = 1; abi < 256; abi++) {
		uint32_t handle = lb_links_handle("layer4-lb", abi);

		assert_true(handle > 0 && handle <= INT32_MAX);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_version_has_one_directory_name),
		cmocka_unit_test(handles_are_for_ever),
		cmocka_unit_test(no_handle_is_zero_or_negative),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
