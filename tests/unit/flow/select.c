/* SPDX-License-Identifier: MIT */
#include "flow/select.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct fixture {
	struct lb_backend backends[8];
	struct lb_pool pool;
	struct lb_select *select;
};

static void setup(struct fixture *f, const uint32_t *weights, uint32_t n)
{
	*f = (struct fixture){.pool = {.backends = f->backends, .count = n}};
	for (uint32_t i = 0; i < n; i++)
		f->backends[i] = (struct lb_backend){
			.index = i, .weight = weights[i], .eligible = weights[i] != 0};
	assert_int_equal(lb_select_new(&f->select, &f->pool, LB_BALANCE_WEIGHTED_ROUND_ROBIN), 0);
}

static void draining_backends_are_never_picked(void **state)
{
	struct fixture f;

	setup(&f, (const uint32_t[]){1, 0, 2}, 3);
	for (int i = 0; i < 300; i++)
		assert_ptr_not_equal(lb_select_pick(f.select, NULL, 0), &f.backends[1]);
	lb_select_free(&f.select);
}

static void a_retry_never_repeats_a_backend_and_ends(void **state)
{
	struct fixture f;

	setup(&f, (const uint32_t[]){200, 1, 0, 3, 1}, 5);
	for (int round = 0; round < 500; round++) {
		struct lb_backend *tried[8];
		size_t n = 0;

		for (;;) {
			struct lb_backend *b = lb_select_pick(f.select, tried, n);

			if (!b)
				break;
			for (size_t i = 0; i < n; i++)
				assert_ptr_not_equal(tried[i], b);
			tried[n++] = b;
		}
		assert_int_equal(n, 4);
	}
	lb_select_free(&f.select);
}

static void no_eligible_backend_gives_none(void **state)
{
	struct fixture f;

	setup(&f, (const uint32_t[]){0, 0}, 2);
	assert_null(lb_select_pick(f.select, NULL, 0));
	lb_select_free(&f.select);
}

static void count_picks(struct fixture *f, uint32_t picks, uint32_t got[8])
{
	memset(got, 0, 8 * sizeof(got[0]));
	for (uint32_t i = 0; i < picks; i++)
		got[lb_select_pick(f->select, NULL, 0)->index]++;
}

/* Any weights, any set of backends that are down: exact over a full cycle of those that are up. */
static void whoever_is_down_the_others_keep_exact_shares(void **state)
{
	const uint32_t weights[] = {7, 1, 3, 256, 20};
	struct fixture f;

	setup(&f, weights, 5);
	for (uint32_t up = 1; up < 32; up++) {
		uint32_t got[8], sum = 0;

		for (uint32_t i = 0; i < 5; i++) {
			assert_int_equal(lb_select_note(f.select, &f.backends[i], up >> i & 1), 0);
			sum += up >> i & 1 ? weights[i] : 0;
		}
		count_picks(&f, sum, got);
		for (uint32_t i = 0; i < 5; i++)
			assert_in_range(got[i] + 1, (up >> i & 1 ? weights[i] : 0),
					(up >> i & 1 ? weights[i] + 2 : 1));
	}
	lb_select_free(&f.select);
}

static void backups_serve_while_nobody_else_does(void **state)
{
	const struct lb_backend_config backup = {.backup = true};
	struct lb_backend *tried[2];
	struct fixture f;
	uint32_t got[8];

	setup(&f, (const uint32_t[]){1, 1, 2, 1}, 4);
	f.backends[2].config = f.backends[3].config = &backup;
	assert_int_equal(lb_select_note(f.select, &f.backends[0], true), 0);
	count_picks(&f, 100, got);
	assert_int_equal(got[0] + got[1], 100);
	/* Both primary ones failed this client. */
	tried[0] = &f.backends[0];
	tried[1] = &f.backends[1];
	assert_true(lb_select_pick(f.select, tried, 2)->config->backup);
	for (int i = 0; i < 2; i++)
		assert_int_equal(lb_select_note(f.select, &f.backends[i], false), 0);
	count_picks(&f, 300, got);
	assert_int_equal(got[2], 200);
	assert_int_equal(got[3], 100);
	assert_int_equal(lb_select_note(f.select, &f.backends[1], true), 0);
	count_picks(&f, 100, got);
	assert_int_equal(got[1], 100);
	lb_select_free(&f.select);
}

#define THREADS    4
#define PICKS_EACH 17500
static uint64_t picked[8];

static void *pick_many(void *arg)
{
	struct fixture *f = arg;

	for (int i = 0; i < PICKS_EACH; i++)
		__atomic_fetch_add(&picked[lb_select_pick(f->select, NULL, 0)->index], 1,
				   __ATOMIC_RELAXED);
	return NULL;
}

static void shares_are_exact_over_all_workers_together(void **state)
{
	pthread_t threads[THREADS];
	struct fixture f;

	setup(&f, (const uint32_t[]){5, 1, 1}, 3);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, pick_many, &f), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(picked[0], THREADS * PICKS_EACH / 7 * 5);
	assert_int_equal(picked[1], THREADS * PICKS_EACH / 7);
	assert_int_equal(picked[2], THREADS * PICKS_EACH / 7);
	lb_select_free(&f.select);
}

static bool changing;

static void *pick_until_told(void *arg)
{
	struct fixture *f = arg;

	/* Backend 0 never goes: there is always one. */
	while (__atomic_load_n(&changing, __ATOMIC_RELAXED))
		assert_non_null(lb_select_pick(f->select, NULL, 0));
	return NULL;
}

static void picks_go_on_while_backends_come_and_go(void **state)
{
	pthread_t threads[THREADS];
	struct fixture f;

	setup(&f, (const uint32_t[]){1, 1, 1}, 3);
	changing = true;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, pick_until_told, &f), 0);
	for (int i = 0; i < 2000; i++)
		assert_int_equal(lb_select_note(f.select, &f.backends[1 + i % 2], i / 2 % 2), 0);
	__atomic_store_n(&changing, false, __ATOMIC_RELAXED);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	lb_select_free(&f.select);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(draining_backends_are_never_picked),
		cmocka_unit_test(a_retry_never_repeats_a_backend_and_ends),
		cmocka_unit_test(no_eligible_backend_gives_none),
		cmocka_unit_test(whoever_is_down_the_others_keep_exact_shares),
		cmocka_unit_test(backups_serve_while_nobody_else_does),
		cmocka_unit_test(shares_are_exact_over_all_workers_together),
		cmocka_unit_test(picks_go_on_while_backends_come_and_go),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
