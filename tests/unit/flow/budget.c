/* SPDX-License-Identifier: MIT */
/* Flows of one bucket on a clock of our own: each is woken a little late, as a loop's timers do. */
#include "flow/budget.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define START  7000000000000ull
#define MS     1000000ull
#define SECOND 1000000000ull
#define FLOWS  400
/* A turn of the loop: each flow that is due looks once. */
#define STEP_NS (MS / 8)

static struct lb_bucket client, backend;

struct flow {
	struct lb_budget budget;
	uint64_t moved;
	uint64_t at;      /* when it looks next */
	uint64_t message; /* bytes that are there each time; 0: any number */
	uint64_t every;   /* .. and after how long; 0: at once */
	unsigned int looks;
};
static struct flow flows[FLOWS];

static void setup(uint64_t client_rate, uint64_t backend_rate)
{
	memset(flows, 0, sizeof(flows));
	lb_bucket_init(&client, client_rate);
	lb_bucket_init(&backend, backend_rate);
	for (int i = 0; i < FLOWS; i++) {
		flows[i].budget.bucket[0] = &client;
		flows[i].budget.bucket[1] = &backend;
		flows[i].at = START;
	}
}

/* What a carrier does when a flow has bytes: see throttle.c. */
static void look(struct flow *f, uint64_t now)
{
	uint64_t there = f->message ? f->message : 1 << 20, room = lb_budget_room(&f->budget, now);

	f->looks++;
	if (!room && !lb_budget_wait_ns(&f->budget, now)) {
		uint32_t turn = lb_budget_turn(&f->budget, now);

		room = lb_budget_reserve(&f->budget, (uint32_t)(there < turn ? there : turn), now);
	}
	if (!room) {
		/* The loop's timers: whole ms, up, and one late. */
		f->at = now + (lb_budget_wait_ns(&f->budget, now) + 2 * MS - 1) / MS * MS;
		return;
	}
	if (room > there)
		room = there;
	f->moved += room;
	lb_budget_charge(&f->budget, room, now);
	if (f->every)
		f->at = now + f->every;
}

static void run(int count, uint64_t ns)
{
	for (uint64_t now = START; now < START + ns; now += STEP_NS)
		for (int i = 0; i < count; i++)
			if (flows[i].at <= now)
				look(&flows[i], now);
}

static uint64_t total(int count)
{
	uint64_t sum = 0;

	for (int i = 0; i < count; i++)
		sum += flows[i].moved;
	return sum;
}

static void assert_near(uint64_t found, uint64_t wanted, unsigned int percent)
{
	if (found * 100 < wanted * (100 - percent) || found * 100 > wanted * (100 + percent))
		fail_msg("%llu is not within %u %% of %llu", (unsigned long long)found, percent,
			 (unsigned long long)wanted);
}

static void five_seconds_are_within_two_percent_for_any_number_of_flows(void **state)
{
	const uint64_t rates[] = {10000, 100000, 1000000, 10000000, 1000000000};
	const int counts[] = {1, 2, 10, 200, FLOWS};

	for (size_t r = 0; r < LB_ARRAY_SIZE(rates); r++) {
		for (size_t c = 0; c < LB_ARRAY_SIZE(counts); c++) {
			setup(rates[r], 0);
			run(counts[c], 5 * SECOND);
			assert_near(total(counts[c]), rates[r] * 5, 2);
			setup(0, rates[r]);
			run(counts[c], 5 * SECOND);
			assert_near(total(counts[c]), rates[r] * 5, 2);
		}
	}
}

static void the_stricter_of_two_limits_holds(void **state)
{
	setup(1000000, 300000);
	run(10, 5 * SECOND);
	assert_near(total(10), 5 * 300000, 3);
}

static void shares_are_equal(void **state)
{
	const uint64_t rates[] = {100000, 1000000, 10000000};
	const int counts[] = {2, 10, 200};

	for (size_t r = 0; r < LB_ARRAY_SIZE(rates); r++) {
		for (size_t c = 0; c < LB_ARRAY_SIZE(counts); c++) {
			uint64_t least = UINT64_MAX, most = 0;

			setup(rates[r], 0);
			run(counts[c], 5 * SECOND);
			for (int i = 0; i < counts[c]; i++) {
				least = flows[i].moved < least ? flows[i].moved : least;
				most = flows[i].moved > most ? flows[i].moved : most;
			}
			if (least * 100 < most * 85)
				fail_msg("rate %llu, %d flows: %llu to %llu",
					 (unsigned long long)rates[r], counts[c],
					 (unsigned long long)least, (unsigned long long)most);
		}
	}
}

static void what_idle_flows_do_not_use_others_get(void **state)
{
	setup(1000000, 0);
	for (int i = 1; i < 100; i++)
		flows[i].at = UINT64_MAX;
	/* One that says something now and then gets it through, and no more. */
	flows[1].at = START;
	flows[1].message = 100;
	flows[1].every = 100 * MS;
	run(100, 5 * SECOND);
	assert_near(flows[0].moved, 5000000, 3);
	assert_in_range(flows[1].moved, 40 * 100, 50 * 100);
}

static void messages_below_the_rate_never_wait(void **state)
{
	setup(10000000, 20000000);
	/* 9.6 MB/s in 40-byte messages: 60 each quarter of a ms, from 60 flows. */
	for (int i = 0; i < 60; i++) {
		flows[i].message = 40;
		flows[i].every = MS / 4;
	}
	run(60, SECOND);
	for (int i = 0; i < 60; i++)
		assert_int_equal(flows[i].budget.waits, 0);
	assert_int_equal(total(60), 60 * 40 * 4000);
}

static void few_flows_make_few_looks(void **state)
{
	setup(1000000, 0);
	run(1, 5 * SECOND);
	/* Ten ms each, and one more look to find that it must wait. */
	assert_true(flows[0].looks < 5 * 100 * 5 / 2);
	setup(1000000000, 0);
	run(1, SECOND);
	assert_true(flows[0].looks < 1000000000 / 16384);
}

static void nobody_waits_long_among_many(void **state)
{
	setup(1000000, 0);
	run(200, 5 * SECOND);
	/* 10 ms * sqrt(200) is 141 ms. */
	for (int i = 0; i < 200; i++)
		assert_true(flows[i].budget.waited_ns / flows[i].budget.waits < 200 * MS);
}

static void who_cannot_move_gives_its_place_away(void **state)
{
	struct lb_budget *a = &flows[0].budget, *b = &flows[1].budget;

	setup(1000000, 0);
	a->last = b->last = 1 << 20;
	lb_bucket_charge(&client, 50000, START);
	assert_int_equal(lb_budget_reserve(a, 1000000, START), 0);
	assert_int_equal(lb_budget_wait_ns(a, START), 10 * MS);
	lb_budget_return(a);
	assert_int_equal(lb_budget_wait_ns(a, START), 0);
	assert_int_equal(lb_budget_reserve(b, 5000, START), 0);
	assert_int_equal(lb_budget_wait_ns(b, START), 5 * MS);
	/* Of what it reserved it used a part. */
	assert_int_equal(lb_budget_room(b, START + 5 * MS), 5000);
	lb_budget_charge(b, 1000, START + 5 * MS);
	assert_int_equal(client.tat, START + 51 * MS);
	/* More than it had reserved is charged too. */
	lb_budget_charge(b, 2000, START + 5 * MS);
	assert_int_equal(client.tat, START + 53 * MS);
}

static void whoever_waits_sees_that_the_rate_has_changed(void **state)
{
	struct lb_budget *a = &flows[0].budget;

	setup(1000, 0);
	lb_bucket_charge(&client, 100000, START);
	assert_int_equal(lb_budget_reserve(a, 65536, START), 0);
	assert_true(lb_budget_wait_ns(a, START) > 90 * SECOND);
	lb_bucket_change(&client, 100000000, START + MS);
	assert_true(lb_budget_room(a, START + MS) > 0);
	assert_int_equal(lb_budget_wait_ns(a, START + MS), 0);
	/* And of what was owed nothing is forgiven: 100 kB are a ms now. */
	assert_in_range(client.tat, START + 2 * MS - 20000, START + 2 * MS);
	lb_bucket_change(&client, 0, START + MS);
	assert_int_equal(lb_budget_room(a, START + MS), UINT64_MAX);
	assert_int_equal(lb_budget_rate(a), 0);
}

static void a_flow_begins_with_small_turns(void **state)
{
	struct lb_budget *b = &flows[0].budget;

	setup(3200000, 0);
	for (uint32_t turn = 2000; turn <= 32000; turn *= 2) {
		assert_int_equal(lb_budget_room(b, START), turn);
		lb_budget_charge(b, turn, START);
	}
	assert_int_equal(lb_budget_room(b, START), 32000);
	lb_budget_charge(b, 40, START);
	assert_int_equal(lb_budget_room(b, START), 2000);
}

static void without_a_budget_everything_may_move(void **state)
{
	assert_int_equal(lb_budget_room(NULL, START), UINT64_MAX);
	lb_budget_charge(NULL, 1 << 20, START);
	lb_budget_return(NULL);
	assert_int_equal(lb_budget_wait_ns(NULL, START), 0);
	assert_int_equal(lb_budget_rate(NULL), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(five_seconds_are_within_two_percent_for_any_number_of_flows),
		cmocka_unit_test(the_stricter_of_two_limits_holds),
		cmocka_unit_test(shares_are_equal),
		cmocka_unit_test(what_idle_flows_do_not_use_others_get),
		cmocka_unit_test(messages_below_the_rate_never_wait),
		cmocka_unit_test(few_flows_make_few_looks),
		cmocka_unit_test(nobody_waits_long_among_many),
		cmocka_unit_test(who_cannot_move_gives_its_place_away),
		cmocka_unit_test(whoever_waits_sees_that_the_rate_has_changed),
		cmocka_unit_test(a_flow_begins_with_small_turns),
		cmocka_unit_test(without_a_budget_everything_may_move),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
