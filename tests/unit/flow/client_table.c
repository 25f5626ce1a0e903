/* SPDX-License-Identifier: MIT */
#include "flow/client_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define MANY 20000

static struct lb_client_table table;
static struct lb_client clients[MANY];

static struct lb_addr addr(const char *text)
{
	struct lb_addr a;

	assert_int_equal(lb_addr_parse(text, &a), 0);
	return a;
}

static struct lb_client *find(const char *text)
{
	struct lb_addr a = addr(text);

	return lb_client_table_find(&table, &a);
}

static struct lb_addr numbered(int i)
{
	char text[32];

	snprintf(text, sizeof(text), "10.%d.%d.%d:1", i / 40000, i / 200 % 200, i % 200);
	return addr(text);
}

static int setup(void **state)
{
	return lb_client_table_init(&table);
}

static int teardown(void **state)
{
	lb_client_table_fini(&table, NULL);
	return 0;
}

static void a_client_is_its_address_whatever_port_and_family(void **state)
{
	struct lb_addr v4 = addr("192.0.2.1:80"), v6 = addr("[2001:db8::1]:80");

	lb_client_table_add(&table, &clients[0], &v4);
	lb_client_table_add(&table, &clients[1], &v6);
	assert_ptr_equal(find("192.0.2.1:1"), &clients[0]);
	assert_ptr_equal(find("[::ffff:192.0.2.1]:2"), &clients[0]);
	assert_ptr_equal(find("[2001:db8::1]:3"), &clients[1]);
	assert_null(find("[2001:db8::2]:80"));
	assert_null(find("192.0.2.2:80"));
	lb_client_table_remove(&table, &clients[0]);
	assert_null(find("192.0.2.1:80"));
	assert_int_equal(table.count, 1);
}

static void count_one(struct lb_client *c, void *arg)
{
	++*(size_t *)arg;
}

static void many_are_found_while_the_table_grows_and_shrinks(void **state)
{
	size_t seen = 0;

	for (int i = 0; i < MANY; i++) {
		struct lb_addr a = numbered(i);

		lb_client_table_add(&table, &clients[i], &a);
	}
	assert_true(table.heads_count >= MANY / 2);
	lb_client_table_each(&table, count_one, &seen);
	assert_int_equal(seen, MANY);
	for (int i = 0; i < MANY; i += 2)
		lb_client_table_remove(&table, &clients[i]);
	for (int i = 0; i < MANY; i++) {
		struct lb_addr a = numbered(i);

		assert_ptr_equal(lb_client_table_find(&table, &a), i % 2 ? &clients[i] : NULL);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_client_is_its_address_whatever_port_and_family),
		TEST(many_are_found_while_the_table_grows_and_shrinks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
