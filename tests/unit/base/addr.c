/* SPDX-License-Identifier: MIT */
#include "base/addr.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

/* Fails the test when <text> does not parse. */
static struct lb_addr parsed(const char *text)
{
	struct lb_addr a;

	if (lb_addr_parse(text, &a))
		fail_msg("\"%s\" did not parse", text);
	return a;
}

static void an_address_prints_as_it_was_written(void **state)
{
	static const char *const texts[] = {
		"1.2.3.4:80",        "0.0.0.0:1",     "255.255.255.255:65535",  "[::]:80",
		"[2001:db8::1]:443", "[fe80::1%1]:9", "[fe80::1%4294967295]:9",
	};
	char buf[LB_ADDR_STR_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(texts); i++) {
		struct lb_addr a = parsed(texts[i]);

		assert_string_equal(lb_addr_format(&a, buf), texts[i]);
	}
}

static void every_spelling_prints_in_one_form(void **state)
{
	static const struct {
		const char *text, *canonical;
	} cases[] = {
		{":80", "0.0.0.0:80"},
		{"1.2.3.4:00080", "1.2.3.4:80"},
		{"[2001:DB8:0:0:0::1]:80", "[2001:db8::1]:80"},
		{"[::ffff:1.2.3.4]:80", "1.2.3.4:80"},
		{"[fe80::1%lo]:80", "[fe80::1%1]:80"},
	};
	char buf[LB_ADDR_STR_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		struct lb_addr a = parsed(cases[i].text);

		assert_string_equal(lb_addr_format(&a, buf), cases[i].canonical);
	}
}

static void the_longest_address_fits(void **state)
{
	struct lb_addr a =
		parsed("[2001:db8:ffff:ffff:ffff:ffff:255.255.255.255%4294967295]:65535");
	char buf[LB_ADDR_STR_MAX];

	assert_string_equal(lb_addr_format(&a, buf),
			    "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535");
}

static void a_doubtful_address_is_refused_and_leaves_the_output(void **state)
{
	static const char *const texts[] = {
		"",
		":",
		"1.2.3.4",
		"1.2.3.4:",
		"1.2.3.4:0",
		"1.2.3.4:65536",
		"1.2.3.4:99999999999999999999",
		"1.2.3.4:+80",
		"1.2.3.4: 80",
		"1.2.3.4:80 ",
		"1.2.3.4:80:",
		" 1.2.3.4:80",
		"1.2.3:80",
		"127.1:80",
		"0x7f.0.0.1:80",
		"010.0.0.1:80",
		"1.2.3.4.5:80",
		"256.0.0.1:80",
		"localhost:80",
		"::1:80",
		"::1",
		"[::1]",
		"[::1]80",
		"[::1:80",
		"[::1]:",
		"[]:80",
		"[1.2.3.4]:80",
		"[::1%]:80",
		"[::1%0]:80",
		"[::1%4294967296]:80",
		"[::1%no-such-interface]:80",
		"[::g]:80",
		"[[::1]]:80",
		"http://1.2.3.4:80",
	};
	struct lb_addr a, before;

	memset(&before, 0x5a, sizeof(before));
	for (size_t i = 0; i < LB_ARRAY_SIZE(texts); i++) {
		a = before;
		if (lb_addr_parse(texts[i], &a) != -EINVAL)
			fail_msg("\"%s\" was not refused", texts[i]);
		assert_memory_equal(&a, &before, sizeof(a));
	}
}

static void a_split_keeps_names_and_drops_brackets(void **state)
{
	static const struct {
		const char *text, *host;
		uint16_t port;
	} cases[] = {
		{"example.org:443", "example.org", 443},
		{"[2001:db8::1]:80", "2001:db8::1", 80},
		{"1.2.3.4:1", "1.2.3.4", 1},
		{":65535", "", 65535},
	};
	char host[64];
	uint16_t port;

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		assert_int_equal(lb_addr_split(cases[i].text, host, sizeof(host), &port), 0);
		assert_string_equal(host, cases[i].host);
		assert_int_equal(port, cases[i].port);
	}
}

static void a_split_refuses_what_no_host_can_be(void **state)
{
	static const char *const texts[] = {
		"",           "host",     "host:",     "host:0",    "host:http",
		"host:80:80", "a b:80",   "a\tb:80",   "[host]:80", "user@h:80",
		"h/path:80",  "\"h\":80", "host\n:80", "h[]:80",    "[::1]]:80",
	};
	char host[64] = "before";
	uint16_t port = 7;

	for (size_t i = 0; i < LB_ARRAY_SIZE(texts); i++) {
		if (lb_addr_split(texts[i], host, sizeof(host), &port) != -EINVAL)
			fail_msg("\"%s\" was not refused", texts[i]);
		assert_string_equal(host, "before");
		assert_int_equal(port, 7);
	}
}

static void a_host_must_fit_with_its_nul(void **state)
{
	char host[5] = "-";
	uint16_t port = 7;

	assert_int_equal(lb_addr_split("12345:80", host, sizeof(host), &port), -ENAMETOOLONG);
	assert_string_equal(host, "-");
	assert_int_equal(port, 7);
	assert_int_equal(lb_addr_split("1234:80", host, sizeof(host), &port), 0);
	assert_string_equal(host, "1234");
}

static void equal_compares_family_address_scope_and_port(void **state)
{
	static const char *const texts[] = {
		"1.2.3.4:80",          "1.2.3.4:81",     "1.2.3.5:80",     "[::1]:80",
		"[::ffff:1.2.3.4]:80", "[fe80::1%1]:80", "[fe80::1%2]:80",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(texts); i++) {
		for (size_t j = 0; j < LB_ARRAY_SIZE(texts); j++) {
			struct lb_addr a = parsed(texts[i]), b = parsed(texts[j]);

			assert_int_equal(lb_addr_equal(&a, &b), i == j);
		}
	}
}

static void unmap_turns_a_mapped_client_into_its_ipv4_self(void **state)
{
	struct lb_addr mapped = parsed("[::ffff:1.2.3.4]:80"), v4 = parsed("1.2.3.4:80");
	struct lb_addr v6 = parsed("[2001:db8::1]:80"), same = v6;

	lb_addr_unmap(&mapped);
	assert_memory_equal(&mapped, &v4, sizeof(v4));
	lb_addr_unmap(&same);
	assert_memory_equal(&same, &v6, sizeof(v6));
}

static void any_and_loopback_are_told_from_the_rest(void **state)
{
	static const struct {
		const char *text;
		bool any, loopback;
	} cases[] = {
		{"0.0.0.0:80", true, false},
		{"[::]:80", true, false},
		{"[::ffff:0.0.0.0]:80", true, false},
		{"127.0.0.1:80", false, true},
		{"127.255.255.255:80", false, true},
		{"[::1]:80", false, true},
		{"[::ffff:127.0.0.1]:80", false, true},
		{"128.0.0.1:80", false, false},
		{"0.0.0.127:80", false, false},
		{"[::2]:80", false, false},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		struct lb_addr a = parsed(cases[i].text);

		assert_int_equal(lb_addr_is_any(&a), cases[i].any);
		assert_int_equal(lb_addr_is_loopback(&a), cases[i].loopback);
	}
}

static void an_address_without_family_is_harmless(void **state)
{
	struct lb_addr none = {0};
	char buf[LB_ADDR_STR_MAX];

	lb_addr_set_port(&none, 80);
	lb_addr_unmap(&none);
	assert_int_equal(lb_addr_len(&none), 0);
	assert_int_equal(lb_addr_port(&none), 0);
	assert_false(lb_addr_is_any(&none));
	assert_false(lb_addr_is_loopback(&none));
	assert_string_equal(lb_addr_format(&none, buf), "-");
}

static void length_and_port_are_those_of_the_family(void **state)
{
	struct lb_addr v4 = parsed("1.2.3.4:80"), v6 = parsed("[::1]:80");

	assert_int_equal(lb_addr_len(&v4), sizeof(struct sockaddr_in));
	assert_int_equal(lb_addr_len(&v6), sizeof(struct sockaddr_in6));
	lb_addr_set_port(&v4, 8080);
	lb_addr_set_port(&v6, 8081);
	assert_int_equal(lb_addr_port(&v4), 8080);
	assert_int_equal(lb_addr_port(&v6), 8081);
}

static void a_host_alone_is_of_the_family_asked_for(void **state)
{
	static const struct {
		int family;
		const char *text;
	} good[] = {{AF_INET, "1.2.3.4"}, {AF_INET6, "2001:db8::1"}, {AF_INET6, "::"}},
	  bad[] = {
		  {AF_INET, "::1"},      {AF_INET, "1.2.3"},      {AF_INET, ""},
		  {AF_INET6, "1.2.3.4"}, {AF_INET6, "fe80::1%1"}, {AF_INET6, "[::]"},
		  {AF_INET6, "::1:x"},   {AF_INET, "1.2.3.4 "},
	  };
	char buf[LB_ADDR_STR_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(good); i++) {
		struct lb_addr a;

		assert_int_equal(lb_addr_parse_host(good[i].family, good[i].text, &a), 0);
		assert_int_equal(a.sa.sa_family, good[i].family);
		assert_int_equal(lb_addr_port(&a), 0);
		assert_string_equal(lb_addr_format_host(&a, buf), good[i].text);
	}
	for (size_t i = 0; i < LB_ARRAY_SIZE(bad); i++) {
		struct lb_addr a = parsed("9.9.9.9:9"), before = a;

		assert_int_equal(lb_addr_parse_host(bad[i].family, bad[i].text, &a), -EINVAL);
		assert_memory_equal(&a, &before, sizeof(a));
	}
}

static void map_is_the_way_back_from_unmap(void **state)
{
	struct lb_addr v4 = parsed("1.2.3.4:80"), v6 = parsed("[2001:db8::1]:443"), a = v4;
	char buf[LB_ADDR_STR_MAX];

	lb_addr_map(&a);
	assert_int_equal(a.sa.sa_family, AF_INET6);
	assert_string_equal(lb_addr_format_host(&a, buf), "::ffff:1.2.3.4");
	lb_addr_unmap(&a);
	assert_true(lb_addr_equal(&a, &v4));
	a = v6;
	lb_addr_map(&a);
	assert_true(lb_addr_equal(&a, &v6));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_address_prints_as_it_was_written),
		cmocka_unit_test(every_spelling_prints_in_one_form),
		cmocka_unit_test(the_longest_address_fits),
		cmocka_unit_test(a_doubtful_address_is_refused_and_leaves_the_output),
		cmocka_unit_test(a_split_keeps_names_and_drops_brackets),
		cmocka_unit_test(a_split_refuses_what_no_host_can_be),
		cmocka_unit_test(a_host_must_fit_with_its_nul),
		cmocka_unit_test(equal_compares_family_address_scope_and_port),
		cmocka_unit_test(unmap_turns_a_mapped_client_into_its_ipv4_self),
		cmocka_unit_test(map_is_the_way_back_from_unmap),
		cmocka_unit_test(a_host_alone_is_of_the_family_asked_for),
		cmocka_unit_test(any_and_loopback_are_told_from_the_rest),
		cmocka_unit_test(an_address_without_family_is_harmless),
		cmocka_unit_test(length_and_port_are_those_of_the_family),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
