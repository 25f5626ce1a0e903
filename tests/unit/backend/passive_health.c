/* SPDX-License-Identifier: MIT */
#include "backend/passive_health.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct lb_passive_health_config config = {.enabled = true,
						       .failures = 3,
						       .window_ms = 1000,
						       .eject_ms = 500,
						       .max_ejected_percent = 50};

static void so_many_failures_within_the_window_take_it_out(void **state)
{
	struct lb_passive p;

	assert_int_equal(lb_passive_init(&p, &config), 0);
	assert_false(lb_passive_note(&p, &config, 1, 0));
	assert_false(lb_passive_note(&p, &config, 1, 600));
	assert_false(lb_passive_note(&p, &config, 1, 1001));
	/* 600, 1001, 1600: within a second. */
	assert_true(lb_passive_note(&p, &config, 1, 1600));
	lb_passive_fini(&p);
	assert_int_equal(lb_passive_init(&p, &config), 0);
	assert_true(lb_passive_note(&p, &config, 1000000, 5));
	lb_passive_fini(&p);
}

static void it_stays_out_twice_as_long_each_time_in_a_row(void **state)
{
	const uint64_t want[] = {500, 1000, 2000, 4000, 8000, 16000, 32000, 32000};
	struct lb_passive p;
	uint64_t now = 7;

	assert_int_equal(lb_passive_init(&p, &config), 0);
	for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
		assert_true(lb_passive_note(&p, &config, 3, now));
		assert_int_equal(lb_passive_eject(&p, &config, now), want[i]);
		assert_false(lb_passive_note(&p, &config, 3, now));
		now += want[i];
		lb_passive_return(&p, &config, now);
		/* It begins with nothing. */
		assert_false(lb_passive_note(&p, &config, 2, now));
	}
	/* Well for as long as it was out. */
	now += 32000;
	assert_true(lb_passive_note(&p, &config, 3, now));
	assert_int_equal(lb_passive_eject(&p, &config, now), 500);
	lb_passive_fini(&p);
}

static void never_all_are_out(void **state)
{
	struct lb_passive_health_config c = config;

	assert_int_equal(lb_passive_most(&c, 10), 5);
	assert_int_equal(lb_passive_most(&c, 2), 1);
	assert_int_equal(lb_passive_most(&c, 1), 0);
	c.max_ejected_percent = 100;
	assert_int_equal(lb_passive_most(&c, 10), 9);
	c.max_ejected_percent = 10;
	assert_int_equal(lb_passive_most(&c, 3), 1);
	c.max_ejected_percent = 0;
	assert_int_equal(lb_passive_most(&c, 10), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(so_many_failures_within_the_window_take_it_out),
		cmocka_unit_test(it_stays_out_twice_as_long_each_time_in_a_row),
		cmocka_unit_test(never_all_are_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
