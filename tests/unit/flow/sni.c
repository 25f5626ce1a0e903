/* SPDX-License-Identifier: MIT */
#include "flow/sni.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "flow/env.h"

#define ALPN_H2   ((const uint8_t *)"\x02h2")
#define ALPN_HTTP ((const uint8_t *)"\x08http/1.1")

enum { EXACT, WILDCARD, H2, OTHER, DEEP, ANY_H2, TARGETS };

static struct lb_rule rules[TARGETS];

static struct lb_client_hello asking_for(const char *name, const uint8_t *alpn)
{
	struct lb_client_hello h = {.alpn = alpn,
				    .alpn_len = alpn ? strlen((const char *)alpn) : 0};

	snprintf(h.name, sizeof(h.name), "%s", name);
	return h;
}

static struct lb_sni *make(void)
{
	static char *exact[] = {"A.example.org"}, *wildcard[] = {"*.example.org", "*.Example.com"};
	static char *h2[] = {"b.example.org"}, *other[] = {"b.example.org", "one"};
	static char *deep[] = {"x.a.example.org"}, *any[] = {"*"};
	static char *alpn[] = {"h2", "h2c"};
	static struct lb_sni_config routes[TARGETS] = {
		[EXACT] = {.names = exact, .names_count = 1},
		[WILDCARD] = {.names = wildcard, .names_count = 2},
		[H2] = {.names = h2, .names_count = 1, .alpn = alpn, .alpn_count = 2},
		[OTHER] = {.names = other, .names_count = 2},
		[DEEP] = {.names = deep, .names_count = 1},
		[ANY_H2] = {.names = any, .names_count = 1, .alpn = alpn, .alpn_count = 1},
	};
	const struct lb_rule_config config = {.sni = routes, .sni_count = TARGETS};
	const struct lb_rule *targets[TARGETS];
	struct lb_sni *sni = NULL;

	for (size_t i = 0; i < TARGETS; i++)
		targets[i] = &rules[i];
	assert_int_equal(lb_sni_new(&sni, &config, targets), 0);
	return sni;
}

static void exact_then_wildcard_then_any_then_nobody(void **state)
{
	static const struct {
		const char *name;
		const uint8_t *alpn;
		int target; /* -1: none */
	} rows[] = {
		{"a.example.org", NULL, EXACT},
		{"a.example.org", ALPN_H2, EXACT},
		{"c.example.org", NULL, WILDCARD},
		{"c.example.com", ALPN_H2, WILDCARD},
		/* A star is one label. */
		{"x.c.example.org", NULL, -1},
		{"x.c.example.org", ALPN_H2, ANY_H2},
		{"x.a.example.org", NULL, DEEP},
		{"example.org", NULL, -1},
		/* Of one name the first that takes what is offered. */
		{"b.example.org", ALPN_H2, H2},
		{"b.example.org", ALPN_HTTP, OTHER},
		{"b.example.org", NULL, OTHER},
		{"one", NULL, OTHER},
		{"", NULL, -1},
		{"", ALPN_H2, ANY_H2},
		{"", ALPN_HTTP, -1},
		/* What routes are written with is no name. */
		{"*", NULL, -1},
		{"*", ALPN_H2, ANY_H2},
		{".example.org", NULL, -1},
		{".", NULL, -1},
	};
	struct lb_sni *sni = make();

	for (size_t i = 0; i < LB_ARRAY_SIZE(rows); i++) {
		const struct lb_client_hello hello = asking_for(rows[i].name, rows[i].alpn);
		const struct lb_rule *found = lb_sni_find(sni, &hello);

		if (found != (rows[i].target < 0 ? NULL : &rules[rows[i].target]))
			fail_msg("%zu: %s", i, rows[i].name);
	}
	lb_sni_free(&sni);
	assert_null(sni);
	lb_sni_free(&sni);
}

/* As if it had no exact route. */
static void a_name_whose_routes_do_not_want_it_falls_to_the_wildcard(void **state)
{
	static char *names[] = {"a.org"}, *wildcard[] = {"*.org"}, *alpn[] = {"h2"};
	struct lb_sni_config routes[] = {
		{.names = names, .names_count = 1, .alpn = alpn, .alpn_count = 1},
		{.names = wildcard, .names_count = 1},
	};
	const struct lb_rule_config config = {.sni = routes, .sni_count = 2};
	const struct lb_rule *targets[] = {&rules[0], &rules[1]};
	const struct lb_client_hello plain = asking_for("a.org", ALPN_HTTP);
	const struct lb_client_hello h2 = asking_for("a.org", ALPN_H2);
	struct lb_sni *sni = NULL;

	assert_int_equal(lb_sni_new(&sni, &config, targets), 0);
	assert_ptr_equal(lb_sni_find(sni, &plain), &rules[1]);
	assert_ptr_equal(lb_sni_find(sni, &h2), &rules[0]);
	lb_sni_free(&sni);
}

static void without_routes_there_is_nothing(void **state)
{
	const struct lb_rule_config config = {0};
	struct lb_sni *sni = (struct lb_sni *)rules;

	assert_int_equal(lb_sni_new(&sni, &config, NULL), 0);
	assert_null(sni);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(exact_then_wildcard_then_any_then_nobody),
		cmocka_unit_test(a_name_whose_routes_do_not_want_it_falls_to_the_wildcard),
		cmocka_unit_test(without_routes_there_is_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
