/* SPDX-License-Identifier: MIT */
/* Names over a resolver and a clock of our own: what a server would answer the tests answer. */
#include "backend/name.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NAMES 40

/* --- fakes: clock, timers, look-ups ----------------------------------------------------------- */

static uint64_t now_ms;
static struct lb_timer *timers[NAMES];

uint64_t lb_loop_now_ns(const struct lb_loop *loop)
{
	return now_ms * 1000000;
}

void lb_timer_init(struct lb_timer *t, lb_timer_fn fn)
{
	*t = (struct lb_timer){.fn = fn};
}

void lb_timer_start(struct lb_loop *loop, struct lb_timer *t, uint64_t delay_ms)
{
	t->due_ms = now_ms + delay_ms;
	t->armed = true;
	for (size_t i = 0; i < NAMES; i++) {
		if (timers[i] && timers[i] != t)
			continue;
		timers[i] = t;
		return;
	}
	fail();
}

void lb_timer_stop(struct lb_loop *loop, struct lb_timer *t)
{
	t->armed = false;
	for (size_t i = 0; i < NAMES; i++)
		if (timers[i] == t)
			timers[i] = NULL;
}

static void advance(uint64_t ms)
{
	for (uint64_t end = now_ms + ms; now_ms < end;) {
		now_ms++;
		for (size_t i = 0; i < NAMES; i++) {
			struct lb_timer *t = timers[i];

			if (!t || !t->armed || t->due_ms > now_ms)
				continue;
			t->armed = false;
			t->fn(t);
		}
	}
}

struct lb_resolve {
	struct lb_resolve_ask ask;
};

static struct lb_resolve *asked[NAMES]; /* under way */
static unsigned int under_way, started;
static int start_error;

int lb_resolve_init(void)
{
	return 0;
}

int lb_resolve_start(struct lb_resolve **ret, const struct lb_resolve_ask *ask)
{
	struct lb_resolve *r;

	if (start_error)
		return start_error;
	r = calloc(1, sizeof(*r));
	assert_non_null(r);
	r->ask = *ask;
	asked[under_way++] = r;
	started++;
	*ret = r;
	return 0;
}

void lb_resolve_cancel(struct lb_resolve **pr)
{
	struct lb_resolve *r = *pr;

	*pr = NULL;
	for (unsigned int i = 0; r && i < under_way; i++)
		if (asked[i] == r)
			asked[i] = asked[--under_way];
	free(r);
}

/* The oldest look-up ends. <list>: last numbers of the addresses; NULL: no answer. */
static void answer(const char *list, uint32_t ttl_s)
{
	struct lb_addr addrs[16] = {0};
	struct lb_resolve_answer a = {.addrs = addrs, .ttl_s = ttl_s};
	struct lb_resolve *r = asked[0];

	assert_true(under_way);
	for (const char *c = list; c && *c; c++) {
		char text[32];

		snprintf(text, sizeof(text), "192.0.2.%c:80", *c);
		assert_int_equal(lb_addr_parse(text, &addrs[a.count++]), 0);
	}
	if (!list)
		a.cause = "nobody answers";
	memmove(asked, asked + 1, --under_way * sizeof(asked[0]));
	r->ask.done(r->ask.arg, &a);
	free(r);
}

/* --- the bench -------------------------------------------------------------------------------- */

static struct lb_names *names;
static struct lb_resolve_config config;
static unsigned int changed, failed, recovered, ends, good_ends;
static char last_cause[64];

static void on_event(void *owner, enum lb_name_event event, const char *cause)
{
	changed += event == LB_NAME_CHANGED;
	recovered += event == LB_NAME_RECOVERED;
	if (event != LB_NAME_FAILED)
		return;
	failed++;
	snprintf(last_cause, sizeof(last_cause), "%s", cause);
}

static void on_asked(void *owner, bool good)
{
	ends++;
	good_ends += good;
}

static int setup(void **state)
{
	const struct lb_names_opts opts = {.event = on_event, .asked = on_asked};

	now_ms = 1000000;
	memset(timers, 0, sizeof(timers));
	under_way = started = changed = failed = recovered = ends = good_ends = 0;
	start_error = 0;
	config = (struct lb_resolve_config){.interval_ms = 30000,
					    .addresses = LB_RESOLVE_ADDRESSES_ALL};
	return lb_names_new(&names, &opts);
}

static int teardown(void **state)
{
	lb_names_free(&names);
	/* What was under way is over. */
	return under_way != 0;
}

static struct lb_name *add(void)
{
	struct lb_name *n;

	assert_int_equal(lb_name_add(names, "app.test", 80, &config, NULL, &n), 0);
	return n;
}

static struct lb_name *with(const char *list, uint32_t ttl_s)
{
	struct lb_name *n = add();

	advance(1);
	answer(list, ttl_s);
	return n;
}

/* The addresses' last numbers, in order. */
static void assert_has(const struct lb_name *n, const char *list)
{
	const struct lb_addr *addrs;
	uint32_t count = lb_name_addresses(n, &addrs);
	bool has[128] = {false};

	assert_int_equal(count, strlen(list));
	for (uint32_t i = 0; i < count; i++)
		has['0' + (ntohl(addrs[i].in4.sin_addr.s_addr) & 15)] = true;
	for (; *list; list++)
		assert_true(has[(unsigned char)*list]);
}

/* --- claims ----------------------------------------------------------------------------------- */

static void a_name_is_looked_up_at_once(void **state)
{
	struct lb_name *n = add();

	assert_has(n, "");
	assert_int_equal(started, 0);
	advance(1);
	assert_int_equal(started, 1);
	assert_string_equal(asked[0]->ask.host, "app.test");
	answer("21", 0);
	assert_has(n, "12");
	assert_int_equal(changed, 1);
	assert_int_equal(good_ends, 1);
}

static void another_order_changes_nothing(void **state)
{
	struct lb_name *n = with("123", 0);
	const char *const orders[] = {"231", "312", "321", "132", "213"};

	for (size_t i = 0; i < 5; i++) {
		advance(31000);
		answer(orders[i], 0);
		assert_has(n, "123");
	}
	assert_int_equal(changed, 1);
}

static void every_other_set_does(void **state)
{
	const char *const sets[] = {"12", "2", "24", "4213", "1"};
	struct lb_name *n = with("123", 0);

	for (size_t i = 0; i < 5; i++) {
		advance(31000);
		answer(sets[i], 0);
		assert_has(n, sets[i]);
		assert_int_equal(changed, i + 2);
	}
}

static void the_first_stays_while_the_answer_has_it(void **state)
{
	struct lb_name *n;

	config.addresses = LB_RESOLVE_ADDRESSES_FIRST;
	n = with("21", 0);
	assert_has(n, "2");
	advance(31000);
	answer("132", 0);
	assert_has(n, "2");
	assert_int_equal(changed, 1);
	advance(31000);
	answer("31", 0);
	assert_has(n, "3");
	assert_int_equal(changed, 2);
}

static void no_answer_leaves_the_addresses_and_is_told_once(void **state)
{
	struct lb_name *n = with("12", 0);

	for (int i = 0; i < 4; i++) {
		advance(31000);
		answer(NULL, 0);
		assert_has(n, "12");
	}
	assert_int_equal(failed, 1);
	assert_string_equal(last_cause, "nobody answers");
	advance(5001);
	answer("12", 0);
	assert_int_equal(recovered, 1);
	assert_int_equal(changed, 1);
	advance(31000);
	answer(NULL, 0);
	assert_int_equal(failed, 2);
	assert_int_equal(ends, 7);
}

/* Asked again between <from> and <to> after an answer with <ttl_s>. */
static void assert_next(const char *list, uint32_t ttl_s, uint64_t from, uint64_t to)
{
	struct lb_name *n = with(list, ttl_s);
	unsigned int before = started;

	advance(from - 1);
	assert_int_equal(started, before);
	advance(to - from + 2);
	assert_int_equal(started, before + 1);
	lb_name_remove(&n);
}

static void it_is_asked_again_as_its_time_to_live_says(void **state)
{
	for (int i = 0; i < 20; i++) {
		assert_next("1", 10, 9000, 10000);
		assert_next("1", 0, 27000, 30000);     /* says nothing */
		assert_next("1", 86400, 27000, 30000); /* no longer than the interval */
		assert_next("1", 1, 900, 1000);        /* nor all the time */
		assert_next(NULL, 0, 4500, 5000);
	}
	config.interval_ms = 2000;
	assert_next(NULL, 0, 1800, 2000);
}

static void a_look_up_that_cannot_start_is_made_later(void **state)
{
	struct lb_name *n = add();

	start_error = -EMFILE;
	advance(1);
	assert_int_equal(started, 0);
	start_error = 0;
	advance(5001);
	answer("1", 0);
	assert_has(n, "1");
}

static void no_more_than_so_many_at_a_time(void **state)
{
	struct lb_name *all[NAMES];

	for (int i = 0; i < NAMES; i++)
		all[i] = add();
	advance(1);
	assert_int_equal(under_way, LB_NAME_LOOKUPS_MAX);
	answer("1", 0);
	assert_int_equal(under_way, LB_NAME_LOOKUPS_MAX);
	/* One that goes makes room, too. */
	lb_name_remove(&all[1]);
	assert_int_equal(started, LB_NAME_LOOKUPS_MAX + 2);
	while (under_way)
		answer("1", 0);
	assert_int_equal(started, NAMES);
}

static void one_that_is_removed_tells_nothing_more(void **state)
{
	struct lb_name *n = add();

	advance(1);
	lb_name_remove(&n);
	assert_null(n);
	assert_int_equal(under_way, 0);
	advance(60000);
	assert_int_equal(started, 1);
	assert_int_equal(ends, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_name_is_looked_up_at_once),
		TEST(another_order_changes_nothing),
		TEST(every_other_set_does),
		TEST(the_first_stays_while_the_answer_has_it),
		TEST(no_answer_leaves_the_addresses_and_is_told_once),
		TEST(it_is_asked_again_as_its_time_to_live_says),
		TEST(a_look_up_that_cannot_start_is_made_later),
		TEST(no_more_than_so_many_at_a_time),
		TEST(one_that_is_removed_tells_nothing_more),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
