/* SPDX-License-Identifier: MIT */
#include "flow/bucket.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "bucket_cases.h"

#define NOW    BUCKET_NOW
#define SECOND 1000000000ull

static struct lb_bucket bucket(uint64_t rate, int64_t tat)
{
	struct lb_bucket b;

	lb_bucket_init(&b, rate);
	b.tat = NOW + (uint64_t)tat;
	return b;
}

static uint64_t reserve(struct lb_bucket *b, uint32_t bytes)
{
	uint64_t price;

	return lb_bucket_reserve(b, bytes, NOW, &price);
}

static void every_case_is_as_the_contract_says(void **state)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(bucket_cases); i++) {
		const struct bucket_case *c = &bucket_cases[i];
		struct lb_bucket b = bucket(c->rate, c->tat);

		if ((lb_bucket_credit(&b, NOW) >= c->bytes) != c->admits)
			fail_msg("%s: credit %llu", c->claim,
				 (unsigned long long)lb_bucket_credit(&b, NOW));
		lb_bucket_charge(&b, c->bytes, NOW);
		if (b.tat != NOW + (uint64_t)c->after)
			fail_msg("%s: tat %lld", c->claim, (long long)(b.tat - NOW));
	}
}

static void a_reservation_is_a_place_in_the_queue(void **state)
{
	struct lb_bucket b = bucket(1000000, 0);

	/* The burst is there at once .. */
	assert_true(reserve(&b, 25000) <= NOW);
	assert_true(reserve(&b, 25000) <= NOW);
	assert_int_equal(lb_bucket_queue_ns(&b, NOW), 0);
	/* .. then each stands behind those who came before. */
	assert_int_equal(reserve(&b, 1000), NOW + 1000000);
	assert_int_equal(reserve(&b, 2000), NOW + 3000000);
	assert_int_equal(lb_bucket_queue_ns(&b, NOW), 3000000);
	assert_int_equal(lb_bucket_queue_ns(&b, NOW + 2000000), 1000000);
	/* Who does not queue gets nothing meanwhile. */
	assert_int_equal(lb_bucket_credit(&b, NOW + 2000000), 0);
}

static void what_is_given_back_is_there_for_the_next(void **state)
{
	struct lb_bucket b = bucket(1000000, 50 * BUCKET_MS);

	(void)reserve(&b, 5000);
	lb_bucket_give_back(&b, 4000, b.price);
	assert_int_equal(reserve(&b, 1000), NOW + 2000000);
}

static void giving_back_never_leads_to_a_debt(void **state)
{
	struct lb_bucket b = bucket(1000, 0);

	b.tat = 5;
	lb_bucket_give_back(&b, 1 << 20, b.price);
	assert_true(lb_bucket_credit(&b, NOW) > 0);
}

static void another_rate_makes_no_debt_longer(void **state)
{
	struct lb_bucket b = bucket(1000000, 500 * BUCKET_MS);

	lb_bucket_change(&b, 1000000, NOW);
	assert_int_equal(b.changes, 0);
	lb_bucket_change(&b, 2000000, NOW);
	assert_int_equal(b.changes, 1);
	assert_int_equal(b.tat, NOW + 250 * BUCKET_MS);
	lb_bucket_change(&b, 1000, NOW);
	assert_int_equal(b.tat, NOW + 250 * BUCKET_MS);
	/* No limit, no debt; neither when there is one again. */
	lb_bucket_change(&b, 0, NOW);
	assert_int_equal(lb_bucket_credit(&b, NOW), UINT64_MAX);
	assert_false(lb_bucket_owes(&b, NOW));
	lb_bucket_change(&b, 1000, NOW);
	assert_int_equal(lb_bucket_credit(&b, NOW), 50);
}

static void what_is_given_back_after_a_change_is_what_is_still_owed_for_it(void **state)
{
	const uint64_t rates[] = {1, 1000, 2000000, 1000000000, 0};

	for (size_t i = 0; i < LB_ARRAY_SIZE(rates); i++) {
		struct lb_bucket b = bucket(1000000, 100 * BUCKET_MS);
		uint64_t price, alone;

		lb_bucket_change(&b, rates[i], NOW);
		alone = b.tat;
		b = bucket(1000000, 100 * BUCKET_MS);
		(void)lb_bucket_reserve(&b, 5000, NOW, &price);
		lb_bucket_change(&b, rates[i], NOW);
		lb_bucket_give_back(&b, 5000, price);
		assert_in_range(b.tat, alone - (alone > 0), alone + 1);
	}
}

static void small_charges_add_up(void **state)
{
	struct lb_bucket b = bucket(300000000, 0);

	for (int i = 0; i < 1000000; i++)
		lb_bucket_charge(&b, 40, NOW);
	/* 40 MB at 300 MB/s, each charge rounded. */
	assert_in_range(b.tat - NOW, SECOND * 40 / 300 * 996 / 1000,
			SECOND * 40 / 300 * 1004 / 1000);
}

#define THREADS 4
#define CHARGES 200000

static void *charge_many(void *arg)
{
	struct lb_bucket *b = arg;
	uint64_t price;

	for (uint64_t i = 0; i < CHARGES; i++) {
		lb_bucket_charge(b, 3, NOW);
		(void)lb_bucket_reserve(b, 10, NOW, &price);
		lb_bucket_give_back(b, 8, price);
	}
	return NULL;
}

static void no_charge_is_lost_when_many_charge_at_once(void **state)
{
	struct lb_bucket b = bucket(1000000000, -5000 * BUCKET_MS);
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, charge_many, &b), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(b.tat - NOW, 5ull * CHARGES * THREADS);
}

static void the_table_gives_each_bucket_once(void **state)
{
	static struct lb_bucket memory[5];
	struct lb_buckets *t = NULL;

	for (int own = 0; own < 2; own++) {
		assert_int_equal(lb_buckets_new(&t, own ? NULL : memory, 5), 0);
		assert_int_equal(lb_buckets_max(t), 4);
		for (uint32_t i = 1; i < 5; i++)
			assert_int_equal(lb_buckets_take(t), i);
		assert_int_equal(lb_buckets_take(t), LB_BUCKET_NONE);
		assert_int_equal(lb_buckets_used(t), 4);
		lb_buckets_put(t, 3);
		lb_buckets_put(t, LB_BUCKET_NONE);
		assert_int_equal(lb_buckets_take(t), 3);
		if (!own)
			assert_ptr_equal(lb_buckets_at(t, 3), &memory[3]);
		lb_buckets_free(&t);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_case_is_as_the_contract_says),
		cmocka_unit_test(a_reservation_is_a_place_in_the_queue),
		cmocka_unit_test(what_is_given_back_is_there_for_the_next),
		cmocka_unit_test(giving_back_never_leads_to_a_debt),
		cmocka_unit_test(another_rate_makes_no_debt_longer),
		cmocka_unit_test(what_is_given_back_after_a_change_is_what_is_still_owed_for_it),
		cmocka_unit_test(small_charges_add_up),
		cmocka_unit_test(no_charge_is_lost_when_many_charge_at_once),
		cmocka_unit_test(the_table_gives_each_bucket_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
