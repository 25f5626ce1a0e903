/* SPDX-License-Identifier: MIT */
/* Nodes that must agree: the same backends, each node's lb.yaml written by somebody else. */
#include "flow/select_maglev.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "flow/select.h"

#define BACKENDS 23u
#define CLIENTS  20000u

struct node {
	struct lb_pool *pool;
	struct lb_select *select;
};

static struct lb_rule_config rule;

static void write_addr(uint32_t i, char text[32])
{
	snprintf(text, 32, "192.0.2.%u:80", i + 1);
}

static void add(struct node *n, const char *text, uint32_t weight, bool backup)
{
	const struct lb_backend_config config = {
		.addr = (char *)text, .weight = weight, .backup = backup};
	struct lb_backend *set[BACKENDS + 1], *b;
	struct lb_pool_entry *entry;
	struct lb_addr addr;
	uint32_t count = n->pool->count;

	/* A name: wherever it is at the moment. */
	if (lb_addr_parse(text, &addr))
		assert_int_equal(lb_addr_parse("198.51.100.1:80", &addr), 0);
	assert_int_equal(lb_pool_new_entry(n->pool, &config, &entry), 0);
	lb_pool_list_entry(entry);
	assert_int_equal(lb_pool_new_backend(entry, &rule, &addr, false, &b), 0);
	if (count)
		memcpy(set, n->pool->backends, count * sizeof(struct lb_backend *));
	set[count] = b;
	assert_int_equal(lb_select_change(n->select, set, count + 1, LB_BALANCE_SOURCE_HASH), 0);
	lb_pool_put(&b);
}

static void begin(struct node *n)
{
	assert_int_equal(lb_pool_new(&n->pool), 0);
	assert_int_equal(lb_select_new(&n->select, n->pool, LB_BALANCE_SOURCE_HASH), 0);
}

static void end(struct node *n)
{
	lb_select_free(&n->select);
	lb_pool_free(&n->pool);
}

/* Node <number>'s file has them in an order of its own. */
static void list(struct node *n, uint32_t number)
{
	uint32_t order[BACKENDS];
	uint64_t random = number + 1;

	begin(n);
	for (uint32_t i = 0; i < BACKENDS; i++)
		order[i] = i;
	for (uint32_t i = BACKENDS - 1; number && i; i--) {
		uint32_t j = (uint32_t)(lb_random_next(&random) % (i + 1)), other = order[j];

		order[j] = order[i];
		order[i] = other;
	}
	for (uint32_t i = 0; i < BACKENDS; i++) {
		char text[32];

		write_addr(order[i], text);
		add(n, text, order[i] % 3 + 1, order[i] % 7 == 6);
	}
}

/* Takes, and tries again as if all had failed until then. */
static void follow(struct node *n, uint64_t client, uint32_t tries, char found[][32])
{
	uint64_t tried[BACKENDS];
	struct lb_select_ask ask = {.source = lb_hash(&client, 8), .tried = tried};

	for (uint32_t i = 0; i < tries; i++) {
		struct lb_backend *b = lb_select_take(n->select, &ask);

		assert_non_null(b);
		snprintf(found[i], 32, "%s", b->config->addr);
		tried[ask.tried_count++] = b->id;
		lb_select_release(n->select, b);
	}
}

static void assert_agree(struct node *a, struct node *b, uint32_t tries)
{
	for (uint64_t c = 0; c < CLIENTS; c++) {
		char at_a[BACKENDS][32], at_b[BACKENDS][32];

		follow(a, c, tries, at_a);
		follow(b, c, tries, at_b);
		for (uint32_t i = 0; i < tries; i++)
			assert_string_equal(at_a[i], at_b[i]);
	}
}

static void nodes_agree_in_whatever_order_backends_are_listed(void **state)
{
	struct node first, other;

	list(&first, 0);
	for (uint32_t number = 1; number < 5; number++) {
		list(&other, number);
		assert_agree(&first, &other, 1);
		end(&other);
	}
	end(&first);
}

static void nodes_agree_on_who_is_next_when_backends_fail(void **state)
{
	struct node first, other;

	list(&first, 0);
	list(&other, 1);
	/* Three of them are backups, tried last. */
	assert_agree(&first, &other, BACKENDS);
	end(&first);
	end(&other);
}

static void mark_down(struct node *n, uint32_t which)
{
	char text[32];

	write_addr(which, text);
	for (uint32_t i = 0; i < n->pool->count; i++)
		if (!strcmp(n->pool->backends[i]->config->addr, text))
			assert_int_equal(lb_select_mark(n->select, n->pool->backends[i],
							LB_BACKEND_DOWN, true),
					 0);
}

static void nodes_agree_while_some_are_down(void **state)
{
	struct node first, other;

	list(&first, 0);
	list(&other, 2);
	mark_down(&first, 3);
	mark_down(&first, 11);
	mark_down(&other, 11);
	mark_down(&other, 3);
	assert_agree(&first, &other, 1);
	end(&first);
	end(&other);
}

static void an_address_has_its_place_however_it_is_written(void **state)
{
	const char *const same[][2] = {
		{"[2001:db8::1]:80", "[2001:DB8:0:0::0:1]:80"},
		{"Shop.Internal:80", "shop.internal:80"},
	};

	for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
		struct node a, b;

		begin(&a);
		begin(&b);
		add(&a, same[i][0], 1, false);
		add(&b, same[i][1], 1, false);
		assert_true(a.pool->backends[0]->place == b.pool->backends[0]->place);
		end(&a);
		end(&b);
	}
}

/* Nodes of two versions serve together while one after the other is upgraded. */
static void the_place_of_a_backend_is_for_ever(void **state)
{
	struct node n;

	begin(&n);
	add(&n, "192.0.2.1:80", 1, false);
	assert_true(n.pool->backends[0]->place == lb_hash("192.0.2.1:80", 12));
	end(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_agree_in_whatever_order_backends_are_listed),
		cmocka_unit_test(nodes_agree_on_who_is_next_when_backends_fail),
		cmocka_unit_test(nodes_agree_while_some_are_down),
		cmocka_unit_test(an_address_has_its_place_however_it_is_written),
		cmocka_unit_test(the_place_of_a_backend_is_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
