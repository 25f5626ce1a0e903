/* SPDX-License-Identifier: MIT */
#include "control/forecast.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static void before_the_second_look_nothing_is_known(void **state)
{
	struct lb_forecast f = {0};

	assert_true(lb_forecast_gone_ms(&f) == LB_FORECAST_UNKNOWN);
	lb_forecast_feed(&f, 1000, 10, 2, 1000000);
	assert_int_equal(f.flows, 10);
	assert_int_equal(f.idle, 2);
	assert_true(f.bytes_per_second == 0);
	assert_true(lb_forecast_gone_ms(&f) == LB_FORECAST_UNKNOWN);
}

static void a_steady_pace_is_told_as_it_is(void **state)
{
	struct lb_forecast f = {0};

	/* Two a second, 1000 bytes each. */
	for (uint64_t i = 0; i <= 40; i++)
		lb_forecast_feed(&f, 5000 + i * 500, 100 - i, 0, i * 1000);
	assert_true(f.bytes_per_second > 1999 && f.bytes_per_second < 2001);
	assert_true(f.ends_per_second > 1.99 && f.ends_per_second < 2.01);
	assert_in_range(lb_forecast_gone_ms(&f), 29900, 30100);
}

static void a_new_pace_is_believed_within_seconds(void **state)
{
	struct lb_forecast f = {0};
	uint64_t ms = 0;

	for (int i = 0; i < 20; i++, ms += 500)
		lb_forecast_feed(&f, ms, 100, 0, ms * 10);
	assert_true(lb_forecast_gone_ms(&f) == LB_FORECAST_UNKNOWN);
	/* From 10000 bytes a second to none, and flows begin to end. */
	for (uint64_t i = 0; i < 30; i++, ms += 500)
		lb_forecast_feed(&f, ms, 100 - i, 0, 95000);
	assert_true(f.bytes_per_second < 1000);
	assert_true(f.ends_per_second > 1.5 && f.ends_per_second < 2.1);
}

static void no_end_is_promised_that_nothing_points_to(void **state)
{
	struct lb_forecast f = {0};

	for (uint64_t i = 0; i < 100; i++)
		lb_forecast_feed(&f, i * 500, 7, 7, 0);
	assert_true(lb_forecast_gone_ms(&f) == LB_FORECAST_UNKNOWN);
	/* More than before: a connect that was under way. */
	lb_forecast_feed(&f, 50500, 9, 7, 0);
	assert_true(f.ends_per_second == 0);
}

static void without_flows_all_is_over(void **state)
{
	struct lb_forecast f = {0};

	lb_forecast_feed(&f, 0, 5, 0, 0);
	lb_forecast_feed(&f, 500, 0, 0, 0);
	assert_int_equal(lb_forecast_gone_ms(&f), 0);
}

static void two_looks_in_one_millisecond_divide_by_nothing(void **state)
{
	struct lb_forecast f = {0};

	lb_forecast_feed(&f, 7, 5, 0, 0);
	lb_forecast_feed(&f, 7, 4, 1, 900);
	assert_int_equal(f.flows, 4);
	assert_true(f.bytes_per_second == 0);
	lb_forecast_feed(&f, 1007, 4, 1, 1900);
	assert_true(f.bytes_per_second > 999 && f.bytes_per_second < 1001);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(before_the_second_look_nothing_is_known),
		cmocka_unit_test(a_steady_pace_is_told_as_it_is),
		cmocka_unit_test(a_new_pace_is_believed_within_seconds),
		cmocka_unit_test(no_end_is_promised_that_nothing_points_to),
		cmocka_unit_test(without_flows_all_is_over),
		cmocka_unit_test(two_looks_in_one_millisecond_divide_by_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
