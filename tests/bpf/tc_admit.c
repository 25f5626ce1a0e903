/* SPDX-License-Identifier: MIT */
/* tc_admit and xdp_admit: who is dropped, by the same table of cases as in the daemon. */
#include "admit.h"

#include "acl_cases.h"

static void the_access_lists_of_the_table(void **state)
{
	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(acl_cases); i++) {
		struct lb_acl *acl = acl_case_build(&acl_cases[i]);

		set_acl(RULE, acl);
		lb_acl_free(&acl);
		if (is_client_dropped(acl_cases[i].client, 80) == acl_cases[i].allowed)
			fail_msg("case %zu: %s", i, acl_cases[i].client);
		assert_false(is_client_dropped(acl_cases[i].client, 81));
	}
}

/* At a prefix, and beside it, in trees of several levels. */
static void deep_access_lists_agree_with_the_daemon(int family)
{
	enum { MANY = 5000 };
	struct lb_prefix *list = calloc(MANY, sizeof(*list));
	size_t denied = 0;
	struct lb_acl *acl;

	assert_non_null(list);
	acl_case_many(list, MANY, family, 77);
	assert_int_equal(lb_acl_new(&acl, NULL, 0, list, MANY), 0);
	set_acl(RULE, acl);
	for (size_t i = 0; i < MANY; i += 7) {
		struct lb_addr a = {.sa.sa_family = (sa_family_t)family};
		char text[LB_ADDR_STR_MAX];
		uint8_t *last = family == AF_INET ? (uint8_t *)&a.in4.sin_addr + 3
						  : &a.in6.sin6_addr.s6_addr[15];

		memcpy(last - (family == AF_INET ? 3 : 15), list[i].bytes,
		       family == AF_INET ? 4 : 16);
		*last ^= (uint8_t)(i & 3);
		lb_addr_set_port(&a, 1);
		lb_addr_format(&a, text);
		assert_int_equal(is_client_dropped(text, 80), !lb_acl_allows(acl, &a));
		denied += !lb_acl_allows(acl, &a);
	}
	assert_in_range(denied, 100, MANY / 7);
	lb_acl_free(&acl);
	free(list);
}

static void deep_access_lists_agree_with_the_daemon_on_both_families(void **state)
{
	room_required();
	deep_access_lists_agree_with_the_daemon(AF_INET);
	deep_access_lists_agree_with_the_daemon(AF_INET6);
}

static void a_list_that_goes_lets_everybody_in_again(void **state)
{
	room_required();
	deny_all(RULE);
	assert_true(is_client_dropped(CLIENT, 80));
	assert_int_equal(lb_admit_set_acl(admit, RULE, NULL, 0, NULL, 0), 0);
	assert_false(is_client_dropped(CLIENT, 80));
}

static void refuse_until(const char *client, uint64_t until)
{
	struct lb_addr a = addr(client);

	lb_admit_refuse(admit, RULE, &a, until);
}

static void a_client_without_a_token_is_dropped_until_it_has_one(void **state)
{
	room_required();
	refuse_until(CLIENT, lb_clock_ns() + HOUR_NS);
	assert_false(is_client_dropped(CLIENT, 80)); /* the rule has no such limit */
	lb_admit_set_rate_limit(admit, RULE, true, 64);
	refuse_until(CLIENT, lb_clock_ns() + HOUR_NS);
	assert_true(is_client_dropped(CLIENT, 80));
	assert_true(is_client_dropped("10.1.2.3:7", 80));
	assert_false(is_client_dropped("10.1.2.4:7", 80));
	assert_false(is_client_dropped(CLIENT, 81));
	refuse_until(CLIENT, lb_clock_ns() - 1);
	assert_false(is_client_dropped(CLIENT, 80));
}

static void ipv6_clients_are_dropped_by_prefix(void **state)
{
	static const struct {
		uint32_t bits;
		const char *in, *out;
	} cases[] = {
		{64, "[2001:db8:7:8:ffff::1]:1", "[2001:db8:7:9::9]:1"},
		{128, "[2001:db8:7:8::9]:1", "[2001:db8:7:8::8]:1"},
		{48, "[2001:db8:7:ffff::]:1", "[2001:db8:8::]:1"},
		{33, "[2001:db8:7fff::]:1", "[2001:db8:8000::]:1"},
		{32, "[2001:db8:ffff::]:1", "[2001:db9::]:1"},
		{1, "[::1]:1", "[8000::]:1"},
	};

	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		lb_admit_set_rate_limit(admit, RULE, true, cases[i].bits);
		refuse_until(CLIENT6, lb_clock_ns() + HOUR_NS);
		assert_true(is_client_dropped(CLIENT6, 80));
		assert_true(is_client_dropped(cases[i].in, 80));
		assert_false(is_client_dropped(cases[i].out, 80));
		refuse_until(CLIENT6, 0);
	}
}

static void a_rule_without_a_token_drops_all_its_clients(void **state)
{
	room_required();
	lb_admit_set_rate_limit(admit, RULE, true, 64);
	lb_admit_refuse_rule(admit, RULE, lb_clock_ns() + HOUR_NS);
	assert_true(is_client_dropped(CLIENT, 80));
	assert_true(is_client_dropped(CLIENT6, 80));
	assert_false(is_client_dropped(CLIENT, 81));
	lb_admit_refuse_rule(admit, RULE, lb_clock_ns());
	assert_false(is_client_dropped(CLIENT, 80));
}

static void a_dead_daemons_tables_drop_nobody(void **state)
{
	room_required();
	deny_all(RULE);
	lb_admit_lease(admit,
		       lb_clock_ns() - TICK_MAX_NS); /* the programs' clock is late by a tick */
	assert_false(is_client_dropped(CLIENT, 80));
	lb_admit_lease(admit, lb_clock_ns() + HOUR_NS);
	assert_true(is_client_dropped(CLIENT, 80));
}

static void what_goes_elsewhere_is_not_judged(void **state)
{
	struct segment s = syn_from(CLIENT, 80);

	room_required();
	deny_all(RULE);
	deny_all(OTHER);
	assert_false(is_client_dropped(CLIENT, 82));
	s.to.addr[15]++; /* an address that is not ours, or none that a rule has */
	assert_false(is_segment_dropped(&s));
	s = syn_from(CLIENT, 80);
	to_another_card = true;
	assert_false(is_segment_dropped(&s));
	to_another_card = false;
	assert_true(is_segment_dropped(&s));
	lb_admit_unlisten(admit, &(struct lb_addr){.in4 = {.sin_family = AF_INET,
							   .sin_port = htons(80),
							   .sin_addr.s_addr = htonl(0x0a000001)}});
	assert_false(is_client_dropped(CLIENT, 80));
	assert_true(is_client_dropped(CLIENT6, 80));
	assert_true(is_client_dropped(CLIENT, 81));
}

static uint64_t counted(uint32_t rule, enum lb_admit_hook hook, enum lb_admit_verdict verdict)
{
	struct lb_admit_counts c;

	assert_true(lb_admit_counts(admit, rule, hook, &c));
	return c.n[verdict];
}

static void every_syn_is_counted_once_by_what_became_of_it(void **state)
{
	uint64_t before[LB_ADMIT_HOOK_MAX_][LB_ADMIT_VERDICT_MAX_];

	room_required();
	for (int h = 0; h < LB_ADMIT_HOOK_MAX_; h++)
		for (int v = 0; v < LB_ADMIT_VERDICT_MAX_; v++)
			before[h][v] = counted(RULE, h, v);
	for (int i = 0; i < 5; i++)
		assert_false(is_client_dropped(CLIENT, 80));
	lb_admit_set_rate_limit(admit, RULE, true, 64);
	refuse_until(CLIENT, lb_clock_ns() + HOUR_NS);
	for (int i = 0; i < 4; i++)
		assert_true(is_client_dropped(CLIENT, 80));
	lb_admit_refuse_rule(admit, RULE, lb_clock_ns() + HOUR_NS);
	for (int i = 0; i < 3; i++)
		assert_true(is_client_dropped(CLIENT6, 80));
	deny_all(RULE);
	for (int i = 0; i < 2; i++)
		assert_true(is_client_dropped(CLIENT, 80));
	for (int h = 0; h < LB_ADMIT_HOOK_MAX_; h++) {
		assert_int_equal(counted(RULE, h, LB_ADMIT_PASSED) - before[h][LB_ADMIT_PASSED], 5);
		assert_int_equal(counted(RULE, h, LB_ADMIT_RATE_LIMITED) -
					 before[h][LB_ADMIT_RATE_LIMITED],
				 4);
		assert_int_equal(counted(RULE, h, LB_ADMIT_RULE_RATE_LIMITED) -
					 before[h][LB_ADMIT_RULE_RATE_LIMITED],
				 3);
		assert_int_equal(
			counted(RULE, h, LB_ADMIT_ACL_DENIED) - before[h][LB_ADMIT_ACL_DENIED], 2);
	}
}

static void clients_who_may_come_again_make_room(void **state)
{
	uint64_t now = lb_clock_ns();

	room_required();
	lb_admit_set_rate_limit(admit, RULE, true, 64);
	for (uint32_t i = 0; i < LB_ADMIT_REFUSED_MAX + 50000; i++) {
		struct lb_addr a = {.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(i)}};

		lb_admit_refuse(admit, RULE, &a, now + (i & 1 ? HOUR_NS : 0));
	}
	assert_int_equal(lb_admit_refused(admit), LB_ADMIT_REFUSED_MAX);
	/* The table is full: left to the daemon. */
	refuse_until("172.16.0.1:1", now + HOUR_NS);
	assert_false(is_client_dropped("172.16.0.1:1", 80));
	lb_admit_forget(admit, now);
	assert_in_range(lb_admit_refused(admit), LB_ADMIT_REFUSED_MAX / 2 - 10,
			LB_ADMIT_REFUSED_MAX / 2 + 10);
	refuse_until("172.16.0.1:1", now + HOUR_NS);
	assert_true(is_client_dropped("172.16.0.1:1", 80));
	assert_true(is_client_dropped("0.0.0.1:1", 80));
	lb_admit_pardon(admit, OTHER);
	assert_true(is_client_dropped("0.0.0.1:1", 80));
	lb_admit_pardon(admit, RULE);
	assert_false(is_client_dropped("0.0.0.1:1", 80));
	assert_int_equal(lb_admit_refused(admit), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(the_access_lists_of_the_table, admit_fresh),
		cmocka_unit_test_setup(deep_access_lists_agree_with_the_daemon_on_both_families,
				       admit_fresh),
		cmocka_unit_test_setup(a_list_that_goes_lets_everybody_in_again, admit_fresh),
		cmocka_unit_test_setup(a_client_without_a_token_is_dropped_until_it_has_one,
				       admit_fresh),
		cmocka_unit_test_setup(ipv6_clients_are_dropped_by_prefix, admit_fresh),
		cmocka_unit_test_setup(a_rule_without_a_token_drops_all_its_clients, admit_fresh),
		cmocka_unit_test_setup(a_dead_daemons_tables_drop_nobody, admit_fresh),
		cmocka_unit_test_setup(what_goes_elsewhere_is_not_judged, admit_fresh),
		cmocka_unit_test_setup(every_syn_is_counted_once_by_what_became_of_it, admit_fresh),
		cmocka_unit_test_setup(clients_who_may_come_again_make_room, admit_fresh),
	};

	return cmocka_run_group_tests(tests, admit_setup, admit_teardown);
}
