/* SPDX-License-Identifier: MIT */
/* A node's shares, and what it makes of what it is told. */
#include "cluster/share.h"

#include "share_ask.h"
#include "sim.h"

#define MS 1000ull

static uint8_t last[2000];
static size_t last_len;

static void kept(void *arg, uint64_t node, const uint8_t *bytes, size_t len)
{
	memcpy(last, bytes, len);
	last_len = len;
}

static struct lb_share *alone(uint64_t self, uint32_t keys_max)
{
	struct lb_share_params p = {.self = self,
				    .session = (uint32_t)self,
				    .size_min = 2,
				    .nodes_max = 2,
				    .keys_max = keys_max,
				    .send = kept,
				    .section_max = 1300};
	struct lb_share *s;

	assert_int_equal(lb_share_new(&s, &p, 1), 0);
	return s;
}

static void seen(void *arg, const struct lb_share_view *v)
{
	*(struct lb_share_view *)arg = *v;
}

static struct lb_share_view view(struct lb_share *s, uint64_t now_us)
{
	struct lb_share_view v = {};

	lb_share_each(s, now_us, seen, &v);
	return v;
}

static void ask(struct lb_share *s, uint32_t count, uint64_t now_us)
{
	const struct lb_share_limit limit = {100, 10};

	/* What is wanted of a key shows after half a tick. */
	while (count--)
		(void)take(s, KEY, &limit, 0, now_us - 50 * MS);
	lb_share_tick(s, now_us);
}

static void a_loan_ends_although_nobody_says_so(void **state)
{
	struct lb_share *a = alone(1, 4), *b = alone(2, 4);
	const uint64_t loan = LB_SHARE_LOAN_MS * MS;
	uint64_t t;

	assert_int_equal(lb_share_join(a, 2, 1), 0);
	assert_int_equal(lb_share_join(b, 1, 1), 0);
	/* b is short and says so; a lends; their clocks are a day apart. */
	for (t = 100 * MS; t <= 300 * MS; t += 100 * MS) {
		ask(b, 100, t);
		lb_share_receive(a, 2, last, last_len, 86400 * SIM_SECOND + t);
		lb_share_tick(a, 86400 * SIM_SECOND + t);
		lb_share_receive(b, 1, last, last_len, t);
	}
	t -= 100 * MS;
	assert_true(view(b, t).borrowed > 45000);
	assert_int_equal(view(b, t).share, view(b, t).borrowed + 50000);
	assert_int_equal(view(a, 86400 * SIM_SECOND + t).lent, view(b, t).borrowed);
	/* b's is over when a message of a second ago was the last a had heard .. */
	assert_true(view(b, t + loan - 1).borrowed > 0);
	assert_int_equal(view(b, t + loan).share, 50000);
	/* .. a's only when it is over for b for certain. */
	assert_true(view(a, 86400 * SIM_SECOND + t + loan + loan / 8 - 1).share < 5000);
	assert_int_equal(view(a, 86400 * SIM_SECOND + t + loan + loan / 8).share, 50000);
	lb_share_free(&a);
	lb_share_free(&b);
}

static void an_old_message_prolongs_nothing(void **state)
{
	struct lb_share *a = alone(1, 4), *b = alone(2, 4);
	uint8_t old[sizeof(last)];
	size_t old_len;

	assert_int_equal(lb_share_join(a, 2, 1), 0);
	assert_int_equal(lb_share_join(b, 1, 1), 0);
	ask(b, 100, 100 * MS);
	lb_share_receive(a, 2, last, last_len, 50 * MS);
	lb_share_tick(a, 100 * MS);
	memcpy(old, last, last_len);
	old_len = last_len;
	lb_share_receive(b, 1, old, old_len, 100 * MS);
	assert_true(view(b, 100 * MS).borrowed > 0);
	lb_share_receive(b, 1, old, old_len, 900 * MS);
	assert_int_equal(lb_share_counts(b)->stale, 1);
	assert_int_equal(view(b, 1100 * MS).borrowed, 0);
	/* What is cut short is none. */
	lb_share_receive(b, 1, old, old_len - 1, 900 * MS);
	lb_share_receive(b, 1, old, 5, 900 * MS);
	assert_int_equal(lb_share_counts(b)->malformed, 2);
	/* Nor is a stranger heard. */
	lb_share_receive(b, 9, old, old_len, 900 * MS);
	assert_int_equal(lb_share_counts(b)->stale, 2);
	lb_share_free(&a);
	lb_share_free(&b);
}

static void another_limit_is_not_lent(void **state)
{
	struct lb_share *a = alone(1, 4), *b = alone(2, 4);
	const struct lb_share_limit other = {200, 10};

	assert_int_equal(lb_share_join(a, 2, 1), 0);
	assert_int_equal(lb_share_join(b, 1, 1), 0);
	(void)take(a, KEY, &other, 0, 50 * MS);
	ask(b, 100, 100 * MS);
	lb_share_receive(a, 2, last, last_len, 100 * MS);
	last_len = 0;
	lb_share_tick(a, 5 * SIM_SECOND);
	assert_int_equal(view(a, 5 * SIM_SECOND).lent, 0);
	lb_share_free(&a);
	lb_share_free(&b);
}

/* Who has had no client for long learns of another limit from those who have some. */
static void a_limit_that_nobody_asks_for_is_what_others_say(void **state)
{
	struct lb_share *a = alone(1, 4), *b = alone(2, 4);
	const struct lb_share_limit other = {200, 10};
	uint64_t t;

	assert_int_equal(lb_share_join(a, 2, 1), 0);
	assert_int_equal(lb_share_join(b, 1, 1), 0);
	(void)take(a, KEY, &other, 0, 50 * MS);
	for (t = 100 * MS; t <= 2000 * MS; t += 100 * MS)
		lb_share_tick(a, t);
	for (; t <= 2500 * MS; t += 100 * MS) {
		ask(b, 100, t);
		lb_share_receive(a, 2, last, last_len, t);
		lb_share_tick(a, t);
		lb_share_receive(b, 1, last, last_len, t);
	}
	assert_true(view(a, t).lent > 45000);
	assert_int_equal(view(a, t).safe, 50000);
	/* Its own is what counts when somebody comes. */
	(void)take(a, KEY, &other, 0, t);
	assert_int_equal(view(a, t).safe, 100000);
	lb_share_free(&a);
	lb_share_free(&b);
}

static void keys_have_bounded_room(void **state)
{
	const struct lb_share_limit limit = {10, 4};
	const uint64_t full = 2 * LB_SHARE_TOKEN;
	struct lb_share *s = alone(1, 4);
	uint64_t now = 1000 * MS;

	for (uint64_t key = 1; key <= 4; key++)
		assert_int_equal(take(s, key, &limit, 0, now), LB_SHARE_HAS);
	assert_int_equal(take(s, 5, &limit, 0, now), LB_SHARE_UNTRACKED);
	assert_int_equal(lb_share_counts(s)->untracked, 1);
	assert_int_equal(lb_share_safe(s, &limit), 5000);
	/* Those nobody asks for give way when their buckets are full; who follows owes what it
	 * owed. */
	for (uint32_t i = 0; i < 200; i++)
		lb_share_tick(s, now += LB_SHARE_TICK_MS * MS);
	assert_int_equal(take(s, 5, &limit, full, now), LB_SHARE_REFUSED);
	assert_int_equal(take(s, 5, &limit, full, now + 201 * MS), LB_SHARE_HAS);
	assert_int_equal(take(s, 5, &limit, full, now + 201 * MS), LB_SHARE_REFUSED);
	lb_share_free(&s);
}

static void the_bound_grows_with_those_who_count_fewer(void **state)
{
	const struct lb_share_limit limit = {1000, 100};
	struct lb_share *a = alone(1, 4), *b = alone(2, 4);

	/* Two that are to be two: the limit, its burst, a token each, and one for rounding. */
	assert_int_equal(lb_share_join(a, 2, 1), 0);
	assert_in_range(lb_share_bound(a, &limit, SIM_SECOND), 1100, 1104);
	/* One that knows of nobody else and says so has all of it. */
	assert_int_equal(lb_share_join(b, 1, 1), 0);
	ask(b, 100, 100 * MS);
	last[31] = 1;
	lb_share_receive(a, 2, last, last_len, 100 * MS);
	assert_in_range(lb_share_bound(a, &limit, SIM_SECOND), 1650, 1655);
	lb_share_free(&a);
	lb_share_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_loan_ends_although_nobody_says_so),
		cmocka_unit_test(an_old_message_prolongs_nothing),
		cmocka_unit_test(another_limit_is_not_lent),
		cmocka_unit_test(a_limit_that_nobody_asks_for_is_what_others_say),
		cmocka_unit_test(keys_have_bounded_room),
		cmocka_unit_test(the_bound_grows_with_those_who_count_fewer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
