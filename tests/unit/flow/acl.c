/* SPDX-License-Identifier: MIT */
#include "flow/acl.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/hash.h"

#include "acl_cases.h"

#define MANY 4000u

static struct lb_addr addr(const char *text)
{
	struct lb_addr a;

	assert_int_equal(lb_addr_parse(text, &a), 0);
	return a;
}

static void the_table_of_cases(void **state)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(acl_cases); i++) {
		const struct acl_case *c = &acl_cases[i];
		struct lb_acl *acl = acl_case_build(c);
		struct lb_addr client = addr(c->client);

		if (lb_acl_allows(acl, &client) != c->allowed)
			fail_msg("case %zu: %s should%s be allowed", i, c->client,
				 c->allowed ? "" : " not");
		lb_acl_free(&acl);
	}
}

static bool is_in(const struct lb_prefix *list, size_t count, const struct lb_addr *a)
{
	struct lb_prefix one = {.family = (uint8_t)a->sa.sa_family};

	one.bits = one.family == AF_INET ? 32 : 128;
	if (one.family == AF_INET)
		one.in4 = a->in4.sin_addr;
	else
		one.in6 = a->in6.sin6_addr;
	for (size_t i = 0; i < count; i++)
		if (lb_prefix_contains(&list[i], &one))
			return true;
	return false;
}

static struct lb_addr addr_of(const struct lb_prefix *p, int more)
{
	struct lb_addr a = {.sa.sa_family = p->family};
	uint8_t *bytes =
		p->family == AF_INET ? (uint8_t *)&a.in4.sin_addr : a.in6.sin6_addr.s6_addr;
	int len = p->family == AF_INET ? 4 : 16;

	memcpy(bytes, p->bytes, (size_t)len);
	for (int i = len - 1; i >= 0 && more; i--) {
		int sum = bytes[i] + more;

		bytes[i] = (uint8_t)sum;
		more = sum < 0 ? -1 : sum >> 8;
	}
	return a;
}

/* At, before and behind every prefix of both lists, by the slow way and by ours. */
static void compare(int family, bool with_allow)
{
	struct lb_prefix *lists = calloc(2 * MANY, sizeof(*lists)), *deny = lists + MANY;
	size_t allow_count = with_allow ? MANY : 0, allowed = 0;
	struct lb_acl *acl;

	assert_non_null(lists);
	acl_case_many(lists, MANY, family, 11);
	acl_case_many(deny, MANY, family, 12);
	assert_int_equal(lb_acl_new(&acl, lists, allow_count, deny, MANY), 0);
	for (size_t i = 0; i < 2 * MANY; i += 3) {
		for (int more = -1; more <= 1; more++) {
			struct lb_addr a = addr_of(&lists[i], more);
			bool want =
				(!with_allow || is_in(lists, MANY, &a)) && !is_in(deny, MANY, &a);

			assert_int_equal(lb_acl_allows(acl, &a), want);
			allowed += want;
		}
	}
	/* It was not one verdict for all. */
	assert_in_range(allowed, 100, 2 * MANY - 100);
	lb_acl_free(&acl);
	free(lists);
}

static void thousands_of_prefixes_are_judged_as_one_by_one(void **state)
{
	compare(AF_INET, false);
	compare(AF_INET, true);
	compare(AF_INET6, false);
	compare(AF_INET6, true);
}

static void a_million_prefixes_fit(void **state)
{
	size_t count = 1000000;
	struct lb_prefix *list = calloc(count, sizeof(*list));
	struct lb_acl *acl;
	uint32_t v4, v6;

	assert_non_null(list);
	for (size_t i = 0; i < count; i++) {
		uint32_t a = htonl((uint32_t)i << 12 | 7);

		list[i] = (struct lb_prefix){.family = AF_INET, .bits = 32};
		memcpy(list[i].bytes, &a, sizeof(a));
	}
	assert_int_equal(lb_acl_new(&acl, NULL, 0, list, count), 0);
	lb_acl_v4_nodes(acl, &v4);
	lb_acl_v6_nodes(acl, &v6);
	assert_int_equal(v4, (2 * count + LB_ACL_V4_KEYS - 1) / LB_ACL_V4_KEYS);
	assert_int_equal(v6, 1);
	for (size_t i = 0; i < count; i += 997) {
		struct lb_addr a = addr_of(&list[i], 0), before = addr_of(&list[i], -1),
			       behind = addr_of(&list[i], 1);

		assert_false(lb_acl_allows(acl, &a));
		assert_true(lb_acl_allows(acl, &before));
		assert_true(lb_acl_allows(acl, &behind));
	}
	lb_acl_free(&acl);
	free(list);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_table_of_cases),
		cmocka_unit_test(thousands_of_prefixes_are_judged_as_one_by_one),
		cmocka_unit_test(a_million_prefixes_fit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
