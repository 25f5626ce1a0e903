/* SPDX-License-Identifier: MIT */
#include "backend/health.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct lb_health_check_config checked = {
	.enabled = true, .interval_ms = 1200, .rise = 2, .fall = 3};

/* Answers, 'g'ood or 'b'ad, and after each of them whether it is 'U'p or 'D'own. */
static void assert_story(const struct lb_health_check_config *config, const char *answers,
			 const char *states)
{
	struct lb_health h;

	lb_health_init(&h, config);
	for (size_t i = 0; answers[i]; i++) {
		bool was = h.up;
		bool changed = lb_health_note(&h, config, answers[i] == 'g');

		assert_int_equal(h.up, states[i] == 'U');
		assert_int_equal(changed, was != h.up);
	}
}

static void rise_and_fall_must_come_in_a_row(void **state)
{
	assert_story(&checked, "gbbgbbbgbggb", "UUUUUUDDDDUU");
	assert_story(&checked,
		     "gbbb"
		     "bbbb"
		     "gg"
		     "bbb",
		     "UUUD"
		     "DDDD"
		     "DU"
		     "UUD");
}

static void the_first_answer_decides_alone(void **state)
{
	struct lb_health_check_config unknown = checked;

	unknown.initial = LB_HEALTH_CHECK_INITIAL_UNKNOWN;
	assert_story(&checked, "bgg", "DDU");
	assert_story(&checked, "gb", "UU");
	assert_story(&unknown, "gbb", "UUU");
	assert_story(&unknown, "bgg", "DDU");
}

static void without_checks_a_backend_is_up(void **state)
{
	const struct lb_health_check_config off = {
		.initial = LB_HEALTH_CHECK_INITIAL_UNKNOWN, .rise = 1, .fall = 1};
	struct lb_health h;

	lb_health_init(&h, &off);
	assert_true(h.up);
}

static void a_change_is_made_within_one_interval(void **state)
{
	struct lb_health h;
	uint64_t ms = 0;

	lb_health_init(&h, &checked);
	(void)lb_health_note(&h, &checked, true);
	assert_int_equal(lb_health_next_ms(&h, &checked), 1200);
	while (!lb_health_note(&h, &checked, false))
		ms += lb_health_next_ms(&h, &checked);
	assert_true(ms <= 1200);
	for (ms = 0; !lb_health_note(&h, &checked, true);)
		ms += lb_health_next_ms(&h, &checked);
	assert_true(ms <= 1200);
	assert_int_equal(lb_health_next_ms(&h, &checked), 1200);
}

static void a_check_is_never_due_at_once(void **state)
{
	const struct lb_health_check_config hasty = {
		.enabled = true, .interval_ms = 10, .rise = 100, .fall = 100};
	struct lb_health h;

	lb_health_init(&h, &hasty);
	(void)lb_health_note(&h, &hasty, false);
	assert_int_equal(lb_health_next_ms(&h, &hasty), 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rise_and_fall_must_come_in_a_row),
		cmocka_unit_test(the_first_answer_decides_alone),
		cmocka_unit_test(without_checks_a_backend_is_up),
		cmocka_unit_test(a_change_is_made_within_one_interval),
		cmocka_unit_test(a_check_is_never_due_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
