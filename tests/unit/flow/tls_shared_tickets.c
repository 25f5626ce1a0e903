/* SPDX-License-Identifier: MIT */
#include "flow/tls_shared_tickets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define HOUR 3600ull
/* Ten minutes into an hour. */
#define NOW (490000 * HOUR + 600)

static const uint8_t one[1][LB_TLS_SECRET_BYTES] = {"one"}, two[1][LB_TLS_SECRET_BYTES] = {"two"};
static const uint8_t everybody[LB_TLS_CONTEXT_BYTES] = "no certificates";
static const uint8_t certified[LB_TLS_CONTEXT_BYTES] = "clients have certificates";

static struct lb_tls_secrets *node(const uint8_t (*secrets)[LB_TLS_SECRET_BYTES], uint32_t count)
{
	struct lb_tls_secrets *s;

	assert_int_equal(lb_tls_secrets_new(&s), 0);
	assert_int_equal(lb_tls_secrets_set(s, secrets, count), 0);
	return s;
}

static struct lb_tls_ticket_key sealed_by(struct lb_tls_secrets *s, uint64_t at)
{
	struct lb_tls_ticket_key key;

	assert_true(lb_tls_secrets_seal(s, at, everybody, &key));
	return key;
}

static void assert_opens(struct lb_tls_secrets *s, uint64_t at, struct lb_tls_ticket_key key,
			 bool fresh)
{
	struct lb_tls_ticket_key found;
	bool is_fresh = !fresh;

	assert_true(lb_tls_secrets_open(s, at, everybody, key.name, &found, &is_fresh));
	assert_memory_equal(&found, &key, sizeof(key));
	assert_int_equal(is_fresh, fresh);
}

static void assert_closed(struct lb_tls_secrets *s, uint64_t at, const uint8_t *context,
			  struct lb_tls_ticket_key key)
{
	struct lb_tls_ticket_key found = {}, nothing = {};
	bool fresh;

	assert_false(lb_tls_secrets_open(s, at, context, key.name, &found, &fresh));
	assert_memory_equal(&found, &nothing, sizeof(found));
}

static void a_node_opens_what_another_one_has_sealed(void **state)
{
	struct lb_tls_secrets *a = node(one, 1), *b = node(one, 1);
	struct lb_tls_ticket_key key = sealed_by(a, NOW);

	assert_opens(b, NOW, key, true);
	assert_opens(b, NOW + HOUR, key, false);
	assert_opens(b, NOW + 2 * HOUR, key, false);
	assert_closed(b, NOW + 3 * HOUR, everybody, key);
	/* <a>'s clock is ahead. */
	assert_opens(b, NOW - HOUR, key, false);
	assert_closed(b, NOW - 2 * HOUR, everybody, key);
	lb_tls_secrets_free(&a);
	lb_tls_secrets_free(&b);
}

static void each_hour_has_its_key(void **state)
{
	struct lb_tls_secrets *a = node(one, 1);
	struct lb_tls_ticket_key first = sealed_by(a, NOW - 600), last = sealed_by(a, NOW + 2999),
				 next = sealed_by(a, NOW + 3000);

	assert_memory_equal(&first, &last, sizeof(first));
	assert_memory_not_equal(first.name, next.name, sizeof(first.name));
	assert_memory_not_equal(first.aes, next.aes, sizeof(first.aes));
	assert_memory_not_equal(first.hmac, next.hmac, sizeof(first.hmac));
	assert_memory_not_equal(first.aes, first.hmac, sizeof(first.hmac));
	lb_tls_secrets_free(&a);
}

static void another_context_or_secret_has_other_keys(void **state)
{
	struct lb_tls_secrets *a = node(one, 1), *b = node(two, 1);
	struct lb_tls_ticket_key key = sealed_by(a, NOW), other;

	assert_closed(b, NOW, everybody, key);
	assert_closed(a, NOW, certified, key);
	assert_true(lb_tls_secrets_seal(a, NOW, certified, &other));
	assert_memory_not_equal(key.aes, other.aes, sizeof(key.aes));
	lb_tls_secrets_free(&a);
	lb_tls_secrets_free(&b);
}

static void a_name_that_is_changed_opens_nothing(void **state)
{
	struct lb_tls_secrets *a = node(one, 1);

	for (unsigned int bit = 0; bit < 128; bit++) {
		struct lb_tls_ticket_key key = sealed_by(a, NOW);
		uint32_t hour = 490000;

		key.name[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_closed(a, hour * HOUR, everybody, key);
	}
	lb_tls_secrets_free(&a);
}

static void secrets_are_replaced_without_a_gap(void **state)
{
	uint8_t steps[3][2][LB_TLS_SECRET_BYTES] = {{"one", "two"}, {"two", "one"}, {"two"}};
	struct lb_tls_secrets *a = node(one, 1), *b = node(one, 1);
	struct lb_tls_ticket_key before = sealed_by(a, NOW);

	for (int step = 0; step < 3; step++) {
		/* One node after the other. */
		assert_int_equal(lb_tls_secrets_set(a, steps[step], step < 2 ? 2 : 1), 0);
		assert_opens(b, NOW, sealed_by(a, NOW), step != 1);
		assert_opens(a, NOW, sealed_by(b, NOW), step != 1);
		if (step < 2)
			assert_opens(a, NOW, before, !step);
		assert_int_equal(lb_tls_secrets_set(b, steps[step], step < 2 ? 2 : 1), 0);
	}
	assert_closed(a, NOW, everybody, before);
	lb_tls_secrets_free(&a);
	lb_tls_secrets_free(&b);
}

static void without_a_secret_nothing_is_sealed_nor_opened(void **state)
{
	struct lb_tls_secrets *none, *a = node(one, 1);
	struct lb_tls_ticket_key key = sealed_by(a, NOW), zero = {};

	assert_int_equal(lb_tls_secrets_new(&none), 0);
	assert_false(lb_tls_secrets_seal(none, NOW, everybody, &zero));
	assert_closed(none, NOW, everybody, key);
	assert_closed(none, NOW, everybody, zero);
	lb_tls_secrets_free(&none);
	lb_tls_secrets_free(&a);
	assert_null(a);
}

/* Nodes of two versions serve together while one after the other is upgraded. */
static void keys_are_for_ever(void **state)
{
	static const uint8_t name[16] = {0x16, 0x77, 0x35, 0xea, 0x00, 0x07, 0x7a, 0x10,
					 0x85, 0x95, 0x5c, 0x88, 0xe5, 0x01, 0xf0, 0x14};
	struct lb_tls_secrets *a = node(one, 1);
	struct lb_tls_ticket_key key = sealed_by(a, NOW);

	assert_memory_equal(key.name, name, sizeof(name));
	lb_tls_secrets_free(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_node_opens_what_another_one_has_sealed),
		cmocka_unit_test(each_hour_has_its_key),
		cmocka_unit_test(another_context_or_secret_has_other_keys),
		cmocka_unit_test(a_name_that_is_changed_opens_nothing),
		cmocka_unit_test(secrets_are_replaced_without_a_gap),
		cmocka_unit_test(without_a_secret_nothing_is_sealed_nor_opened),
		cmocka_unit_test(keys_are_for_ever),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
