/* SPDX-License-Identifier: MIT */
#include "config/prefix.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static struct lb_prefix parsed(const char *text)
{
	struct lb_prefix p;

	if (lb_prefix_parse(text, &p))
		fail_msg("\"%s\" did not parse", text);
	return p;
}

static void prints_in_one_form_without_host_bits(void **state)
{
	static const char *const cases[][2] = {
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"10.1.2.3/8", "10.0.0.0/8"},
		{"10.1.2.3", "10.1.2.3/32"},
		{"255.255.255.255/31", "255.255.255.254/31"},
		{"255.255.255.255/1", "128.0.0.0/1"},
		{"1.2.3.4/0", "0.0.0.0/0"},
		{"::/0", "::/0"},
		{"2001:DB8:0:0::1", "2001:db8::1/128"},
		{"2001:db8:ffff::/33", "2001:db8:8000::/33"},
		{"::ffff:10.1.2.3", "10.1.2.3/32"},
		{"::ffff:10.1.2.3/104", "10.0.0.0/8"},
		{"::ffff:0:0/96", "0.0.0.0/0"},
		{"::ffff:0:0/95", "::fffe:0:0/95"},
	};
	char buf[LB_PREFIX_STR_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		struct lb_prefix p = parsed(cases[i][0]);

		assert_string_equal(lb_prefix_format(&p, buf), cases[i][1]);
	}
}

static void anything_else_is_refused(void **state)
{
	static const char *const cases[] = {
		"",
		"/",
		"/8",
		"10.0.0.0/",
		"10.0.0.0/33",
		"10.0.0.0/-1",
		"10.0.0.0/+8",
		"10.0.0.0/08",
		"10.0.0.0/8/8",
		"10.0.0.0/8 ",
		" 10.0.0.0/8",
		"10/8",
		"10.0.0/8",
		"010.0.0.1",
		"0x0a.0.0.1",
		"256.0.0.1",
		"2001:db8::/129",
		"[::1]",
		"fe80::1%lo",
		"localhost",
		"any",
		"10.0.0.1:80",
		"10.0.0.0/255.0.0.0",
		"1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa:bbbb:cccc",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		struct lb_prefix p = {.family = 77, .bits = 77};

		if (lb_prefix_parse(cases[i], &p) != -EINVAL)
			fail_msg("\"%s\" parsed", cases[i]);
		assert_int_equal(p.family, 77);
		assert_int_equal(p.bits, 77);
	}
}

static void contains_is_about_whole_ranges(void **state)
{
	static const struct {
		const char *outer, *inner;
		bool contains;
	} cases[] = {
		{"10.0.0.0/8", "10.0.0.0/8", true},
		{"10.0.0.0/8", "10.255.0.0/16", true},
		{"10.0.0.0/8", "11.0.0.0/16", false},
		{"10.0.0.0/16", "10.0.0.0/8", false},
		{"0.0.0.0/0", "1.2.3.4", true},
		{"0.0.0.0/0", "::1", false},
		{"::/0", "1.2.3.4", false},
		{"::/0", "::/0", true},
		{"2001:db8::/33", "2001:db8:7fff::/48", true},
		{"2001:db8::/33", "2001:db8:8000::/48", false},
		{"10.0.0.0/31", "10.0.0.1", true},
		{"10.0.0.0/31", "10.0.0.2", false},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		struct lb_prefix outer = parsed(cases[i].outer), inner = parsed(cases[i].inner);

		if (lb_prefix_contains(&outer, &inner) != cases[i].contains)
			fail_msg("%s in %s", cases[i].inner, cases[i].outer);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(prints_in_one_form_without_host_bits),
		cmocka_unit_test(anything_else_is_refused),
		cmocka_unit_test(contains_is_about_whole_ranges),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
