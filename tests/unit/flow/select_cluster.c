/* SPDX-License-Identifier: MIT */
/* Three nodes with the same two backends, and what these may have of all of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "flow/select.h"
#include "flow/select_queue.h"

#define NODES    3u
#define BACKENDS 2u
#define LIMIT    6u
#define TAKEN    64

struct node {
	struct lb_limits *limits;
	struct lb_pool *pool;
	struct lb_pool_entry *entry;
	struct lb_backend *backends[BACKENDS]; /* held by the test */
	struct lb_select *select;
	struct lb_door door;
	struct lb_backend *taken[TAKEN];
	uint32_t taken_count;
};

static struct lb_rule_config rule = {.backend_connection_limit = LIMIT};
static struct node nodes[NODES];
static const char *host = "192.0.2.1";
static uint64_t now_us;

static uint64_t id_of(uint32_t i)
{
	return 100 + i;
}

static void nobody(struct lb_door *door)
{
}

static void make(struct node *n, uint32_t i)
{
	const struct lb_backend_config config = {.addr = (char *)"b", .weight = 1};

	assert_int_equal(lb_pool_new(&n->pool), 0);
	assert_int_equal(lb_pool_new_entry(n->pool, &config, &n->entry), 0);
	for (uint32_t b = 0; b < BACKENDS; b++) {
		struct lb_addr addr;
		char text[32];

		/* One address: ports tell them apart. */
		snprintf(text, sizeof(text), "%s:%u", host, 80 + b);
		assert_int_equal(lb_addr_parse(text, &addr), 0);
		assert_int_equal(
			lb_pool_new_backend(n->entry, &rule, &addr, false, &n->backends[b]), 0);
	}
	assert_int_equal(lb_select_new(&n->select, n->pool, LB_BALANCE_WEIGHTED_ROUND_ROBIN), 0);
	assert_int_equal(
		lb_select_change(n->select, n->backends, BACKENDS, LB_BALANCE_WEIGHTED_ROUND_ROBIN),
		0);
	lb_door_init(&n->door, nobody);
}

static void begin(void)
{
	memset(nodes, 0, sizeof(nodes));
	now_us = 1000000;
	for (uint32_t i = 0; i < NODES; i++) {
		struct lb_limits_params p = {.self = id_of(i),
					     .session = i + 1,
					     .nodes_min = NODES,
					     .nodes_max = 8,
					     .section_max = 1000};

		assert_int_equal(lb_limits_new(&nodes[i].limits, &p, now_us), 0);
		for (uint32_t j = 0; j < NODES; j++)
			if (j != i)
				assert_int_equal(lb_limits_join(nodes[i].limits, id_of(j), now_us),
						 0);
		make(&nodes[i], i);
		lb_select_share(nodes[i].select, nodes[i].limits, "r");
	}
}

static bool take(struct node *n)
{
	const struct lb_select_ask ask = {};
	struct lb_backend *b = lb_select_take(n->select, &ask);

	if (!b) {
		/* As a session asks that gets none. */
		(void)lb_select_is_full(n->select, &ask);
		return false;
	}
	assert_true(n->taken_count < TAKEN);
	n->taken[n->taken_count++] = b;
	return true;
}

static void release(struct node *n, uint32_t count)
{
	for (; count; count--)
		lb_select_release(n->select, n->taken[--n->taken_count]);
}

static void finish(void)
{
	for (uint32_t i = 0; i < NODES; i++) {
		struct node *n = &nodes[i];

		release(n, n->taken_count);
		lb_select_share(n->select, NULL, NULL);
		assert_int_equal(
			lb_select_change(n->select, NULL, 0, LB_BALANCE_WEIGHTED_ROUND_ROBIN), 0);
		for (uint32_t b = 0; b < BACKENDS; b++)
			lb_pool_put(&n->backends[b]);
		lb_pool_remove_entry(n->entry);
		lb_select_free(&n->select);
		lb_pool_free(&n->pool);
		lb_door_fini(&n->door);
		lb_limits_free(&n->limits);
	}
}

static void say(void *arg, uint64_t id, const uint8_t *bytes, size_t len)
{
	uint32_t from = (uint32_t)((struct node *)arg - nodes);

	lb_limits_receive(nodes[id - 100].limits, id_of(from), bytes, len, now_us);
}

static void go(uint32_t ticks)
{
	for (uint32_t t = 0; t < ticks; t++) {
		now_us += LB_SHARE_TICK_MS * 1000ull;
		for (uint32_t i = 0; i < NODES; i++)
			lb_limits_tick(nodes[i].limits, now_us, say, &nodes[i]);
	}
}

/* Each of them has at most its limit, of all nodes. */
static void assert_within(uint32_t limit)
{
	for (uint32_t b = 0; b < BACKENDS; b++) {
		uint64_t n = 0;

		for (uint32_t i = 0; i < NODES; i++)
			n += nodes[i].backends[b]->active;
		assert_true(n <= limit);
	}
}

static uint32_t take_all(struct node *n, uint32_t ticks)
{
	for (uint32_t t = 0; t < ticks; t++) {
		while (take(n))
			;
		assert_within(LIMIT);
		go(1);
	}
	return n->taken_count;
}

static void one_node_gets_all_that_the_others_do_not_need(void **state)
{
	begin();
	/* What is its own at once, .. */
	while (take(&nodes[1]))
		;
	assert_int_equal(nodes[1].taken_count, BACKENDS * LIMIT / NODES);
	/* .. and the rest when the others have heard of it. */
	assert_int_equal(take_all(&nodes[1], 10), BACKENDS * LIMIT);
	assert_int_equal(take_all(&nodes[0], 10), 0);
	release(&nodes[1], 5);
	assert_int_equal(take_all(&nodes[0], 10), 5);
	finish();
}

/* Whose address is complete only with an interface of the node. */
static void backends_on_the_link_are_counted(void **state)
{
	host = "[fe80::1%1]";
	begin();
	assert_int_equal(take_all(&nodes[1], 10), BACKENDS * LIMIT);
	assert_int_equal(take_all(&nodes[0], 10), 0);
	finish();
	host = "192.0.2.1";
}

static void who_waits_is_served_when_another_node_lets_go(void **state)
{
	struct lb_waiter w = {};

	begin();
	assert_int_equal(take_all(&nodes[1], 10), BACKENDS * LIMIT);
	w.door = &nodes[0].door;
	assert_int_equal(lb_select_wait(nodes[0].select, &w, 4), 0);
	go(10);
	assert_null(lb_door_next(&nodes[0].door));
	release(&nodes[1], 1);
	go(5);
	assert_ptr_equal(lb_door_next(&nodes[0].door), &w);
	nodes[0].taken[nodes[0].taken_count++] = lb_select_leave(nodes[0].select, &w);
	assert_non_null(nodes[0].taken[0]);
	assert_within(LIMIT);
	finish();
}

static void who_has_left_has_its_connections(void **state)
{
	begin();
	assert_int_equal(take_all(&nodes[1], 10), BACKENDS * LIMIT);
	assert_int_equal(lb_select_change(nodes[1].select, &nodes[1].backends[1], 1,
					  LB_BALANCE_WEIGHTED_ROUND_ROBIN),
			 0);
	assert_int_equal(take_all(&nodes[0], 40), 0);
	release(&nodes[1], 2 * LIMIT);
	assert_int_equal(take_all(&nodes[0], 40), BACKENDS * LIMIT);
	finish();
}

static void a_limit_that_changes_is_one_for_all(void **state)
{
	begin();
	assert_int_equal(take_all(&nodes[1], 10), BACKENDS * LIMIT);
	rule.backend_connection_limit = 9;
	for (uint32_t i = 0; i < NODES; i++)
		lb_pool_settle(nodes[i].entry, &rule,
			       &(struct lb_backend_config){.addr = (char *)"b", .weight = 1});
	for (uint32_t t = 0; t < 10; t++) {
		while (take(&nodes[2]))
			;
		assert_within(9);
		go(1);
	}
	assert_int_equal(nodes[2].taken_count, BACKENDS * 3);
	rule.backend_connection_limit = LIMIT;
	finish();
}

static void alone_it_is_this_node_s(void **state)
{
	begin();
	assert_int_equal(take_all(&nodes[1], 10), BACKENDS * LIMIT);
	lb_select_share(nodes[0].select, NULL, NULL);
	while (take(&nodes[0]))
		;
	assert_int_equal(nodes[0].taken_count, BACKENDS * LIMIT);
	finish();
}

static void without_a_limit_nothing_is_shared(void **state)
{
	struct lb_limits_report r;

	rule.backend_connection_limit = 0;
	begin();
	for (uint32_t i = 0; i < TAKEN; i++)
		assert_true(take(&nodes[0]));
	go(10);
	lb_limits_look(nodes[0].limits, now_us, &r, NULL, NULL);
	assert_int_equal(r.keys, 0);
	assert_int_equal(r.counts.sent, 0);
	rule.backend_connection_limit = LIMIT;
	finish();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_node_gets_all_that_the_others_do_not_need),
		cmocka_unit_test(backends_on_the_link_are_counted),
		cmocka_unit_test(who_waits_is_served_when_another_node_lets_go),
		cmocka_unit_test(who_has_left_has_its_connections),
		cmocka_unit_test(a_limit_that_changes_is_one_for_all),
		cmocka_unit_test(alone_it_is_this_node_s),
		cmocka_unit_test(without_a_limit_nothing_is_shared),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
