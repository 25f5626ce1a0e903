/* SPDX-License-Identifier: MIT */
#include "cluster/opinion.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define NODES    5u
#define SUBJECTS 200u
#define FRESH_MS 2500u
#define SECTION  1200u
#define SUBJECT  0x1234567812345678ull
#define START_MS 1000000ull

/* Nodes 1 .. NODES, and a network between them that keeps nothing back. */
static struct {
	struct lb_opinions *all[NODES + 1];
	uint64_t now_ms;
	uint32_t cut; /* a bit for each node that nobody hears, and that hears nobody */
	uint32_t messages, heard;
	size_t bytes;
} net;

static void count_heard(void *arg)
{
	net.heard++;
}

static void begin(uint32_t subjects)
{
	memset(&net, 0, sizeof(net));
	net.now_ms = START_MS;
	for (uint32_t i = 1; i <= NODES; i++) {
		assert_int_equal(lb_opinions_new(&net.all[i], i, SECTION), 0);
		lb_opinions_listen(net.all[i], count_heard, NULL);
		for (uint32_t j = 1; j <= NODES; j++) {
			char name[LB_WIRE_NAME_MAX];

			snprintf(name, sizeof(name), "node-%u", j);
			assert_int_equal(lb_opinions_join(net.all[i], j, name), 0);
		}
		for (uint32_t s = 0; s < subjects; s++)
			assert_int_equal(lb_opinions_watch(net.all[i], SUBJECT + s, FRESH_MS), 0);
	}
}

static void end(void)
{
	for (uint32_t i = 1; i <= NODES; i++)
		lb_opinions_free(&net.all[i]);
}

static void carry(void *arg, uint64_t to, const uint8_t *bytes, size_t len)
{
	uint32_t from = *(uint32_t *)arg;

	assert_true(len <= SECTION);
	net.messages++;
	net.bytes += len;
	if (!(net.cut >> from & 1) && !(net.cut >> to & 1))
		lb_opinions_receive(net.all[to], from, bytes, len, net.now_ms);
}

static void tick(void)
{
	for (uint32_t i = 1; i <= NODES; i++)
		lb_opinions_tick(net.all[i], net.now_ms, carry, &i);
}

static bool vouched(uint32_t node, bool up)
{
	struct lb_opinion opinion;

	return lb_opinions_vouch(net.all[node], SUBJECT, up, net.now_ms, &opinion);
}

/* All nodes have asked, and told; a bit for each one that others vouch for now. */
static uint32_t all_ask(bool good)
{
	uint32_t found = 0;

	for (uint32_t i = 1; i <= NODES; i++)
		lb_opinions_note(net.all[i], SUBJECT, good, net.now_ms);
	tick();
	for (uint32_t i = 1; i <= NODES; i++)
		found |= (uint32_t)vouched(i, good) << i;
	return found;
}

static uint32_t everybody(void)
{
	return (1u << (NODES + 1)) - 2;
}

static uint32_t lowest(uint32_t bits)
{
	return (uint32_t)__builtin_ctz(bits);
}

static void two_nodes_ask_for_all(void **state)
{
	begin(1);
	assert_int_equal(__builtin_popcount(all_ask(true)), NODES - LB_OPINION_CHECKERS);
	/* Two of them, to four others each. */
	assert_int_equal(net.messages, LB_OPINION_CHECKERS * (NODES - 1));
	end();
}

static void each_node_asks_for_its_part(void **state)
{
	uint32_t told[NODES + 1] = {}, all = 0;

	begin(SUBJECTS);
	for (uint32_t i = 1; i <= NODES; i++) {
		size_t before = net.bytes;

		for (uint32_t s = 0; s < SUBJECTS; s++)
			lb_opinions_note(net.all[i], SUBJECT + s, true, net.now_ms);
		for (int t = 0; t < 5; t++)
			lb_opinions_tick(net.all[i], net.now_ms, carry, &i);
		told[i] = (uint32_t)((net.bytes - before) / LB_OPINION_BYTES / (NODES - 1));
		all += told[i];
	}
	assert_int_equal(all, SUBJECTS * LB_OPINION_CHECKERS);
	for (uint32_t i = 1; i <= NODES; i++)
		assert_in_range(told[i], 55, 105); /* 80 */
	end();
}

static void a_word_is_good_for_some_time(void **state)
{
	struct lb_opinion opinion;
	uint32_t other;

	begin(1);
	other = lowest(all_ask(true));
	assert_true(lb_opinions_vouch(net.all[other], SUBJECT, true, net.now_ms, &opinion));
	assert_int_equal(opinion.until_ms, START_MS + FRESH_MS);
	assert_int_equal(strncmp(opinion.node, "node-", 5), 0);
	net.now_ms += FRESH_MS - 1;
	assert_true(vouched(other, true));
	net.now_ms++;
	assert_false(vouched(other, true));
	end();
}

static void who_has_found_something_else_asks(void **state)
{
	uint32_t other;

	begin(1);
	other = lowest(all_ask(true));
	assert_false(vouched(other, false));
	assert_true(vouched(other, true));
	end();
}

static void one_checker_that_disagrees_is_enough(void **state)
{
	uint32_t others, checkers, one;

	begin(1);
	others = all_ask(true);
	checkers = everybody() & ~others;
	one = lowest(checkers);
	net.heard = 0;
	net.now_ms += 100;
	lb_opinions_note(net.all[one], SUBJECT, false, net.now_ms);
	tick();
	for (uint32_t i = 1; i <= NODES; i++)
		assert_false(vouched(i, true));
	/* All were told at once that there is something new. */
	assert_int_equal(net.heard, NODES - 1);
	/* The same once more is nothing new. */
	lb_opinions_note(net.all[one], SUBJECT, false, net.now_ms);
	tick();
	assert_int_equal(net.heard, NODES - 1);
	/* It has changed its mind. */
	lb_opinions_note(net.all[one], SUBJECT, true, net.now_ms);
	tick();
	assert_true(vouched(lowest(others), true));
	end();
}

static void nobody_but_checkers_is_believed(void **state)
{
	uint8_t lie[LB_OPINION_BYTES] = {0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0};
	uint32_t others, liar, other;

	begin(1);
	others = all_ask(true);
	liar = lowest(others);
	other = lowest(others & ~(1u << liar));
	lb_opinions_receive(net.all[other], liar, lie, sizeof(lie), net.now_ms);
	assert_true(vouched(other, true));
	/* Nor a checker that speaks of what nobody watches, nor half a word, nor a stranger. */
	liar = lowest(everybody() & ~others);
	lb_opinions_receive(net.all[other], liar, lie, sizeof(lie) - 1, net.now_ms);
	lb_opinions_receive(net.all[other], 99, lie, sizeof(lie), net.now_ms);
	lie[0]++;
	lb_opinions_receive(net.all[other], liar, lie, sizeof(lie), net.now_ms);
	assert_true(vouched(other, true));
	end();
}

static void others_step_in_for_who_goes(void **state)
{
	uint32_t checkers, one;

	begin(1);
	checkers = everybody() & ~all_ask(true);
	one = lowest(checkers);
	net.cut = 1u << one;
	for (uint32_t i = 1; i <= NODES; i++)
		if (i != one)
			lb_opinions_leave(net.all[i], one);
	/* One of the others is a checker now: again two. */
	assert_int_equal(__builtin_popcount(all_ask(true) & ~net.cut),
			 NODES - 1 - LB_OPINION_CHECKERS);
	end();
}

static void who_is_cut_off_asks(void **state)
{
	uint32_t other;

	begin(1);
	other = lowest(all_ask(true));
	net.cut = 1u << other;
	net.now_ms += FRESH_MS;
	assert_int_equal(all_ask(true) >> other & 1, 0);
	net.cut = 0;
	assert_int_equal(all_ask(true) >> other & 1, 1);
	end();
}

static void late_words_do_not_undo_later_ones(void **state)
{
	uint8_t word[LB_OPINION_BYTES] = {0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0, 0, 10};
	uint32_t others, checker, other;

	begin(1);
	others = all_ask(true);
	other = lowest(others);
	checker = lowest(everybody() & ~others);
	/* A tenth of a second old. */
	lb_opinions_receive(net.all[other], checker, word, sizeof(word), net.now_ms);
	assert_true(vouched(other, true));
	word[10] = 0;
	lb_opinions_receive(net.all[other], checker, word, sizeof(word), net.now_ms);
	assert_false(vouched(other, true));
	end();
}

static void alone_or_among_too_many_everybody_asks(void **state)
{
	uint32_t other;

	begin(1);
	other = lowest(all_ask(true));
	for (uint32_t i = 100; i < 100 + LB_OPINION_NODES; i++)
		assert_int_equal(lb_opinions_join(net.all[other], i, "more"), 0);
	assert_false(vouched(other, true));
	for (uint32_t i = 100; i < 100 + LB_OPINION_NODES; i++)
		lb_opinions_leave(net.all[other], i);
	assert_true(vouched(other, true));
	for (uint32_t i = 1; i <= NODES; i++)
		lb_opinions_leave(net.all[other], i);
	assert_false(vouched(other, true));
	end();
}

static void what_is_watched_twice_is_forgotten_the_second_time(void **state)
{
	uint32_t other;

	begin(1);
	other = lowest(all_ask(true));
	assert_int_equal(lb_opinions_watch(net.all[other], SUBJECT, FRESH_MS), 0);
	lb_opinions_unwatch(net.all[other], SUBJECT);
	assert_true(vouched(other, true));
	lb_opinions_unwatch(net.all[other], SUBJECT);
	assert_false(vouched(other, true));
	lb_opinions_unwatch(net.all[other], SUBJECT);
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(two_nodes_ask_for_all),
		cmocka_unit_test(each_node_asks_for_its_part),
		cmocka_unit_test(a_word_is_good_for_some_time),
		cmocka_unit_test(who_has_found_something_else_asks),
		cmocka_unit_test(one_checker_that_disagrees_is_enough),
		cmocka_unit_test(nobody_but_checkers_is_believed),
		cmocka_unit_test(others_step_in_for_who_goes),
		cmocka_unit_test(who_is_cut_off_asks),
		cmocka_unit_test(late_words_do_not_undo_later_ones),
		cmocka_unit_test(alone_or_among_too_many_everybody_asks),
		cmocka_unit_test(what_is_watched_twice_is_forgotten_the_second_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
