/* SPDX-License-Identifier: MIT */
#include "flow/select_queue.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WAITERS 32

struct fixture {
	struct lb_backend backend, *set[1];
	struct lb_backend_config config;
	struct lb_pool pool;
	struct lb_select *select;
	struct lb_door door;
	struct lb_waiter waiters[WAITERS];
};

static struct fixture fx;
static int notified;

static void notify(struct lb_door *door)
{
	notified++;
}

/* One backend with room for one connection. */
static void setup(void)
{
	memset(&fx, 0, sizeof(fx));
	notified = 0;
	fx.config.addr = (char *)"a:1";
	fx.backend = (struct lb_backend){.config = &fx.config,
					 .pool = &fx.pool,
					 .id = 1,
					 .holders = 1,
					 .weight = 1,
					 .limit = 1};
	fx.set[0] = &fx.backend;
	fx.pool = (struct lb_pool){.backends = fx.set, .count = 1};
	pthread_mutex_init(&fx.pool.lock, NULL);
	assert_int_equal(lb_select_new(&fx.select, &fx.pool, LB_BALANCE_LEAST_CONNECTIONS), 0);
	lb_door_init(&fx.door, notify);
}

static void teardown(void)
{
	lb_select_free(&fx.select);
	lb_door_fini(&fx.door);
}

static struct lb_backend *take(void)
{
	const struct lb_select_ask ask = {};

	return lb_select_take(fx.select, &ask);
}

/* The <i>th one waits, for a client. */
static int waits(int i, char client)
{
	fx.waiters[i].ask.source = (uint64_t)client;
	fx.waiters[i].door = &fx.door;
	return lb_select_wait(fx.select, &fx.waiters[i], WAITERS);
}

/* Who is at the door, by number: -1 nobody. It takes what it was granted. */
static int at_the_door(void)
{
	struct lb_waiter *w = lb_door_next(&fx.door);

	if (!w)
		return -1;
	assert_ptr_equal(lb_select_leave(fx.select, w), &fx.backend);
	return (int)(w - fx.waiters);
}

static void assert_order(const char *clients, const char *order)
{
	setup();
	assert_non_null(take());
	for (int i = 0; clients[i]; i++)
		assert_int_equal(waits(i, clients[i]), 0);
	assert_int_equal(lb_select_waiting(fx.select), strlen(clients));
	for (int i = 0; order[i]; i++) {
		assert_int_equal(at_the_door(), -1);
		lb_select_release(fx.select, &fx.backend);
		assert_int_equal(at_the_door(), order[i] - '0');
	}
	assert_int_equal(lb_select_waiting(fx.select), 0);
	teardown();
}

static void first_come_first_served_by_turns_over_clients(void **state)
{
	assert_order("abcd", "0123");
	assert_order("aaaa", "0123");
	assert_order("aaab", "0312");
	assert_order("aabbc", "02413");
	assert_order("aaabbbccc", "036147258");
}

static void a_queue_that_is_full_takes_nobody(void **state)
{
	setup();
	assert_non_null(take());
	for (int i = 0; i < 3; i++)
		assert_int_equal(lb_select_wait(fx.select, &fx.waiters[i], 3), 0);
	assert_int_equal(lb_select_wait(fx.select, &fx.waiters[3], 3), -ENOSPC);
	assert_int_equal(fx.waiters[3].state, LB_WAITER_OUT);
	assert_null(lb_select_leave(fx.select, &fx.waiters[1]));
	assert_int_equal(lb_select_wait(fx.select, &fx.waiters[3], 3), 0);
	assert_null(lb_select_leave(fx.select, &fx.waiters[0]));
	assert_null(lb_select_leave(fx.select, &fx.waiters[2]));
	assert_null(lb_select_leave(fx.select, &fx.waiters[3]));
	teardown();
}

static void room_that_comes_in_between_is_granted_at_once(void **state)
{
	setup();
	assert_int_equal(waits(0, 'a'), 0);
	assert_int_equal(notified, 1);
	assert_int_equal(at_the_door(), 0);
	assert_null(take());
	teardown();
}

static void who_leaves_at_the_last_moment_has_its_backend(void **state)
{
	setup();
	assert_non_null(take());
	assert_int_equal(waits(0, 'a'), 0);
	lb_select_release(fx.select, &fx.backend);
	assert_ptr_equal(lb_select_leave(fx.select, &fx.waiters[0]), &fx.backend);
	assert_int_equal(at_the_door(), -1);
	assert_int_equal(fx.backend.active, 1);
	teardown();
}

static void the_door_rings_once_for_all_who_stand_there(void **state)
{
	setup();
	fx.backend.limit = 3;
	for (int i = 0; i < 3; i++)
		assert_non_null(take());
	for (int i = 0; i < 3; i++)
		assert_int_equal(waits(i, (char)('a' + i)), 0);
	for (int i = 0; i < 3; i++)
		lb_select_release(fx.select, &fx.backend);
	assert_int_equal(notified, 1);
	for (int i = 0; i < 3; i++)
		assert_int_equal(at_the_door(), i);
	assert_int_equal(at_the_door(), -1);
	teardown();
}

static void a_backend_that_comes_up_takes_in_those_who_wait(void **state)
{
	setup();
	assert_non_null(take());
	assert_int_equal(waits(0, 'a'), 0);
	assert_int_equal(lb_select_mark(fx.select, &fx.backend, LB_BACKEND_DOWN, true), 0);
	lb_select_release(fx.select, &fx.backend);
	assert_int_equal(at_the_door(), -1);
	assert_int_equal(lb_select_mark(fx.select, &fx.backend, LB_BACKEND_DOWN, false), 0);
	assert_int_equal(at_the_door(), 0);
	teardown();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_come_first_served_by_turns_over_clients),
		cmocka_unit_test(a_queue_that_is_full_takes_nobody),
		cmocka_unit_test(room_that_comes_in_between_is_granted_at_once),
		cmocka_unit_test(who_leaves_at_the_last_moment_has_its_backend),
		cmocka_unit_test(the_door_rings_once_for_all_who_stand_there),
		cmocka_unit_test(a_backend_that_comes_up_takes_in_those_who_wait),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
