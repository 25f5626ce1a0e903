/* SPDX-License-Identifier: MIT */
/* Pools that change while flows come and go. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "flow/select.h"

#define ADDRESSES 12

static struct lb_pool *pool;
static struct lb_pool_entry *entry;
static struct lb_select *sel;
static struct lb_rule_config rule;
static enum lb_balance method;
static struct lb_backend *backends[ADDRESSES]; /* held by the test */
static unsigned int made, freed;

static const enum lb_balance methods[] = {
	LB_BALANCE_WEIGHTED_ROUND_ROBIN,
	LB_BALANCE_LEAST_CONNECTIONS,
	LB_BALANCE_RANDOM_TWO,
	LB_BALANCE_SOURCE_HASH,
};
#define METHODS (sizeof(methods) / sizeof(*methods))

static void count_freed(void *watch)
{
	__atomic_fetch_add(&freed, 1, __ATOMIC_RELAXED);
}

static void make(unsigned int i)
{
	struct lb_addr addr;
	char text[32];

	snprintf(text, sizeof(text), "192.0.2.%u:80", i + 1);
	assert_int_equal(lb_addr_parse(text, &addr), 0);
	assert_int_equal(lb_pool_new_backend(entry, &rule, &addr, true, &backends[i]), 0);
	backends[i]->unwatch = count_freed;
	made++;
}

static void begin(enum lb_balance balance)
{
	const struct lb_backend_config config = {
		.addr = (char *)"a.test:80", .host = (char *)"a.test", .port = 80, .weight = 1};

	made = freed = 0;
	assert_int_equal(lb_pool_new(&pool), 0);
	assert_int_equal(lb_pool_new_entry(pool, &config, &entry), 0);
	lb_pool_list_entry(entry);
	method = balance;
	assert_int_equal(lb_select_new(&sel, pool, balance), 0);
	for (unsigned int i = 0; i < ADDRESSES; i++)
		make(i);
}

/* The set is those whose bit is set. */
static void change(uint32_t bits)
{
	struct lb_backend *set[ADDRESSES];
	uint32_t n = 0;

	for (unsigned int i = 0; i < ADDRESSES; i++)
		if (bits >> i & 1)
			set[n++] = backends[i];
	assert_int_equal(lb_select_change(sel, set, n, method), 0);
}

static void finish(void)
{
	change(0);
	for (unsigned int i = 0; i < ADDRESSES; i++)
		lb_pool_put(&backends[i]);
	assert_true(lb_list_empty(&pool->left));
	assert_int_equal(freed, made);
	if (entry)
		lb_pool_remove_entry(entry);
	lb_select_free(&sel);
	lb_pool_free(&pool);
}

static struct lb_backend *take(uint64_t client)
{
	const struct lb_select_ask ask = {.source = lb_hash(&client, sizeof(client))};

	return lb_select_take(sel, &ask);
}

/* Who gets some of 600 flows that end at once. */
static uint32_t who_gets_flows(void)
{
	uint32_t bits = 0;

	for (uint64_t i = 0; i < 600; i++) {
		struct lb_backend *b = take(i);

		if (!b)
			continue;
		for (unsigned int j = 0; j < ADDRESSES; j++)
			bits |= b == backends[j] ? 1u << j : 0;
		lb_select_release(sel, b);
	}
	return bits;
}

static void new_flows_go_to_the_set_and_nobody_else(void **state)
{
	const uint32_t sets[] = {0x3, 0x6, 0x6, 0xf00, 0x0, 0xfff, 0x801};

	for (size_t m = 0; m < METHODS; m++) {
		begin(methods[m]);
		assert_null(take(1));
		for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++) {
			change(sets[i]);
			assert_int_equal(who_gets_flows(), sets[i]);
		}
		finish();
	}
}

static void one_that_left_lives_until_its_last_flow_ends(void **state)
{
	struct lb_backend *a, *b;

	begin(LB_BALANCE_LEAST_CONNECTIONS);
	change(0x1);
	a = take(1);
	b = take(2);
	assert_ptr_equal(a, backends[0]);
	lb_pool_put(&backends[0]);
	change(0x2);
	assert_true(a->out & LB_BACKEND_LEFT);
	assert_int_equal(a->active, 2);
	lb_select_release(sel, a);
	assert_int_equal(freed, 0);
	lb_select_release(sel, b);
	assert_int_equal(freed, 1);
	make(0);
	change(0x3);
	assert_int_equal(who_gets_flows(), 0x3);
	finish();
}

static void one_that_comes_back_has_its_flows_still(void **state)
{
	struct lb_backend *a, *found;

	begin(LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	change(0x1);
	backends[0]->limit = 1;
	a = take(1);
	assert_null(lb_pool_find_left(entry, &a->addr));
	change(0x2);
	found = lb_pool_find_left(entry, &a->addr);
	assert_ptr_equal(found, a);
	lb_pool_put(&found);
	change(0x1);
	assert_false(a->out & LB_BACKEND_LEFT);
	/* Its limit counts what it had before it left. */
	assert_null(take(2));
	lb_select_release(sel, a);
	assert_ptr_equal(take(2), a);
	lb_select_release(sel, a);
	assert_null(lb_pool_find_left(entry, &a->addr));
	finish();
}

static void one_that_stays_keeps_its_state(void **state)
{
	struct lb_backend *held;

	begin(LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	change(0x7);
	assert_int_equal(lb_select_mark(sel, backends[1], LB_BACKEND_EJECTED, true), 0);
	assert_int_equal(lb_select_weigh(sel, backends[2], 3), 0);
	held = take(1);
	change(0x17);
	assert_int_equal(who_gets_flows(), 0x15);
	assert_int_equal(backends[2]->weight, 3);
	assert_int_equal(held->active, 1);
	lb_select_release(sel, held);
	finish();
}

static void one_that_comes_has_room_at_once(void **state)
{
	const struct lb_select_ask nobody = {};

	begin(LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	backends[0]->limit = 1;
	change(0x1);
	assert_ptr_equal(take(1), backends[0]);
	assert_true(lb_select_is_full(sel, &nobody));
	change(0x3);
	assert_ptr_equal(take(2), backends[1]);
	lb_select_release(sel, backends[1]);
	lb_select_release(sel, backends[0]);
	finish();
}

static void rows_take_addresses_together_and_never_fall(void **state)
{
	struct lb_pool_row *rows = NULL;
	struct lb_backend *a;
	uint32_t n;

	begin(LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	change(0x3);
	backends[0]->counts.connections = 5;
	backends[1]->counts.connections = 7;
	a = take(1);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(lb_pool_rows(pool, &rows, &n), 0);
		assert_int_equal(n, 1);
		assert_ptr_equal(rows[0].entry, entry);
		assert_int_equal(rows[0].counts.connections, 12);
		assert_int_equal(rows[0].active, round < 2);
		assert_int_equal(rows[0].backends, round ? 0 : 2);
		lb_pool_rows_free(&rows, n);
		if (round == 0)
			change(0); /* both have left .. */
		if (round == 1) {
			lb_select_release(sel, a);
			lb_pool_put(&backends[0]); /* .. and are gone */
			lb_pool_put(&backends[1]);
			assert_int_equal(freed, 2);
		}
	}
	finish();
}

static void an_entry_that_is_removed_lives_for_its_backends(void **state)
{
	struct lb_pool_row *rows = NULL;
	struct lb_backend *a;
	uint32_t n;

	begin(LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	change(0x1);
	a = take(1);
	lb_pool_remove_entry(entry);
	entry = NULL;
	change(0);
	assert_int_equal(lb_pool_rows(pool, &rows, &n), 0);
	assert_int_equal(n, 0);
	lb_pool_rows_free(&rows, n);
	assert_string_equal(a->config->addr, "a.test:80");
	lb_select_release(sel, a);
	finish();
}

static void the_method_may_change_with_the_set(void **state)
{
	begin(LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	for (size_t m = 0; m < 2 * METHODS; m++) {
		method = methods[m % METHODS];
		change(m % 2 ? 0x3f : 0x7);
		assert_int_equal(who_gets_flows(), m % 2 ? 0x3f : 0x7);
	}
	finish();
}

static void settled_numbers_take_effect_and_others_stay(void **state)
{
	struct lb_backend_config config = {
		.addr = (char *)"a.test:80", .host = (char *)"a.test", .port = 80, .weight = 5};

	begin(LB_BALANCE_WEIGHTED_ROUND_ROBIN);
	change(0x3);
	/* Somebody drains one by hand; another one starts slowly. */
	assert_int_equal(lb_select_mark(sel, backends[0], LB_BACKEND_DRAINS, true), 0);
	assert_int_equal(lb_select_weigh(sel, backends[1], 3), 0);
	config.max_connections = 9;
	lb_pool_settle(entry, &rule, &config);
	change(0x3);
	assert_int_equal(who_gets_flows(), 0x2);
	assert_int_equal(backends[0]->weight, 5 * LB_WEIGHT_UNIT);
	assert_int_equal(backends[1]->weight, 3);
	assert_int_equal(backends[1]->whole_weight, 5 * LB_WEIGHT_UNIT);
	assert_int_equal(backends[0]->limit, 9);
	/* What the file says anew counts. */
	config.drain = true;
	lb_pool_settle(entry, &rule, &config);
	change(0x3);
	assert_int_equal(who_gets_flows(), 0);
	config.drain = false;
	lb_pool_settle(entry, &rule, &config);
	change(0x3);
	assert_int_equal(who_gets_flows(), 0x3);
	finish();
}

#define THREADS 4
static bool changing;

static void *take_until_told(void *arg)
{
	struct lb_backend *held[16] = {NULL};

	/* Address 0 never leaves: there is always one. */
	for (uint64_t i = 0; __atomic_load_n(&changing, __ATOMIC_RELAXED); i++) {
		struct lb_backend **slot = &held[i % 16];

		if (*slot)
			lb_select_release(sel, *slot);
		*slot = take(i);
		assert_non_null(*slot);
		assert_string_equal((*slot)->config->addr, "a.test:80");
	}
	for (int i = 0; i < 16; i++)
		if (held[i])
			lb_select_release(sel, held[i]);
	return NULL;
}

static void picks_go_on_while_the_set_changes(void **state)
{
	pthread_t threads[THREADS];

	for (size_t m = 0; m < METHODS; m++) {
		begin(methods[m]);
		change(0x1);
		changing = true;
		for (int i = 0; i < THREADS; i++)
			assert_int_equal(pthread_create(&threads[i], NULL, take_until_told, NULL),
					 0);
		for (uint32_t i = 0; i < 300; i++) {
			unsigned int gone = 1 + i % (ADDRESSES - 1);

			change(1 | (uint32_t)lb_hash(&i, sizeof(i)));
			assert_int_equal(
				lb_select_mark(sel, backends[gone], LB_BACKEND_DOWN, i % 2), 0);
			/* Only its flows hold it from here on, and maybe the set. */
			lb_pool_put(&backends[gone]);
			make(gone);
		}
		__atomic_store_n(&changing, false, __ATOMIC_RELAXED);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		for (unsigned int i = 0; i < ADDRESSES; i++)
			assert_int_equal(backends[i]->active, 0);
		finish();
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(new_flows_go_to_the_set_and_nobody_else),
		cmocka_unit_test(one_that_left_lives_until_its_last_flow_ends),
		cmocka_unit_test(one_that_comes_back_has_its_flows_still),
		cmocka_unit_test(one_that_stays_keeps_its_state),
		cmocka_unit_test(one_that_comes_has_room_at_once),
		cmocka_unit_test(rows_take_addresses_together_and_never_fall),
		cmocka_unit_test(an_entry_that_is_removed_lives_for_its_backends),
		cmocka_unit_test(the_method_may_change_with_the_set),
		cmocka_unit_test(settled_numbers_take_effect_and_others_stay),
		cmocka_unit_test(picks_go_on_while_the_set_changes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
