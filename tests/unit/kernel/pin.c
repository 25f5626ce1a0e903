/* SPDX-License-Identifier: MIT */
/* pin: the name of the directory. What stands there is judged in tests/bpf/pin.c. */
#include "kernel/pin.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static void each_instance_has_a_directory_of_its_own(void **state)
{
	char name[LB_PIN_NAME_MAX];

	assert_int_equal(lb_pin_name(NULL, name), 0);
	assert_string_equal(name, "layer4-lb");
	assert_int_equal(lb_pin_name("blue_2-b", name), 0);
	assert_string_equal(name, "layer4-lb-blue_2-b");
}

static void the_longest_name_fits(void **state)
{
	char instance[LB_PIN_INSTANCE_MAX + 2], name[LB_PIN_NAME_MAX];

	memset(instance, 'x', sizeof(instance));
	instance[LB_PIN_INSTANCE_MAX] = '\0';
	assert_int_equal(lb_pin_name(instance, name), 0);
	assert_int_equal(strlen(name), strlen("layer4-lb-") + LB_PIN_INSTANCE_MAX);
	instance[LB_PIN_INSTANCE_MAX] = 'x';
	instance[LB_PIN_INSTANCE_MAX + 1] = '\0';
	assert_int_equal(lb_pin_name(instance, name), -EINVAL);
}

static void what_could_leave_the_directory_is_refused(void **state)
{
	static const char *const bad[] = {"",     ".",   "..",  "a/b", "/",
					  "../x", "a.b", "a b", "a\n", "\xc3\xa4"};

	for (size_t i = 0; i < LB_ARRAY_SIZE(bad); i++) {
		char name[LB_PIN_NAME_MAX] = "untouched";

		print_message("\"%s\"\n", bad[i]);
		assert_int_equal(lb_pin_name(bad[i], name), -EINVAL);
		assert_string_equal(name, "untouched");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_instance_has_a_directory_of_its_own),
		cmocka_unit_test(the_longest_name_fits),
		cmocka_unit_test(what_could_leave_the_directory_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
