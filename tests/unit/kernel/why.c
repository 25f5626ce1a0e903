/* SPDX-License-Identifier: MIT */
/* why: words for the log and the metrics, one each. */
#include "kernel/kernel.h"

#include <ctype.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void every_why_has_a_word_of_its_own_and_a_help(void **state)
{
	for (int i = 0; i < LB_WHY_MAX_; i++) {
		assert_true(strlen(lb_why_word(i)) > 0);
		assert_true(strlen(lb_why_help(i)) > 0);
		for (int j = 0; j < i; j++)
			assert_string_not_equal(lb_why_word(i), lb_why_word(j));
	}
}

static void a_word_fits_into_a_metric_label(void **state)
{
	for (int i = 0; i < LB_WHY_MAX_; i++)
		for (const char *c = lb_why_word(i); *c; c++)
			assert_true(islower((unsigned char)*c) || *c == '_');
}

static void the_words_are_the_ones_of_the_contract(void **state)
{
	assert_string_equal(lb_why_word(LB_WHY_NO_CAP), "no_cap");
	assert_string_equal(lb_why_word(LB_WHY_KERNEL_OLD), "kernel_old");
	assert_string_equal(lb_why_word(LB_WHY_SELFTEST), "selftest");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_why_has_a_word_of_its_own_and_a_help),
		cmocka_unit_test(a_word_fits_into_a_metric_label),
		cmocka_unit_test(the_words_are_the_ones_of_the_contract),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
