/* SPDX-License-Identifier: MIT */
/* selftest: it passes here, it notices harm, and it never waits for long. */
#include "kernel/selftest.h"

#include "room.h"

#define ROOMY_MS 5000

static void a_sound_kernel_passes(void **state)
{
	struct lb_selftest test;

	room_required();
	if (lb_selftest_run(ROOMY_MS, LB_SELFTEST_HONEST, &test))
		fail_msg("%s (%.1f ms)", test.detail, test.ms);
	assert_string_equal(test.detail, "");
	assert_true(test.ms > 0);
}

static void a_lost_skb_is_noticed(void **state)
{
	struct lb_selftest test;

	room_required();
	assert_int_equal(lb_selftest_run(ROOMY_MS, LB_SELFTEST_LOSE, &test), -EILSEQ);
	assert_non_null(strstr(test.detail, "differs"));
}

static void what_never_arrives_is_not_waited_for(void **state)
{
	struct lb_selftest test;

	room_required();
	assert_int_equal(lb_selftest_run(600, LB_SELFTEST_HOLD, &test), -ETIMEDOUT);
	assert_non_null(strstr(test.detail, "were redirected in time"));
	assert_true(test.ms < 1000);
}

static void a_deadline_is_kept(void **state)
{
	struct lb_selftest test;

	room_required();
	assert_int_equal(lb_selftest_run(1, LB_SELFTEST_HONEST, &test), -ETIMEDOUT);
	assert_true(test.ms < 500);
}

static void without_a_loopback_address_it_says_so(void **state)
{
	struct lb_selftest test;
	LB_AUTO_CLOSE int here = -1;
	int r;

	room_required();
	here = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	assert_true(here >= 0);
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	r = lb_selftest_run(0, LB_SELFTEST_HONEST, &test);
	assert_int_equal(setns(here, CLONE_NEWNET), 0);
	assert_int_equal(r, -EADDRNOTAVAIL);
	assert_non_null(strstr(test.detail, "no loopback connection"));
}

static void no_run_leaves_anything_behind(void **state)
{
	static const enum lb_selftest_sabotage runs[] = {LB_SELFTEST_HONEST, LB_SELFTEST_LOSE,
							 LB_SELFTEST_HOLD};
	struct lb_selftest test;
	int fds, mappings;

	room_required();
	fds = room_count_fds();
	mappings = room_count_mappings();
	for (size_t i = 0; i < LB_ARRAY_SIZE(runs); i++) {
		lb_selftest_run(0, runs[i], &test);
		assert_int_equal(room_count_fds(), fds);
		assert_int_equal(room_count_mappings(), mappings);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sound_kernel_passes),
		cmocka_unit_test(a_lost_skb_is_noticed),
		cmocka_unit_test(what_never_arrives_is_not_waited_for),
		cmocka_unit_test(a_deadline_is_kept),
		cmocka_unit_test(without_a_loopback_address_it_says_so),
		cmocka_unit_test(no_run_leaves_anything_behind),
	};

	return cmocka_run_group_tests(tests, room_enter, NULL);
}
