/* SPDX-License-Identifier: MIT */
#include "flow/rate_limit.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define SECOND 1000000000ull
#define START  (100 * SECOND)

static struct lb_rate_limit *limit;

static void setup(uint32_t rate, uint32_t burst, uint32_t rule_rate, uint32_t rule_burst)
{
	const struct lb_rate_limit_config config = {
		.enabled = true,
		.requests_per_second = rate,
		.burst = burst,
		.rule_requests_per_second = rule_rate,
		.rule_burst = rule_burst,
		.ipv6_prefix = 64,
	};

	assert_int_equal(lb_rate_limit_new(&limit, &config), 0);
}

static int teardown(void **state)
{
	lb_rate_limit_free(&limit);
	return 0;
}

static enum lb_rate_limit_verdict take(const char *client, uint64_t now)
{
	struct lb_addr a;
	uint64_t until;

	assert_int_equal(lb_addr_parse(client, &a), 0);
	return lb_rate_limit_take(limit, &a, now, &until);
}

/* How many of <asks>, evenly spread over <ns>, are let in. */
static uint32_t ask(const char *client, uint64_t from, uint64_t ns, uint32_t asks)
{
	uint32_t taken = 0;

	for (uint32_t i = 0; i < asks; i++)
		taken += take(client, from + ns * i / asks) == LB_RATE_LIMIT_TAKEN;
	return taken;
}

static void burst_is_spent_then_refused(void **state)
{
	setup(10, 5, 0, 0);
	for (int i = 0; i < 5; i++)
		assert_int_equal(take("10.0.0.1:1", START), LB_RATE_LIMIT_TAKEN);
	assert_int_equal(take("10.0.0.1:2", START), LB_RATE_LIMIT_CLIENT);
	/* Another client is another bucket; another port is not. */
	assert_int_equal(take("10.0.0.2:1", START), LB_RATE_LIMIT_TAKEN);
}

static void the_next_token_comes_when_it_was_said(void **state)
{
	struct lb_addr a;
	uint64_t until = 0;

	setup(10, 3, 0, 0);
	assert_int_equal(lb_addr_parse("10.0.0.1:1", &a), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(lb_rate_limit_take(limit, &a, START, &until), LB_RATE_LIMIT_TAKEN);
	assert_int_equal(lb_rate_limit_take(limit, &a, START + 1, &until), LB_RATE_LIMIT_CLIENT);
	assert_int_equal(until, START + SECOND / 10);
	assert_int_equal(lb_rate_limit_take(limit, &a, until - 1, &until), LB_RATE_LIMIT_CLIENT);
	assert_int_equal(lb_rate_limit_take(limit, &a, until, &until), LB_RATE_LIMIT_TAKEN);
	assert_int_equal(lb_rate_limit_take(limit, &a, START + SECOND / 10, &until),
			 LB_RATE_LIMIT_CLIENT);
}

static void refused_asks_cost_nothing(void **state)
{
	setup(10, 1, 0, 0);
	assert_int_equal(ask("10.0.0.1:1", START, SECOND / 20, 1000), 1);
	assert_int_equal(take("10.0.0.1:1", START + SECOND / 10), LB_RATE_LIMIT_TAKEN);
}

static void rates_are_exact(void **state)
{
	static const struct {
		uint32_t rate, burst;
	} cases[] = {{1, 1}, {3, 1}, {7, 20}, {100, 100}, {999, 50}, {12345, 1}, {100000, 1000}};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		uint32_t rate = cases[i].rate, burst = cases[i].burst, most = rate * 10 + burst;
		uint32_t taken;

		setup(rate, burst, 0, 0);
		taken = ask("10.0.0.1:1", START, 10 * SECOND, 40 * rate);
		assert_in_range(taken, most - 2 - most / 1000, most + most / 1000);
		lb_rate_limit_free(&limit);
	}
}

static void a_pause_brings_no_more_than_the_burst(void **state)
{
	setup(100, 10, 0, 0);
	assert_int_equal(ask("10.0.0.1:1", START, 1, 50), 10);
	assert_int_equal(ask("10.0.0.1:1", START + 3600 * SECOND, 1, 50), 10);
}

static void an_ipv6_prefix_is_one_client(void **state)
{
	setup(1, 1, 0, 0);
	assert_int_equal(take("[2001:db8:1:2::1]:1", START), LB_RATE_LIMIT_TAKEN);
	assert_int_equal(take("[2001:db8:1:2:ffff::9]:1", START), LB_RATE_LIMIT_CLIENT);
	assert_int_equal(take("[2001:db8:1:3::1]:1", START), LB_RATE_LIMIT_TAKEN);
	/* IPv4 hosts do not share, in either writing. */
	assert_int_equal(take("10.0.0.1:1", START), LB_RATE_LIMIT_TAKEN);
	assert_int_equal(take("10.0.0.2:1", START), LB_RATE_LIMIT_TAKEN);
	assert_int_equal(take("[::ffff:10.0.0.1]:1", START), LB_RATE_LIMIT_CLIENT);
}

static void all_clients_together_have_a_limit_of_their_own(void **state)
{
	uint32_t taken = 0;

	setup(5, 5, 20, 20);
	for (int i = 0; i < 10; i++) {
		char client[32];

		snprintf(client, sizeof(client), "10.0.0.%d:1", i + 1);
		taken += ask(client, START, 1, 5);
	}
	assert_int_equal(taken, 20);
	assert_int_equal(take("10.0.0.99:1", START), LB_RATE_LIMIT_RULE);
	/* Who was refused for the others' sake has not spent his own. */
	assert_int_equal(ask("10.0.0.99:1", START + 10 * SECOND, 1, 9), 5);
}

static void new_rates_hold_for_living_buckets(void **state)
{
	struct lb_rate_limit_config config = {
		.enabled = true, .requests_per_second = 1000, .burst = 100, .ipv6_prefix = 64};

	setup(1, 1, 0, 0);
	assert_int_equal(ask("10.0.0.1:1", START, 1, 9), 1);
	/* It lacks one token, and lacks it still. */
	lb_rate_limit_set(limit, &config, START);
	assert_int_equal(ask("10.0.0.1:1", START, 1, 200), 99);
	/* It lacks all, and then all of fewer. */
	config.burst = config.requests_per_second = 2;
	lb_rate_limit_set(limit, &config, START);
	assert_int_equal(ask("10.0.0.1:1", START, 1, 9), 0);
	assert_int_equal(ask("10.0.0.1:1", START + SECOND, 1, 9), 2);
	assert_int_equal(ask("10.0.0.2:1", START + SECOND, 1, 9), 2);
}

static void idle_clients_are_forgotten_and_others_are_not(void **state)
{
	setup(1, 1, 0, 0);
	for (uint32_t i = 0; i < 20000; i++) {
		struct lb_addr a = {.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(i)}};
		uint64_t until;

		assert_int_equal(lb_rate_limit_take(limit, &a, START, &until), LB_RATE_LIMIT_TAKEN);
	}
	assert_int_equal(lb_rate_limit_clients(limit, START), 20000);
	assert_int_equal(lb_rate_limit_evicted(limit), 0);
	for (uint32_t i = 0; i < 20000; i += 7) {
		struct lb_addr a = {.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(i)}};
		uint64_t until;

		assert_int_equal(lb_rate_limit_take(limit, &a, START, &until),
				 LB_RATE_LIMIT_CLIENT);
	}
	assert_int_equal(lb_rate_limit_clients(limit, START + 2 * SECOND), 0);
}

static void more_clients_than_places_are_counted(void **state)
{
	uint32_t max = lb_rate_limit_clients_max(), clients = max + max / 2;

	setup(1, 1, 0, 0);
	for (uint32_t i = 0; i < clients; i++) {
		struct lb_addr a = {.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(i)}};
		uint64_t until;

		assert_int_equal(lb_rate_limit_take(limit, &a, START, &until), LB_RATE_LIMIT_TAKEN);
	}
	assert_int_equal(lb_rate_limit_clients(limit, START) + lb_rate_limit_evicted(limit),
			 clients);
}

static void what_is_lacked_is_lacked_at_the_next_daemon(void **state)
{
	struct lb_rate_limit_record *all = NULL;
	size_t count = 0;

	setup(10, 10, 0, 0);
	assert_int_equal(ask("10.0.0.1:1", START, 1, 20), 10);
	assert_int_equal(ask("10.0.0.2:1", START, 1, 4), 4);
	assert_int_equal(take("[2001:db8::1]:1", START - 60 * SECOND), LB_RATE_LIMIT_TAKEN);
	assert_int_equal(lb_rate_limit_save(limit, START, &all, &count), 0);
	assert_int_equal(count, 2);
	lb_rate_limit_free(&limit);
	/* Half the burst: nobody lacks more than there is. */
	setup(10, 5, 0, 0);
	for (size_t i = 0; i < count; i++)
		lb_rate_limit_restore(limit, &all[i], START);
	assert_int_equal(ask("10.0.0.1:1", START, 1, 20), 0);
	assert_int_equal(ask("10.0.0.1:1", START + SECOND / 5, 1, 20), 2);
	assert_int_equal(ask("10.0.0.2:1", START, 1, 20), 1);
	assert_int_equal(ask("10.0.0.3:1", START, 1, 20), 5);
	/* What was spent here is not given back. */
	for (size_t i = 0; i < count; i++)
		lb_rate_limit_restore(limit, &all[i], START);
	assert_int_equal(ask("10.0.0.2:1", START, 1, 20), 0);
	free(all);
}

static void what_all_lack_together_goes_on_too(void **state)
{
	struct lb_rate_limit_record *all = NULL;
	size_t count = 0;

	setup(0, 0, 10, 10);
	assert_int_equal(ask("10.0.0.1:1", START, 1, 7), 7);
	assert_int_equal(lb_rate_limit_save(limit, START, &all, &count), 0);
	assert_int_equal(count, 1);
	lb_rate_limit_free(&limit);
	setup(0, 0, 10, 10);
	lb_rate_limit_restore(limit, &all[0], START);
	assert_int_equal(ask("10.0.0.9:1", START, 1, 20), 3);
	lb_rate_limit_free(&limit);
	/* A rule without that limit has nothing to do with it. */
	setup(10, 10, 0, 0);
	lb_rate_limit_restore(limit, &all[0], START);
	assert_int_equal(ask("10.0.0.9:1", START, 1, 20), 10);
	free(all);
}

static void *hammer(void *arg)
{
	uint32_t *taken = arg;

	*taken = ask("10.0.0.1:1", START, SECOND, 40000);
	return NULL;
}

static void threads_share_a_bucket(void **state)
{
	pthread_t threads[4];
	uint32_t taken[4], sum = 0;

	setup(1000, 100, 0, 0);
	for (size_t i = 0; i < LB_ARRAY_SIZE(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, &taken[i]), 0);
	for (size_t i = 0; i < LB_ARRAY_SIZE(threads); i++) {
		pthread_join(threads[i], NULL);
		sum += taken[i];
	}
	/* Each has a clock of its own here; none may gain by another one's. */
	assert_in_range(sum, 1090, 1100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(burst_is_spent_then_refused, teardown),
		cmocka_unit_test_teardown(the_next_token_comes_when_it_was_said, teardown),
		cmocka_unit_test_teardown(refused_asks_cost_nothing, teardown),
		cmocka_unit_test_teardown(rates_are_exact, teardown),
		cmocka_unit_test_teardown(a_pause_brings_no_more_than_the_burst, teardown),
		cmocka_unit_test_teardown(an_ipv6_prefix_is_one_client, teardown),
		cmocka_unit_test_teardown(all_clients_together_have_a_limit_of_their_own, teardown),
		cmocka_unit_test_teardown(new_rates_hold_for_living_buckets, teardown),
		cmocka_unit_test_teardown(idle_clients_are_forgotten_and_others_are_not, teardown),
		cmocka_unit_test_teardown(more_clients_than_places_are_counted, teardown),
		cmocka_unit_test_teardown(what_is_lacked_is_lacked_at_the_next_daemon, teardown),
		cmocka_unit_test_teardown(what_all_lack_together_goes_on_too, teardown),
		cmocka_unit_test_teardown(threads_share_a_bucket, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
