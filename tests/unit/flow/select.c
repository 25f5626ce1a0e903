/* SPDX-License-Identifier: MIT */
#include "flow/select.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(draining_backends_are_never_picked),
		cmocka_unit_test(a_retry_never_repeats_a_backend_and_ends),
		cmocka_unit_test(no_eligible_backend_gives_none),
		cmocka_unit_test(shares_are_exact_over_all_workers_together),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
