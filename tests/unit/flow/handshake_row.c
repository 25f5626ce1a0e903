/* SPDX-License-Identifier: MIT */
#include "flow/handshake_row.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define NOW (5ull * 1000000000u)
#define MS  1000000ull

/* How many of those who wait make a step of <ns> in the turn that begins at <turn_ns>. */
static uint32_t steps(struct lb_handshake_row *r, uint64_t turn_ns, uint64_t ns)
{
	uint32_t n = 0;

	while (n < 100000 && lb_handshake_row_may_step(r, turn_ns, true)) {
		lb_handshake_row_stepped(r, ns);
		n++;
	}
	return n;
}

/* All steps of the turn at NOW are made, of 1 ms, and somebody waits. */
static struct lb_handshake_row full_row(void)
{
	struct lb_handshake_row r = {0};

	assert_int_equal(steps(&r, NOW, MS), LB_HANDSHAKE_STEPS);
	r.waiting = 1;
	return r;
}

static void a_turn_has_few(void **state)
{
	struct lb_handshake_row r = full_row();

	assert_int_equal(steps(&r, NOW, MS), 0);
	assert_int_equal(steps(&r, NOW + LB_HANDSHAKE_STEPS * MS, MS), LB_HANDSHAKE_STEPS);
}

static void who_comes_is_behind_who_waits(void **state)
{
	struct lb_handshake_row r = {0};

	assert_true(lb_handshake_row_may_step(&r, NOW, false));
	r.waiting = 1;
	assert_false(lb_handshake_row_may_step(&r, NOW, false));
	assert_false(lb_handshake_row_may_step(&r, NOW + MS, false));
	assert_true(lb_handshake_row_may_step(&r, NOW + MS, true));
}

static void a_long_turn_is_followed_by_as_much(void **state)
{
	struct lb_handshake_row r = full_row();

	/* The steps themselves do not count. */
	assert_int_equal(steps(&r, NOW + (LB_HANDSHAKE_STEPS + 20) * MS, MS), 20);
	assert_int_equal(steps(&r, NOW + (LB_HANDSHAKE_STEPS + 20 + 20 + 5) * MS, MS / 10), 50);
}

/* The loop may have slept. */
static void a_turn_for_which_nobody_waited_is_not_work(void **state)
{
	struct lb_handshake_row r = full_row();

	r.waiting = 0;
	assert_int_equal(steps(&r, NOW + 1000 * MS, MS), LB_HANDSHAKE_STEPS);
}

/* A step beyond what is left, or one that the clock did not see, must not make it run over. */
static void a_step_may_be_long_or_take_nothing(void **state)
{
	struct lb_handshake_row r = full_row();

	assert_int_equal(steps(&r, NOW + MS, 1000 * MS), LB_HANDSHAKE_STEPS);
	assert_int_equal(steps(&r, NOW + 2 * MS, 0), LB_HANDSHAKE_STEPS);
}

static void each_gets_half_of_what_there_is(void **state)
{
	struct lb_handshake_row r = full_row();
	uint64_t now = NOW + LB_HANDSHAKE_STEPS * MS, others = 0, spent = 0;

	for (int turn = 0; turn < 100; turn++) {
		uint64_t stepped = steps(&r, now, MS / 4) * MS / 4;

		spent += stepped;
		others += 100 * MS;
		now += stepped + 100 * MS;
	}
	assert_in_range(spent, others * 97 / 100, others * 103 / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_turn_has_few),
		cmocka_unit_test(who_comes_is_behind_who_waits),
		cmocka_unit_test(a_long_turn_is_followed_by_as_much),
		cmocka_unit_test(a_turn_for_which_nobody_waited_is_not_work),
		cmocka_unit_test(a_step_may_be_long_or_take_nothing),
		cmocka_unit_test(each_gets_half_of_what_there_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
