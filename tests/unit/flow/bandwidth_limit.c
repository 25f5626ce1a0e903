/* SPDX-License-Identifier: MIT */
#include "flow/bandwidth_limit.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define NOW    3000000000000ull
#define SECOND 1000000000ull

static const struct lb_bandwidth_limit_config config = {
	.enabled = true,
	.client = {.upload_per_sec = 1000, .download_per_sec = 2000},
	.backend = {.upload_per_sec = 50000, .download_per_sec = 0},
};
static struct lb_buckets *buckets;
static struct lb_bandwidth_limit *limit;

struct flow {
	struct lb_bandwidth_share share;
};

static struct lb_addr addr(const char *text)
{
	struct lb_addr a;

	assert_int_equal(lb_addr_parse(text, &a), 0);
	return a;
}

static void setup(uint32_t count)
{
	assert_int_equal(lb_buckets_new(&buckets, NULL, count), 0);
	assert_int_equal(lb_bandwidth_limit_new(&limit, buckets, &config), 0);
}

static void teardown(void)
{
	lb_bandwidth_limit_free(&limit);
	lb_buckets_free(&buckets);
}

static int enter(struct flow *f, const char *client, const char *backend, uint64_t now)
{
	struct lb_addr c = addr(client), b = addr(backend);

	memset(f, 0, sizeof(*f));
	return lb_bandwidth_limit_enter(limit, &f->share, &c, &b, now);
}

static void leave(struct flow *f, uint64_t now)
{

	lb_bandwidth_limit_leave(&f->share, now);
}

static void connections_of_a_client_and_to_a_backend_share_their_buckets(void **state)
{
	struct flow f[4];

	setup(100);
	assert_int_equal(enter(&f[0], "192.0.2.1:1", "10.0.0.1:80", NOW), 0);
	assert_int_equal(enter(&f[1], "[::ffff:192.0.2.1]:2", "10.0.0.2:80", NOW), 0);
	assert_int_equal(enter(&f[2], "192.0.2.2:1", "10.0.0.1:80", NOW), 0);
	assert_int_equal(enter(&f[3], "192.0.2.2:1", "10.0.0.1:81", NOW), 0);
	assert_ptr_equal(f[0].share.budget[0].bucket[0], f[1].share.budget[0].bucket[0]);
	assert_ptr_equal(f[0].share.budget[1].bucket[0], f[1].share.budget[1].bucket[0]);
	assert_ptr_not_equal(f[0].share.budget[0].bucket[0], f[0].share.budget[1].bucket[0]);
	assert_ptr_not_equal(f[0].share.budget[0].bucket[0], f[2].share.budget[0].bucket[0]);
	assert_ptr_equal(f[0].share.budget[0].bucket[1], f[2].share.budget[0].bucket[1]);
	assert_ptr_not_equal(f[0].share.budget[0].bucket[1], f[1].share.budget[0].bucket[1]);
	assert_ptr_not_equal(f[2].share.budget[0].bucket[1], f[3].share.budget[0].bucket[1]);
	assert_int_equal(f[0].share.budget[0].bucket[0]->rate, 1000);
	assert_int_equal(f[0].share.budget[1].bucket[0]->rate, 2000);
	assert_int_equal(f[0].share.budget[0].bucket[1]->rate, 50000);
	assert_int_equal(f[0].share.budget[1].bucket[1]->rate, 0);
	assert_ptr_equal(lb_buckets_at(buckets, f[0].share.budget[0].index[0]),
			 f[0].share.budget[0].bucket[0]);
	assert_int_equal(lb_budget_rate(&f[0].share.budget[0]), 1000);
	assert_int_equal(lb_bandwidth_limit_clients(limit, NOW), 2);
	for (int i = 0; i < 4; i++)
		leave(&f[i], NOW);
	assert_int_equal(lb_bandwidth_limit_clients(limit, NOW), 0);
	assert_int_equal(lb_buckets_used(buckets), 2 * 3);
	teardown();
}

static void closing_and_opening_again_forgives_no_debt(void **state)
{
	struct flow f, other;

	setup(100);
	assert_int_equal(enter(&f, "192.0.2.1:1", "10.0.0.1:80", NOW), 0);
	lb_budget_charge(&f.share.budget[0], 5000, NOW);
	leave(&f, NOW);
	assert_int_equal(lb_bandwidth_limit_clients(limit, NOW), 1);
	assert_int_equal(enter(&f, "192.0.2.1:2", "10.0.0.1:80", NOW + SECOND), 0);
	assert_int_equal(lb_budget_room(&f.share.budget[0], NOW + SECOND), 0);
	assert_int_equal(f.share.budget[0].bucket[0]->tat, NOW + 5 * SECOND);
	leave(&f, NOW + SECOND);
	/* It is remembered until it is paid, and no longer. */
	assert_int_equal(enter(&other, "192.0.2.9:1", "10.0.0.1:80", NOW + 4 * SECOND), 0);
	assert_int_equal(lb_bandwidth_limit_clients(limit, NOW), 2);
	leave(&other, NOW + 4 * SECOND);
	assert_int_equal(enter(&other, "192.0.2.9:1", "10.0.0.1:80", NOW + 6 * SECOND), 0);
	assert_int_equal(lb_bandwidth_limit_clients(limit, NOW), 1);
	lb_budget_charge(&other.share.budget[0], 1000, NOW + 6 * SECOND);
	leave(&other, NOW + 6 * SECOND);
	assert_int_equal(lb_bandwidth_limit_clients(limit, NOW + 6 * SECOND), 1);
	assert_int_equal(lb_bandwidth_limit_clients(limit, NOW + 7 * SECOND), 0);
	teardown();
}

static void a_place_in_the_queue_is_given_back_at_the_end(void **state)
{
	struct flow f, g;

	setup(100);
	assert_int_equal(enter(&f, "192.0.2.1:1", "10.0.0.1:80", NOW), 0);
	assert_int_equal(enter(&g, "192.0.2.1:2", "10.0.0.1:80", NOW), 0);
	lb_budget_charge(&f.share.budget[0], 100, NOW);
	assert_int_equal(lb_budget_reserve(&g.share.budget[0], 1000, NOW), 0);
	assert_true(f.share.budget[0].bucket[0]->tat > NOW + SECOND / 10);
	leave(&g, NOW);
	assert_int_equal(f.share.budget[0].bucket[0]->tat, NOW + SECOND / 10);
	leave(&f, NOW);
	teardown();
}

static void those_who_owe_are_remembered_within_bounds(void **state)
{
	struct flow f;
	char text[32];

	setup(1 + lb_bandwidth_limit_buckets(1));
	for (int i = 0; i < 3000; i++) {
		snprintf(text, sizeof(text), "10.1.%d.%d:1", i / 200, i % 200);
		assert_int_equal(enter(&f, text, "10.0.0.1:80", NOW), 0);
		lb_budget_charge(&f.share.budget[0], 100000, NOW);
		leave(&f, NOW);
	}
	assert_in_range(lb_bandwidth_limit_clients(limit, NOW), LB_BANDWIDTH_IDLE_MAX - 1,
			LB_BANDWIDTH_IDLE_MAX);
	/* The last ones are. */
	assert_int_equal(enter(&f, text, "10.0.0.1:80", NOW), 0);
	assert_int_equal(lb_budget_room(&f.share.budget[0], NOW), 0);
	leave(&f, NOW);
	teardown();
}

static void without_a_bucket_a_flow_is_not_let_in(void **state)
{
	struct flow f[3];

	/* One backend's and one client's. */
	setup(5);
	assert_int_equal(enter(&f[0], "192.0.2.1:1", "10.0.0.1:80", NOW), 0);
	assert_int_equal(enter(&f[1], "192.0.2.1:2", "10.0.0.1:80", NOW), 0);
	assert_int_equal(enter(&f[2], "192.0.2.2:1", "10.0.0.1:80", NOW), -ENOSPC);
	assert_int_equal(enter(&f[2], "192.0.2.1:1", "10.0.0.2:80", NOW), -ENOSPC);
	assert_null(f[2].share.client);
	assert_int_equal(lb_buckets_used(buckets), 4);
	leave(&f[0], NOW);
	leave(&f[1], NOW);
	assert_int_equal(enter(&f[2], "192.0.2.2:1", "10.0.0.1:80", NOW), 0);
	leave(&f[2], NOW);
	teardown();
}

static void other_rates_hold_for_living_flows_and_for_later_ones(void **state)
{
	struct lb_bandwidth_limit_config faster = config, off = {.enabled = false};
	struct flow f, g;

	faster.client.upload_per_sec = 100000;
	faster.backend.download_per_sec = 7;
	setup(100);
	assert_int_equal(enter(&f, "192.0.2.1:1", "10.0.0.1:80", NOW), 0);
	lb_budget_charge(&f.share.budget[0], 1000, NOW);
	assert_int_equal(lb_budget_reserve(&f.share.budget[0], 100, NOW), 0);
	lb_bandwidth_limit_change(limit, &faster, NOW);
	assert_true(lb_budget_room(&f.share.budget[0], NOW) > 0);
	assert_int_equal(f.share.budget[1].bucket[1]->rate, 7);
	assert_int_equal(enter(&g, "192.0.2.2:1", "10.0.0.2:80", NOW), 0);
	assert_int_equal(g.share.budget[0].bucket[0]->rate, 100000);
	assert_int_equal(g.share.budget[1].bucket[1]->rate, 7);
	lb_bandwidth_limit_change(limit, &off, NOW);
	assert_int_equal(lb_budget_room(&f.share.budget[0], NOW), UINT64_MAX);
	assert_int_equal(lb_budget_rate(&g.share.budget[1]), 0);
	leave(&f, NOW);
	leave(&g, NOW);
	teardown();
}

static void a_block_without_a_rate_limits_nothing(void **state)
{
	struct lb_bandwidth_limit_config c = {.enabled = true};

	assert_false(lb_bandwidth_limit_is_set(&c));
	c.backend.download_per_sec = 1;
	assert_true(lb_bandwidth_limit_is_set(&c));
	c.enabled = false;
	assert_false(lb_bandwidth_limit_is_set(&c));
}

#define THREADS 4
#define FLOWS   20000

static void *come_and_go(void *arg)
{
	struct flow f;
	char text[32];

	for (int i = 0; i < FLOWS; i++) {
		snprintf(text, sizeof(text), "10.2.0.%d:1", i % 7);
		if (enter(&f, text, "10.0.0.1:80", NOW))
			return arg;
		lb_budget_charge(&f.share.budget[0], 1, NOW);
		leave(&f, NOW);
	}
	return NULL;
}

static void all_workers_charge_one_backend(void **state)
{
	pthread_t threads[THREADS];
	struct flow f;
	void *failed;

	setup(200);
	assert_int_equal(enter(&f, "192.0.2.1:1", "10.0.0.1:80", NOW), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, come_and_go, &f), 0);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(threads[i], &failed);
		assert_null(failed);
	}
	/* 50 kB/s: 20 us a byte. */
	assert_int_equal(f.share.budget[0].bucket[1]->tat - NOW, 20000ull * FLOWS * THREADS);
	leave(&f, NOW);
	teardown();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(connections_of_a_client_and_to_a_backend_share_their_buckets),
		cmocka_unit_test(closing_and_opening_again_forgives_no_debt),
		cmocka_unit_test(a_place_in_the_queue_is_given_back_at_the_end),
		cmocka_unit_test(those_who_owe_are_remembered_within_bounds),
		cmocka_unit_test(without_a_bucket_a_flow_is_not_let_in),
		cmocka_unit_test(other_rates_hold_for_living_flows_and_for_later_ones),
		cmocka_unit_test(a_block_without_a_rate_limits_nothing),
		cmocka_unit_test(all_workers_charge_one_backend),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
