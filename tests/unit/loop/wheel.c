/* SPDX-License-Identifier: MIT */
#include "loop/wheel.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define DAY_MS     (24ull * 3600 * 1000)
#define HORIZON_MS (63ull << 18)

static void never_called(struct lb_timer *t)
{
	fail_msg("the wheel called a timer");
}

/* Pops everything expired and says how many timers that were. */
static size_t pop_all(struct lb_wheel *w)
{
	size_t count = 0;

	while (lb_wheel_pop(w))
		count++;
	return count;
}

/* Advances as a loop would: from one next_ms to the next. Returns the number of steps. */
static unsigned sleep_until_popped(struct lb_wheel *w, struct lb_timer *t, uint64_t *ret_ms)
{
	unsigned steps = 0;

	while (t->armed) {
		*ret_ms = lb_wheel_next_ms(w);
		assert_true(*ret_ms != LB_WHEEL_NEVER);
		lb_wheel_advance(w, *ret_ms);
		pop_all(w);
		steps++;
	}
	return steps;
}

static void an_empty_wheel_has_nothing_to_wait_for(void **state)
{
	struct lb_wheel w;

	lb_wheel_init(&w, 5);
	assert_true(lb_wheel_next_ms(&w) == LB_WHEEL_NEVER);
	lb_wheel_advance(&w, 100 * DAY_MS);
	assert_null(lb_wheel_pop(&w));
	assert_true(lb_wheel_next_ms(&w) == LB_WHEEL_NEVER);
}

/* Delays and starts around every power of 64, where a wheel's arithmetic goes wrong if at all. */
static void timer_never_fires_early_nor_a_tick_late(void **state)
{
	static const uint64_t starts[] = {0,
					  1,
					  63,
					  64,
					  4095,
					  4096,
					  (1 << 18) - 1,
					  1 << 18,
					  (1 << 24) - 1,
					  1 << 24,
					  (1ull << 36) - 3,
					  123456789012};
	static const uint64_t delays[] = {1,
					  2,
					  62,
					  63,
					  64,
					  65,
					  4095,
					  4096,
					  4097,
					  (1 << 18) - 1,
					  1 << 18,
					  (1 << 18) + 1,
					  HORIZON_MS - 1,
					  HORIZON_MS,
					  HORIZON_MS + 1,
					  DAY_MS};

	for (size_t i = 0; i < LB_ARRAY_SIZE(starts); i++) {
		for (size_t j = 0; j < LB_ARRAY_SIZE(delays); j++) {
			uint64_t due = starts[i] + delays[j], fired = 0;
			struct lb_timer t;
			struct lb_wheel w;

			lb_wheel_init(&w, starts[i]);
			lb_timer_init(&t, never_called);
			lb_wheel_start(&w, &t, due);
			sleep_until_popped(&w, &t, &fired);
			assert_true(fired == due);
		}
	}
}

static void a_wait_is_interrupted_at_most_once_per_level(void **state)
{
	for (uint64_t delay = 1; delay < HORIZON_MS; delay += 1 + delay / 7) {
		uint64_t fired;
		struct lb_timer t;
		struct lb_wheel w;

		lb_wheel_init(&w, 1000003);
		lb_timer_init(&t, never_called);
		lb_wheel_start(&w, &t, 1000003 + delay);
		assert_in_range(sleep_until_popped(&w, &t, &fired), 1, LB_WHEEL_LEVELS);
	}
}

static void due_times_in_the_past_expire_in_the_next_advance(void **state)
{
	struct lb_timer t;
	struct lb_wheel w;

	lb_wheel_init(&w, 1000);
	lb_timer_init(&t, never_called);
	lb_wheel_start(&w, &t, 0);
	assert_null(lb_wheel_pop(&w));
	assert_int_equal(lb_wheel_next_ms(&w), 1000);
	lb_wheel_advance(&w, 1000);
	assert_ptr_equal(lb_wheel_pop(&w), &t);
	assert_false(t.armed);
}

static void an_expired_timer_can_still_be_stopped(void **state)
{
	struct lb_timer a, b;
	struct lb_wheel w;

	lb_wheel_init(&w, 0);
	lb_timer_init(&a, never_called);
	lb_timer_init(&b, never_called);
	lb_wheel_start(&w, &a, 5);
	lb_wheel_start(&w, &b, 5);
	lb_wheel_advance(&w, 10);
	lb_wheel_stop(&w, &a);
	assert_ptr_equal(lb_wheel_pop(&w), &b);
	assert_null(lb_wheel_pop(&w));
	assert_true(lb_wheel_next_ms(&w) == LB_WHEEL_NEVER);
}

static void an_expired_timer_can_still_be_pushed_back(void **state)
{
	static const uint64_t dues[] = {0, 10, 11, 5000}; /* the first two: at once, but not now */

	for (size_t i = 0; i < LB_ARRAY_SIZE(dues); i++) {
		uint64_t fired = 0;
		struct lb_timer t;
		struct lb_wheel w;

		lb_wheel_init(&w, 0);
		lb_timer_init(&t, never_called);
		lb_wheel_start(&w, &t, 5);
		lb_wheel_advance(&w, 10);
		lb_wheel_start(&w, &t, dues[i]);
		assert_null(lb_wheel_pop(&w));
		sleep_until_popped(&w, &t, &fired);
		assert_int_equal(fired, dues[i] < 10 ? 10 : dues[i]);
	}
}

static void a_restart_may_pull_forward_or_push_back(void **state)
{
	static const uint64_t dues[] = {1, 99, 100, 101, 4096, 300000, 3 * DAY_MS};

	for (size_t i = 0; i < LB_ARRAY_SIZE(dues); i++) {
		uint64_t fired = 0;
		struct lb_timer t;
		struct lb_wheel w;

		lb_wheel_init(&w, 0);
		lb_timer_init(&t, never_called);
		lb_wheel_start(&w, &t, 100);
		lb_wheel_start(&w, &t, dues[i]);
		sleep_until_popped(&w, &t, &fired);
		assert_true(fired == dues[i]);
		assert_true(lb_wheel_next_ms(&w) == LB_WHEEL_NEVER);
	}
}

static void stop_is_harmless_on_a_timer_that_is_not_armed(void **state)
{
	struct lb_timer t;
	struct lb_wheel w;

	lb_wheel_init(&w, 0);
	lb_timer_init(&t, never_called);
	lb_wheel_stop(&w, &t);
	lb_wheel_start(&w, &t, 5);
	lb_wheel_stop(&w, &t);
	lb_wheel_stop(&w, &t);
	assert_true(lb_wheel_next_ms(&w) == LB_WHEEL_NEVER);
}

static void time_does_not_run_backwards(void **state)
{
	struct lb_timer t;
	struct lb_wheel w;

	lb_wheel_init(&w, 1000);
	lb_timer_init(&t, never_called);
	lb_wheel_start(&w, &t, 1100);
	lb_wheel_advance(&w, 500);
	assert_int_equal(w.now_ms, 1000);
	lb_wheel_advance(&w, 1099);
	assert_null(lb_wheel_pop(&w));
	lb_wheel_advance(&w, 1100);
	assert_ptr_equal(lb_wheel_pop(&w), &t);
}

/* A year takes as long as a day here: a wheel that walked its ticks would not come back. */
static void a_long_sleep_is_caught_up_without_walking_its_ticks(void **state)
{
	struct lb_timer near, far;
	struct lb_wheel w;

	lb_wheel_init(&w, 0);
	lb_timer_init(&near, never_called);
	lb_timer_init(&far, never_called);
	lb_wheel_start(&w, &near, 1);
	lb_wheel_start(&w, &far, UINT64_MAX);
	lb_wheel_advance(&w, 365 * DAY_MS);
	assert_ptr_equal(lb_wheel_pop(&w), &near);
	assert_null(lb_wheel_pop(&w));
	assert_true(far.armed);
}

/* --- property: any operations, against a plain array ------------------------------------------ */

#define TIMERS     200
#define OPERATIONS 300000

struct model {
	struct lb_wheel wheel;
	struct lb_timer timers[TIMERS];
	uint64_t due_ms[TIMERS]; /* LB_WHEEL_NEVER: not armed */
	bool expired[TIMERS];    /* in an advance, and not popped yet */
};

static uint64_t random_delay(void)
{
	/* Every magnitude is equally likely, up to beyond the horizon. */
	return (uint64_t)random() % (1ull << (random() % 28));
}

static void model_start(struct model *m)
{
	size_t i = (size_t)random() % TIMERS;
	uint64_t due = m->wheel.now_ms + random_delay();

	if (random() % 8 == 0)
		due = m->wheel.now_ms - (uint64_t)random() % (m->wheel.now_ms + 1);
	lb_wheel_start(&m->wheel, &m->timers[i], due);
	m->due_ms[i] = due > m->wheel.now_ms ? due : m->wheel.now_ms;
	m->expired[i] = false;
}

static void model_stop(struct model *m)
{
	size_t i = (size_t)random() % TIMERS;

	lb_wheel_stop(&m->wheel, &m->timers[i]);
	m->due_ms[i] = LB_WHEEL_NEVER;
	m->expired[i] = false;
}

static uint64_t model_earliest(const struct model *m)
{
	uint64_t earliest = LB_WHEEL_NEVER;

	for (size_t i = 0; i < TIMERS; i++) {
		if (m->due_ms[i] < earliest)
			earliest = m->due_ms[i];
	}
	return earliest;
}

static void model_advance(struct model *m)
{
	uint64_t now = m->wheel.now_ms + random_delay();

	/* Half of the time as a loop does: exactly to where the wheel wants to be. */
	if (random() % 2 && lb_wheel_next_ms(&m->wheel) != LB_WHEEL_NEVER)
		now = lb_wheel_next_ms(&m->wheel);
	lb_wheel_advance(&m->wheel, now);
	for (size_t i = 0; i < TIMERS; i++)
		m->expired[i] = m->due_ms[i] <= now;
}

static void model_pop(struct model *m)
{
	uint64_t last = 0;
	struct lb_timer *t;

	while ((t = lb_wheel_pop(&m->wheel))) {
		size_t i = (size_t)(t - m->timers);

		assert_true(m->expired[i]);
		assert_true(m->due_ms[i] >= last);
		assert_false(t->armed);
		last = m->due_ms[i];
		m->due_ms[i] = LB_WHEEL_NEVER;
		m->expired[i] = false;
	}
	for (size_t i = 0; i < TIMERS; i++)
		assert_false(m->expired[i]);
}

/* W1, W2 and W3 of wheel.h, and what next_ms promises. */
static void model_check(const struct model *m)
{
	uint64_t next = lb_wheel_next_ms(&m->wheel);

	for (size_t i = 0; i < LB_ARRAY_SIZE(m->wheel.slots); i++) {
		uint64_t bit = m->wheel.occupied[i / 64] >> (i % 64) & 1;

		assert_int_equal(bit, !lb_list_empty(&m->wheel.slots[i]));
	}
	for (size_t i = 0; i < TIMERS; i++)
		assert_int_equal(m->timers[i].armed, m->due_ms[i] != LB_WHEEL_NEVER);
	assert_true(next <= model_earliest(m));
	assert_true(next >= m->wheel.now_ms);
	assert_int_equal(next == LB_WHEEL_NEVER, model_earliest(m) == LB_WHEEL_NEVER);
}

static void any_operations_agree_with_a_plain_array(void **state)
{
	static struct model m;

	srandom(1);
	lb_wheel_init(&m.wheel, (1ull << 36) - 100000);
	for (size_t i = 0; i < TIMERS; i++) {
		lb_timer_init(&m.timers[i], never_called);
		m.due_ms[i] = LB_WHEEL_NEVER;
	}
	for (int i = 0; i < OPERATIONS; i++) {
		switch (random() % 8) {
		case 0:
			model_stop(&m);
			break;
		case 1:
			model_advance(&m);
			/* Between expiry and pop, as event callbacks do. */
			for (long n = random() % 4; n > 0; n--)
				random() % 2 ? model_start(&m) : model_stop(&m);
			model_pop(&m);
			break;
		default:
			model_start(&m);
		}
		if (i % 16 == 0)
			model_check(&m);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_empty_wheel_has_nothing_to_wait_for),
		cmocka_unit_test(timer_never_fires_early_nor_a_tick_late),
		cmocka_unit_test(a_wait_is_interrupted_at_most_once_per_level),
		cmocka_unit_test(due_times_in_the_past_expire_in_the_next_advance),
		cmocka_unit_test(an_expired_timer_can_still_be_stopped),
		cmocka_unit_test(an_expired_timer_can_still_be_pushed_back),
		cmocka_unit_test(a_restart_may_pull_forward_or_push_back),
		cmocka_unit_test(stop_is_harmless_on_a_timer_that_is_not_armed),
		cmocka_unit_test(time_does_not_run_backwards),
		cmocka_unit_test(a_long_sleep_is_caught_up_without_walking_its_ticks),
		cmocka_unit_test(any_operations_agree_with_a_plain_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
