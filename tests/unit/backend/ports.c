/* SPDX-License-Identifier: MIT */
#include "backend/ports.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#define MIN 20000
#define MAX 20099

static struct lb_ports_shelf *shelf;
static struct lb_ports *book;
static struct lb_addr addr;

static int setup(void **state)
{
	assert_int_equal(lb_addr_parse("192.0.2.1:80", &addr), 0);
	assert_int_equal(lb_ports_shelf_new(&shelf), 0);
	return lb_ports_open(shelf, &addr, MIN, MAX, &book);
}

static int teardown(void **state)
{
	lb_ports_shelf_free(&shelf);
	return shelf != NULL;
}

static void every_port_comes_once_before_any_comes_twice(void **state)
{
	bool seen[MAX - MIN + 1] = {false};

	for (int i = 0; i <= MAX - MIN; i++) {
		uint16_t port = lb_ports_next(book);

		assert_in_range(port, MIN, MAX);
		assert_false(seen[port - MIN]);
		seen[port - MIN] = true;
	}
}

static void behind_one_that_is_in_use_comes_one_from_elsewhere(void **state)
{
	uint32_t first = lb_ports_next(book), second, away;

	lb_ports_skip(book);
	second = lb_ports_next(book);
	assert_in_range(second, MIN, MAX);
	away = (second + (MAX - MIN + 1) - first) % (MAX - MIN + 1);
	assert_int_equal(away, (MAX - MIN + 1) / 7 + 1);
}

static void a_port_that_a_graft_has_is_not_handed_out(void **state)
{
	lb_ports_take(book, MIN);
	lb_ports_take(book, MIN + 64);
	lb_ports_take(book, MAX);
	for (int i = 0; i < 3 * (MAX - MIN); i++) {
		uint16_t port = lb_ports_next(book);

		assert_true(port != MIN && port != MIN + 64 && port != MAX);
	}
	lb_ports_leave(book, MIN + 64);
	for (int i = 0; i <= MAX - MIN; i++)
		if (lb_ports_next(book) == MIN + 64)
			return;
	fail_msg("a port that was left does not come back");
}

static void when_all_are_taken_there_is_none(void **state)
{
	for (uint16_t port = MIN; port <= MAX; port++)
		lb_ports_take(book, port);
	assert_int_equal(lb_ports_next(book), 0);
}

static void only_free_ports_of_the_range_may_be_grafted(void **state)
{
	assert_true(lb_ports_may_graft(book, MIN));
	assert_true(lb_ports_may_graft(book, MAX));
	assert_false(lb_ports_may_graft(book, MIN - 1));
	assert_false(lb_ports_may_graft(book, MAX + 1));
	lb_ports_take(book, MIN);
	assert_false(lb_ports_may_graft(book, MIN));
	/* Of no book: nothing happens. */
	lb_ports_take(book, 80);
	lb_ports_leave(book, 65535);
}

static void backends_with_one_address_share_a_book(void **state)
{
	struct lb_ports *again = NULL, *other = NULL;
	struct lb_addr addr2;

	assert_int_equal(lb_ports_open(shelf, &addr, MIN, MAX, &again), 0);
	assert_ptr_equal(again, book);
	assert_int_equal(lb_addr_parse("192.0.2.1:81", &addr2), 0);
	assert_int_equal(lb_ports_open(shelf, &addr2, MIN, MAX, &other), 0);
	assert_ptr_not_equal(other, book);
	assert_int_equal(lb_ports_shelf_count(shelf), 2);
}

static void a_book_stays_until_its_last_holder_lets_go(void **state)
{
	struct lb_ports *again = lb_ports_hold(book), *anew = NULL;

	lb_ports_take(book, MIN);
	lb_ports_close(&book);
	assert_null(book);
	assert_int_equal(lb_ports_open(shelf, &addr, MIN, MAX, &anew), 0);
	assert_ptr_equal(anew, again);
	assert_false(lb_ports_may_graft(anew, MIN));
	lb_ports_close(&again);
	lb_ports_close(&anew);
	assert_int_equal(lb_ports_shelf_count(shelf), 0);
	/* Nobody had a port of it: the next one begins with none taken. */
	assert_int_equal(lb_ports_open(shelf, &addr, MIN, MAX, &anew), 0);
	assert_true(lb_ports_may_graft(anew, MIN));
}

static bool churning;

static void *churn(void *arg)
{
	while (__atomic_load_n(&churning, __ATOMIC_RELAXED)) {
		struct lb_ports *p = NULL, *more;

		assert_int_equal(lb_ports_open(shelf, &addr, MIN, MAX, &p), 0);
		more = lb_ports_hold(p);
		lb_ports_take(p, MIN);
		lb_ports_leave(p, MIN);
		lb_ports_close(&p);
		assert_in_range(lb_ports_next(more), MIN, MAX);
		lb_ports_close(&more);
	}
	return NULL;
}

static void books_come_and_go_while_others_look_for_them(void **state)
{
	pthread_t threads[4];

	lb_ports_close(&book);
	churning = true;
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, churn, NULL), 0);
	for (int i = 0; i < 20000; i++) {
		assert_int_equal(lb_ports_open(shelf, &addr, MIN, MAX, &book), 0);
		lb_ports_close(&book);
	}
	__atomic_store_n(&churning, false, __ATOMIC_RELAXED);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(lb_ports_shelf_count(shelf), 0);
}

static void a_range_of_one_port_works(void **state)
{
	struct lb_ports *one = NULL;
	struct lb_addr addr2;

	assert_int_equal(lb_addr_parse("[2001:db8::1]:80", &addr2), 0);
	assert_int_equal(lb_ports_open(shelf, &addr2, 1024, 1024, &one), 0);
	assert_int_equal(lb_ports_next(one), 1024);
	assert_int_equal(lb_ports_next(one), 1024);
	lb_ports_take(one, 1024);
	assert_int_equal(lb_ports_next(one), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_port_comes_once_before_any_comes_twice),
		TEST(behind_one_that_is_in_use_comes_one_from_elsewhere),
		TEST(a_port_that_a_graft_has_is_not_handed_out),
		TEST(when_all_are_taken_there_is_none),
		TEST(only_free_ports_of_the_range_may_be_grafted),
		TEST(backends_with_one_address_share_a_book),
		TEST(a_book_stays_until_its_last_holder_lets_go),
		TEST(books_come_and_go_while_others_look_for_them),
		TEST(a_range_of_one_port_works),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
