/* SPDX-License-Identifier: MIT */
#include "flow/select_round_robin.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

/* Deterministic: a failure can be repeated. */
static uint32_t next_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*state >> 33);
}

/*
 * Over every prefix of two cycles each count is within 1 of the exact share t * w / W, and over a
 * full cycle it is exact.
 */
static void assert_fair(const uint32_t *weights, size_t n)
{
	struct lb_round_robin *rr = NULL;
	uint64_t *counts = calloc(n + 1, sizeof(*counts));
	uint64_t sum = 0, cycle;

	assert_non_null(counts);
	for (size_t i = 0; i < n; i++)
		sum += weights[i];
	assert_int_equal(lb_select_round_robin_new(&rr, weights, n), 0);
	cycle = lb_select_round_robin_cycle(rr);
	assert_int_equal(sum % cycle, 0);
	for (uint64_t t = 1; t <= 2 * cycle; t++) {
		uint32_t pick = lb_select_round_robin_pick(rr, t - 1);

		assert_in_range(pick, 0, n - 1);
		assert_int_not_equal(weights[pick], 0);
		counts[pick]++;
		/* Only the one just picked can be ahead; all others can only fall behind. */
		assert_true(counts[pick] * sum < t * weights[pick] + sum);
		if (t % 7 == 0 || t == cycle)
			for (size_t i = 0; i < n; i++)
				assert_true(counts[i] * sum + sum > t * weights[i]);
		if (t == cycle)
			for (size_t i = 0; i < n; i++)
				assert_int_equal(counts[i] * sum, cycle * weights[i]);
	}
	lb_select_round_robin_free(&rr);
	assert_null(rr);
	free(counts);
}

static void counts_stay_within_one_of_the_exact_share_for_any_weights(void **state)
{
	uint64_t seed = 20261123;

	for (int round = 0; round < 400; round++) {
		uint32_t weights[64];
		size_t n = 1 + next_random(&seed) % 64;
		uint32_t max = round % 2 ? 256 : 4;

		for (size_t i = 0; i < n; i++)
			weights[i] = 1 + next_random(&seed) % max;
		assert_fair(weights, n);
	}
}

static void counts_stay_within_one_of_the_exact_share_for_any_down_set(void **state)
{
	uint64_t seed = 7;

	for (int round = 0; round < 400; round++) {
		uint32_t weights[32];
		size_t n = 2 + next_random(&seed) % 31, up = next_random(&seed) % n;

		for (size_t i = 0; i < n; i++)
			weights[i] = next_random(&seed) % 2 ? 1 + next_random(&seed) % 256 : 0;
		weights[up] = 1 + next_random(&seed) % 256;
		assert_fair(weights, n);
	}
}

static void a_heavy_backend_is_spread_over_the_cycle(void **state)
{
	const uint32_t weights[] = {5, 1, 1};
	struct lb_round_robin *rr = NULL;
	unsigned int run = 0, longest = 0;

	assert_int_equal(lb_select_round_robin_new(&rr, weights, 3), 0);
	assert_int_equal(lb_select_round_robin_cycle(rr), 7);
	for (uint64_t t = 0; t < 70; t++) {
		run = lb_select_round_robin_pick(rr, t) == 0 ? run + 1 : 0;
		longest = run > longest ? run : longest;
	}
	assert_in_range(longest, 2, 4);
	lb_select_round_robin_free(&rr);
}

static void equal_weights_go_round_whatever_their_size(void **state)
{
	const uint32_t weights[] = {256, 256, 256};
	struct lb_round_robin *rr = NULL;

	assert_int_equal(lb_select_round_robin_new(&rr, weights, 3), 0);
	assert_int_equal(lb_select_round_robin_cycle(rr), 3);
	for (uint64_t t = 0; t < 9; t++)
		assert_int_equal(lb_select_round_robin_pick(rr, t), t % 3);
	lb_select_round_robin_free(&rr);
}

static void nobody_is_picked_when_all_are_down(void **state)
{
	const uint32_t weights[] = {0, 0};
	struct lb_round_robin *rr = NULL;

	assert_int_equal(lb_select_round_robin_new(&rr, weights, 2), 0);
	assert_int_equal(lb_select_round_robin_pick(rr, 5), LB_SELECT_NONE);
	lb_select_round_robin_free(&rr);
	assert_int_equal(lb_select_round_robin_new(&rr, NULL, 0), 0);
	assert_int_equal(lb_select_round_robin_pick(rr, 0), LB_SELECT_NONE);
	lb_select_round_robin_free(&rr);
}

static void turns_may_wrap_around(void **state)
{
	const uint32_t weights[] = {3, 1};
	struct lb_round_robin *rr = NULL;

	assert_int_equal(lb_select_round_robin_new(&rr, weights, 2), 0);
	assert_int_equal(lb_select_round_robin_pick(rr, UINT64_MAX),
			 lb_select_round_robin_pick(rr, UINT64_MAX % 4));
	lb_select_round_robin_free(&rr);
}

static void a_cycle_without_measure_is_refused_and_leaves_the_output_alone(void **state)
{
	static uint32_t weights[300];
	struct lb_round_robin *rr = NULL;

	for (size_t i = 0; i < 300; i++)
		weights[i] = 65535 + i % 2;
	assert_int_equal(lb_select_round_robin_new(&rr, weights, 300), -E2BIG);
	assert_null(rr);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counts_stay_within_one_of_the_exact_share_for_any_weights),
		cmocka_unit_test(counts_stay_within_one_of_the_exact_share_for_any_down_set),
		cmocka_unit_test(a_heavy_backend_is_spread_over_the_cycle),
		cmocka_unit_test(equal_weights_go_round_whatever_their_size),
		cmocka_unit_test(nobody_is_picked_when_all_are_down),
		cmocka_unit_test(turns_may_wrap_around),
		cmocka_unit_test(a_cycle_without_measure_is_refused_and_leaves_the_output_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
