/* SPDX-License-Identifier: MIT */
#include "flow/select.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/hash.h"

#define BACKENDS_MAX 1000

struct fixture {
	struct lb_backend backends[BACKENDS_MAX];
	struct lb_backend *set[BACKENDS_MAX];
	struct lb_backend_config configs[BACKENDS_MAX];
	char names[BACKENDS_MAX][32];
	struct lb_pool pool;
	struct lb_select *select;
	uint32_t got[BACKENDS_MAX];
};

static struct fixture fx;

static void fill(const uint32_t *weights, uint32_t n)
{
	memset(&fx, 0, sizeof(fx));
	fx.pool = (struct lb_pool){.backends = fx.set, .count = n};
	pthread_mutex_init(&fx.pool.lock, NULL);
	lb_list_init(&fx.pool.left);
	for (uint32_t i = 0; i < n; i++) {
		snprintf(fx.names[i], sizeof(fx.names[i]), "10.0.%u.%u:80", i / 250, i % 250);
		fx.configs[i].addr = fx.names[i];
		fx.backends[i] = (struct lb_backend){
			.config = &fx.configs[i],
			.pool = &fx.pool,
			.id = i + 1,
			.place = lb_hash(fx.names[i], strlen(fx.names[i])),
			.index = i,
			.holders = 1,
			.weight = weights ? weights[i] : 1,
			.out = !weights || weights[i] ? 0 : LB_BACKEND_DRAINS,
		};
		lb_list_init(&fx.backends[i].node);
		fx.set[i] = &fx.backends[i];
	}
}

static void setup(const uint32_t *weights, uint32_t n, enum lb_balance balance)
{
	fill(weights, n);
	assert_int_equal(lb_select_new(&fx.select, &fx.pool, balance), 0);
}

static void note(uint32_t backend, bool up)
{
	assert_int_equal(lb_select_mark(fx.select, &fx.backends[backend], LB_BACKEND_DOWN, !up), 0);
}

static const struct lb_select_ask nobody;

static struct lb_backend *take(void)
{
	return lb_select_take(fx.select, &nobody);
}

static struct lb_backend *take_for(uint64_t client)
{
	const struct lb_select_ask ask = {.source = lb_hash(&client, 8)};

	return lb_select_take(fx.select, &ask);
}

/* Who gets <n> flows that end at once. */
static void count_takes(uint32_t n)
{
	memset(fx.got, 0, sizeof(fx.got));
	for (uint32_t i = 0; i < n; i++) {
		struct lb_backend *b = take_for(i);

		fx.got[b->index]++;
		lb_select_release(fx.select, b);
	}
}

static const enum lb_balance methods[] = {
	LB_BALANCE_WEIGHTED_ROUND_ROBIN,
	LB_BALANCE_LEAST_CONNECTIONS,
	LB_BALANCE_RANDOM_TWO,
	LB_BALANCE_SOURCE_HASH,
};
#define METHODS (sizeof(methods) / sizeof(*methods))

static void draining_backends_are_never_picked(void **state)
{
	for (size_t m = 0; m < METHODS; m++) {
		setup((const uint32_t[]){1, 0, 2}, 3, methods[m]);
		count_takes(300);
		assert_int_equal(fx.got[1], 0);
		assert_true(fx.got[0] && fx.got[2]);
		lb_select_free(&fx.select);
	}
}

static void a_retry_never_repeats_a_backend_and_ends(void **state)
{
	for (size_t m = 0; m < METHODS; m++) {
		setup((const uint32_t[]){200, 1, 0, 3, 1}, 5, methods[m]);
		for (uint64_t round = 0; round < 500; round++) {
			uint64_t tried[8];
			struct lb_select_ask ask = {.source = round * 77, .tried = tried};
			struct lb_backend *b;

			while ((b = lb_select_take(fx.select, &ask))) {
				for (size_t i = 0; i < ask.tried_count; i++)
					assert_int_not_equal(tried[i], b->id);
				tried[ask.tried_count++] = b->id;
				lb_select_release(fx.select, b);
			}
			assert_int_equal(ask.tried_count, 4);
		}
		lb_select_free(&fx.select);
	}
}

static void no_eligible_backend_gives_none(void **state)
{
	for (size_t m = 0; m < METHODS; m++) {
		setup((const uint32_t[]){0, 0}, 2, methods[m]);
		assert_null(take());
		assert_false(lb_select_is_full(fx.select, &nobody));
		lb_select_free(&fx.select);
	}
}

/* Any weights, any set of backends that are down: exact over a full cycle of those that are up. */
static void whoever_is_down_the_others_keep_exact_shares(void **state)
{
	const uint32_t weights[] = {7, 1, 3, 256, 20};

	setup(weights, 5, LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	for (uint32_t up = 1; up < 32; up++) {
		uint32_t sum = 0;

		for (uint32_t i = 0; i < 5; i++) {
			note(i, up >> i & 1);
			sum += up >> i & 1 ? weights[i] : 0;
		}
		count_takes(sum);
		for (uint32_t i = 0; i < 5; i++)
			assert_in_range(fx.got[i] + 1, (up >> i & 1 ? weights[i] : 0),
					(up >> i & 1 ? weights[i] + 2 : 1));
	}
	lb_select_free(&fx.select);
}

static void backups_serve_while_nobody_else_does(void **state)
{
	for (size_t m = 0; m < METHODS; m++) {
		const uint64_t tried[] = {1, 2};
		const struct lb_select_ask unlucky = {.tried = tried, .tried_count = 2};
		struct lb_backend *b;

		setup(NULL, 4, methods[m]);
		fx.backends[2].backup = fx.backends[3].backup = true;
		note(0, true);
		count_takes(100);
		assert_int_equal(fx.got[0] + fx.got[1], 100);
		b = lb_select_take(fx.select, &unlucky);
		assert_true(b && b->backup);
		lb_select_release(fx.select, b);
		for (int i = 0; i < 2; i++)
			note(i, false);
		count_takes(300);
		assert_int_equal(fx.got[2] + fx.got[3], 300);
		assert_true(fx.got[2] && fx.got[3]);
		note(1, true);
		count_takes(100);
		assert_int_equal(fx.got[1], 100);
		lb_select_free(&fx.select);
	}
}

static void a_full_backend_is_passed_over_and_no_limit_exceeded(void **state)
{
	for (size_t m = 0; m < METHODS; m++) {
		setup(NULL, 3, methods[m]);
		for (int i = 0; i < 3; i++)
			fx.backends[i].limit = 5 + (uint32_t)i;
		for (uint64_t i = 0; i < 18; i++) {
			assert_false(lb_select_is_full(fx.select, &nobody) && i < 5);
			assert_non_null(take_for(i));
		}
		for (uint32_t i = 0; i < 3; i++)
			assert_int_equal(fx.backends[i].active, 5 + i);
		assert_true(lb_select_is_full(fx.select, &nobody));
		assert_null(take());
		lb_select_release(fx.select, &fx.backends[1]);
		assert_ptr_equal(take(), &fx.backends[1]);
		lb_select_free(&fx.select);
	}
}

static void the_least_busy_for_its_weight_is_first(void **state)
{
	struct lb_backend *held[60];

	setup((const uint32_t[]){3, 2, 1}, 3, LB_BALANCE_LEAST_CONNECTIONS);
	for (int i = 0; i < 60; i++)
		held[i] = take();
	assert_int_equal(fx.backends[0].active, 30);
	assert_int_equal(fx.backends[1].active, 20);
	assert_int_equal(fx.backends[2].active, 10);
	/* One that has lost its flows gets the next ones. */
	for (int i = 0; i < 60; i++)
		if (held[i]->index == 1)
			lb_select_release(fx.select, held[i]);
	for (int i = 0; i < 20; i++)
		assert_int_equal(take()->index, 1);
	lb_select_free(&fx.select);
}

static void idle_backends_take_turns_by_weight(void **state)
{
	setup((const uint32_t[]){1, 1, 2, 4}, 4, LB_BALANCE_LEAST_CONNECTIONS);
	count_takes(800);
	assert_in_range(fx.got[0], 99, 101);
	assert_in_range(fx.got[1], 99, 101);
	assert_in_range(fx.got[2], 199, 201);
	assert_in_range(fx.got[3], 399, 401);
	/* One that was away has saved nothing up. */
	note(0, false);
	count_takes(7000);
	note(0, true);
	count_takes(80);
	assert_in_range(fx.got[0], 9, 12);
	lb_select_free(&fx.select);
}

/* After any takes and releases, the pick is a true minimum. */
static void the_least_is_the_least_after_any_history(void **state)
{
	static struct lb_backend *held[5000];
	uint32_t weights[50], count = 0, random = 1;

	for (uint32_t i = 0; i < 50; i++)
		weights[i] = 1 + i % 7;
	setup(weights, 50, LB_BALANCE_LEAST_CONNECTIONS);
	for (int step = 0; step < 20000; step++) {
		random = random * 1103515245u + 12345u;
		if (count && (random >> 16) % 5 < 2) {
			uint32_t i = (random >> 8) % count;

			lb_select_release(fx.select, held[i]);
			held[i] = held[--count];
		} else if (count < 5000) {
			struct lb_backend *b = held[count++] = take();

			for (uint32_t i = 0; i < 50; i++)
				assert_true((b->active - 1) * weights[i] <=
					    fx.backends[i].active * b->weight);
		}
	}
	lb_select_free(&fx.select);
}

static void random_two_spreads_and_prefers_the_idle(void **state)
{
	setup(NULL, 10, LB_BALANCE_RANDOM_TWO);
	for (int i = 0; i < 10000; i++)
		(void)take();
	for (int i = 0; i < 10; i++)
		assert_in_range(fx.backends[i].active, 980, 1020);
	lb_select_free(&fx.select);
}

static uint32_t places[100000];

static void a_client_keeps_its_place_when_another_backend_goes(void **state)
{
	uint32_t moved = 0, others = 0;

	setup(NULL, 10, LB_BALANCE_SOURCE_HASH);
	for (uint64_t c = 0; c < 100000; c++) {
		places[c] = take_for(c)->index;
		fx.got[places[c]]++;
	}
	for (int i = 0; i < 10; i++)
		assert_in_range(fx.got[i], 9500, 10500);
	note(4, false);
	for (uint64_t c = 0; c < 100000; c++) {
		uint32_t now = take_for(c)->index;

		assert_int_not_equal(now, 4);
		others += places[c] != 4;
		moved += places[c] != 4 && now != places[c];
	}
	print_message("%.2f %% of the other nine's clients moved\n", 100.0 * moved / others);
	assert_true(moved * 50 <= others);
	/* It comes back: everybody is where it was. */
	note(4, true);
	for (uint64_t c = 0; c < 100000; c++)
		assert_int_equal(take_for(c)->index, places[c]);
	lb_select_free(&fx.select);
}

static void source_hash_keeps_to_weights(void **state)
{
	setup((const uint32_t[]){1, 2, 7}, 3, LB_BALANCE_SOURCE_HASH);
	count_takes(100000);
	assert_in_range(fx.got[0], 9500, 10500);
	assert_in_range(fx.got[1], 19000, 21000);
	assert_in_range(fx.got[2], 68500, 71500);
	lb_select_free(&fx.select);
}

#define THREADS    4
#define PICKS_EACH 17500

static void *take_many(void *arg)
{
	for (int i = 0; i < PICKS_EACH; i++)
		assert_non_null(take());
	return NULL;
}

static void in_threads(void *(*fn)(void *))
{
	pthread_t threads[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, fn, NULL), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void shares_are_exact_over_all_workers_together(void **state)
{
	const enum lb_balance exact[] = {LB_BALANCE_WEIGHTED_ROUND_ROBIN,
					 LB_BALANCE_LEAST_CONNECTIONS};

	for (int m = 0; m < 2; m++) {
		setup((const uint32_t[]){5, 1, 1}, 3, exact[m]);
		in_threads(take_many);
		assert_int_equal(fx.backends[0].active, THREADS * PICKS_EACH / 7 * 5);
		assert_int_equal(fx.backends[1].active, THREADS * PICKS_EACH / 7);
		assert_int_equal(fx.backends[2].active, THREADS * PICKS_EACH / 7);
		lb_select_free(&fx.select);
	}
}

static void *storm(void *arg)
{
	for (int i = 0; i < 50000; i++) {
		struct lb_backend *b = take();

		if (!b)
			continue;
		assert_true(__atomic_load_n(&b->active, __ATOMIC_RELAXED) <= 2);
		lb_select_release(fx.select, b);
	}
	return NULL;
}

static void no_storm_gets_over_a_limit(void **state)
{
	for (size_t m = 0; m < METHODS; m++) {
		setup(NULL, 1, methods[m]);
		fx.backends[0].limit = 2;
		in_threads(storm);
		assert_int_equal(fx.backends[0].active, 0);
		lb_select_free(&fx.select);
	}
}

static bool changing;

static void *take_until_told(void *arg)
{
	/* Backend 0 never goes: there is always one. */
	while (__atomic_load_n(&changing, __ATOMIC_RELAXED)) {
		struct lb_backend *b = take();

		assert_non_null(b);
		lb_select_release(fx.select, b);
	}
	return NULL;
}

static void picks_go_on_while_backends_come_and_go(void **state)
{
	pthread_t threads[THREADS];

	for (size_t m = 0; m < METHODS; m++) {
		setup(NULL, 3, methods[m]);
		changing = true;
		for (int i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, take_until_told, NULL),
					 0);
		for (int i = 0; i < 200; i++)
			note((uint32_t)(1 + i % 2), i / 2 % 2);
		__atomic_store_n(&changing, false, __ATOMIC_RELAXED);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		for (int i = 0; i < 3; i++)
			assert_int_equal(fx.backends[i].active, 0);
		lb_select_free(&fx.select);
	}
}

/* A measurement, no judgement. */
static void a_pick_among_a_thousand_costs_so_much(void **state)
{
	const char *const names[] = {"weighted_round_robin", "least_connections", "random_two",
				     "source_hash"};
	enum { PICKS = 1000000, KEPT = 4096 };
	static struct lb_backend *kept[KEPT];

	for (size_t m = 0; m < METHODS; m++) {
		uint64_t begin;

		setup(NULL, BACKENDS_MAX, methods[m]);
		memset(kept, 0, sizeof(kept));
		begin = lb_clock_ns();
		for (uint64_t i = 0; i < PICKS; i++) {
			struct lb_backend **slot = &kept[i % KEPT];

			if (*slot)
				lb_select_release(fx.select, *slot);
			*slot = take_for(i);
		}
		print_message("%s: %.0f ns for a pick and a release\n", names[m],
			      (double)(lb_clock_ns() - begin) / PICKS);
		lb_select_free(&fx.select);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(draining_backends_are_never_picked),
		cmocka_unit_test(a_retry_never_repeats_a_backend_and_ends),
		cmocka_unit_test(no_eligible_backend_gives_none),
		cmocka_unit_test(whoever_is_down_the_others_keep_exact_shares),
		cmocka_unit_test(backups_serve_while_nobody_else_does),
		cmocka_unit_test(a_full_backend_is_passed_over_and_no_limit_exceeded),
		cmocka_unit_test(the_least_busy_for_its_weight_is_first),
		cmocka_unit_test(idle_backends_take_turns_by_weight),
		cmocka_unit_test(the_least_is_the_least_after_any_history),
		cmocka_unit_test(random_two_spreads_and_prefers_the_idle),
		cmocka_unit_test(a_client_keeps_its_place_when_another_backend_goes),
		cmocka_unit_test(source_hash_keeps_to_weights),
		cmocka_unit_test(shares_are_exact_over_all_workers_together),
		cmocka_unit_test(no_storm_gets_over_a_limit),
		cmocka_unit_test(picks_go_on_while_backends_come_and_go),
		cmocka_unit_test(a_pick_among_a_thousand_costs_so_much),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
