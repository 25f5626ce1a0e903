/* SPDX-License-Identifier: MIT */
#include "flow/client_connection_limit.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static struct lb_client_connection_limit *limit;

static struct lb_addr addr(const char *text)
{
	struct lb_addr a;

	assert_int_equal(lb_addr_parse(text, &a), 0);
	return a;
}

static void setup(uint32_t max)
{
	assert_int_equal(lb_client_connection_limit_new(&limit, max), 0);
}

static bool take(const char *text)
{
	struct lb_addr a = addr(text);

	return lb_client_connection_limit_take(limit, &a, 0);
}

static void release(const char *text)
{
	struct lb_addr a = addr(text);

	lb_client_connection_limit_release(limit, &a);
}

static void each_client_has_so_many_whatever_its_port(void **state)
{
	setup(2);
	assert_true(take("192.0.2.1:1000"));
	assert_true(take("192.0.2.1:2000"));
	assert_false(take("192.0.2.1:3000"));
	assert_true(take("192.0.2.2:3000"));
	assert_true(take("[2001:db8::1]:1"));
	assert_true(take("[2001:db8::1]:2"));
	assert_false(take("[2001:db8::1]:3"));
	assert_true(take("[2001:db8::2]:3"));
	release("192.0.2.1:9");
	assert_true(take("192.0.2.1:3000"));
	assert_int_equal(lb_client_connection_limit_clients(limit), 4);
	lb_client_connection_limit_free(&limit);
}

static void a_mapped_address_is_the_same_client(void **state)
{
	setup(1);
	assert_true(take("192.0.2.1:1"));
	assert_false(take("[::ffff:192.0.2.1]:2"));
	lb_client_connection_limit_free(&limit);
}

static void what_was_adopted_counts(void **state)
{
	struct lb_addr a = addr("192.0.2.1:1");

	setup(1);
	assert_true(lb_client_connection_limit_adopt(limit, &a));
	assert_true(lb_client_connection_limit_adopt(limit, &a));
	assert_false(take("192.0.2.1:1"));
	release("192.0.2.1:1");
	assert_false(take("192.0.2.1:1"));
	release("192.0.2.1:1");
	assert_true(take("192.0.2.1:1"));
	lb_client_connection_limit_free(&limit);
}

static void clients_without_a_connection_are_forgotten(void **state)
{
	char text[32];

	setup(1);
	for (int round = 0; round < 2; round++) {
		for (int i = 0; i < 20000; i++) {
			snprintf(text, sizeof(text), "10.0.%d.%d:1", i / 200, i % 200);
			assert_true(take(text));
		}
		assert_int_equal(lb_client_connection_limit_clients(limit), 20000);
		for (int i = 0; i < 20000; i++) {
			snprintf(text, sizeof(text), "10.0.%d.%d:1", i / 200, i % 200);
			release(text);
		}
		assert_int_equal(lb_client_connection_limit_clients(limit), 0);
	}
	lb_client_connection_limit_free(&limit);
}

#define THREADS 4
static uint32_t now;

static void *storm(void *arg)
{
	struct lb_addr a = *(struct lb_addr *)arg;

	for (int i = 0; i < 50000; i++) {
		if (!lb_client_connection_limit_take(limit, &a, 0))
			continue;
		assert_true(__atomic_add_fetch(&now, 1, __ATOMIC_SEQ_CST) <= 2);
		__atomic_sub_fetch(&now, 1, __ATOMIC_SEQ_CST);
		lb_client_connection_limit_release(limit, &a);
	}
	return NULL;
}

static void no_storm_gets_over_it(void **state)
{
	struct lb_addr a = addr("192.0.2.1:1");
	pthread_t threads[THREADS];

	setup(2);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, storm, &a), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(lb_client_connection_limit_clients(limit), 0);
	lb_client_connection_limit_free(&limit);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_client_has_so_many_whatever_its_port),
		cmocka_unit_test(a_mapped_address_is_the_same_client),
		cmocka_unit_test(what_was_adopted_counts),
		cmocka_unit_test(clients_without_a_connection_are_forgotten),
		cmocka_unit_test(no_storm_gets_over_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
