/* SPDX-License-Identifier: MIT */
#include "flow/tls_tickets.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HOUR LB_TLS_TICKETS_ROTATE_MS

static struct lb_tls_tickets *made(void)
{
	struct lb_tls_tickets *t;

	assert_int_equal(lb_tls_tickets_new(&t, 1000), 0);
	return t;
}

static void assert_opens(struct lb_tls_tickets *t, uint64_t now_ms,
			 const struct lb_tls_ticket_key *sealed, bool fresh)
{
	struct lb_tls_ticket_key key;
	bool is_fresh = !fresh;

	assert_true(lb_tls_tickets_open(t, now_ms, sealed->name, &key, &is_fresh));
	assert_memory_equal(&key, sealed, sizeof(key));
	assert_int_equal(is_fresh, fresh);
}

static void assert_closed(struct lb_tls_tickets *t, uint64_t now_ms,
			  const struct lb_tls_ticket_key *sealed)
{
	struct lb_tls_ticket_key key;
	bool fresh;

	assert_false(lb_tls_tickets_open(t, now_ms, sealed->name, &key, &fresh));
}

static void a_key_seals_for_an_hour_and_opens_for_two_more(void **state)
{
	struct lb_tls_tickets *t = made();
	struct lb_tls_ticket_key first, again, second;

	assert_true(lb_tls_tickets_seal(t, 1000, &first));
	assert_true(lb_tls_tickets_seal(t, 1000 + HOUR - 1, &again));
	assert_memory_equal(&first, &again, sizeof(first));
	assert_opens(t, 1000 + HOUR - 1, &first, true);
	assert_true(lb_tls_tickets_seal(t, 1000 + HOUR, &second));
	assert_memory_not_equal(&first, &second, sizeof(first));
	assert_opens(t, 1000 + HOUR, &first, false);
	assert_opens(t, 1000 + 2 * HOUR, &first, false);
	assert_closed(t, 1000 + 3 * HOUR, &first);
	assert_opens(t, 1000 + 3 * HOUR, &second, false);
	lb_tls_tickets_free(&t);
}

static void time_that_passed_in_silence_counts(void **state)
{
	struct lb_tls_tickets *t = made();
	struct lb_tls_ticket_key first, later;

	assert_true(lb_tls_tickets_seal(t, 1000, &first));
	assert_opens(t, 1000 + 2 * HOUR, &first, false);
	lb_tls_tickets_free(&t);
	t = made();
	assert_true(lb_tls_tickets_seal(t, 1000, &first));
	assert_closed(t, 1000 + 3 * HOUR, &first);
	assert_true(lb_tls_tickets_seal(t, 1000 + 100 * HOUR, &later));
	assert_opens(t, 1000 + 100 * HOUR, &later, true);
	lb_tls_tickets_free(&t);
}

static void two_rules_have_nothing_in_common(void **state)
{
	struct lb_tls_tickets *a = made(), *b = made();
	struct lb_tls_ticket_key key;

	assert_true(lb_tls_tickets_seal(a, 1000, &key));
	assert_closed(b, 1000, &key);
	lb_tls_tickets_free(&a);
	lb_tls_tickets_free(&b);
	assert_null(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_key_seals_for_an_hour_and_opens_for_two_more),
		cmocka_unit_test(time_that_passed_in_silence_counts),
		cmocka_unit_test(two_rules_have_nothing_in_common),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
