/* SPDX-License-Identifier: MIT */
#include "flow/tls_names.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define NONE 99u

static void exact_then_wildcard_then_the_default(void **state)
{
	static const struct {
		const char *name;
		uint32_t certificate;
	} added[] = {{"example.org", 1},     {"*.example.org", 2}, {"www.example.org", 3},
		     {"*.b.example.org", 4}, {"OTHER.example", 5}, {"www.example.org", 6},
		     {"example.org", 0}},
	  rows[] = {
		  {"example.org", 0}, /* the first certificate that has it */
		  {"www.example.org", 3},
		  {"WWW.Example.ORG", 3},
		  {"ftp.example.org", 2},
		  {"b.example.org", 2},
		  {"a.b.example.org", 4},
		  {"a.a.example.org", NONE}, /* one label only */
		  {".example.org", NONE},
		  {"other.example", 5},
		  {"x.other.example", NONE},
		  {"org", NONE},
		  {"", NONE},
		  {".", NONE},
		  {"example.org.", NONE},
		  {"*.example.org", 2}, /* nobody asks so; it is a label like any other */
	  };
	struct lb_tls_names n = {0};

	for (size_t i = 0; i < LB_ARRAY_SIZE(added); i++)
		assert_int_equal(lb_tls_names_add(&n, added[i].name, added[i].certificate), 0);
	lb_tls_names_sort(&n);
	for (size_t i = 0; i < LB_ARRAY_SIZE(rows); i++)
		if (lb_tls_names_find(&n, rows[i].name, NONE) != rows[i].certificate)
			fail_msg("%s", rows[i].name);
	lb_tls_names_fini(&n);
}

static void what_matches_nobody_is_not_taken(void **state)
{
	static const char *const bad[] = {"", "*", "a*.example.org", "*.*.org", "*a.org"};
	struct lb_tls_names n = {0};

	for (size_t i = 0; i < LB_ARRAY_SIZE(bad); i++)
		assert_int_equal(lb_tls_names_add(&n, bad[i], 1), -EINVAL);
	lb_tls_names_sort(&n);
	assert_int_equal(lb_tls_names_find(&n, "a.example.org", NONE), NONE);
	lb_tls_names_fini(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exact_then_wildcard_then_the_default),
		cmocka_unit_test(what_matches_nobody_is_not_taken),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
