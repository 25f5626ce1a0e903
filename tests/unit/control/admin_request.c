/* SPDX-License-Identifier: MIT */
#include "control/admin_request.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static struct lb_admin_request r;
static char why[LB_ADMIN_WHY_MAX];

static int parse(const char *line)
{
	return lb_admin_request_parse(&r, line, strlen(line), why);
}

static void parses(const char *line)
{
	if (parse(line))
		fail_msg("%s: %s", line, why);
}

static void every_verb_is_known_by_its_word(void **state)
{
	static const char *const lines[] = {
		[LB_ADMIN_STATUS] = "status",
		[LB_ADMIN_BACKENDS] = "backends",
		[LB_ADMIN_FLOWS] = "flows",
		[LB_ADMIN_DRAIN] = "drain r b",
		[LB_ADMIN_UNDRAIN] = "undrain r b",
		[LB_ADMIN_WEIGHT] = "weight r b 7",
		[LB_ADMIN_ENABLE] = "enable r b",
		[LB_ADMIN_DISABLE] = "disable r b",
		[LB_ADMIN_KILL] = "kill 0123456789abcdef",
		[LB_ADMIN_LOG] = "log debug",
		[LB_ADMIN_METRICS] = "metrics",
		[LB_ADMIN_OVERVIEW] = "overview",
		[LB_ADMIN_CLUSTER] = "cluster",
		[LB_ADMIN_RELOAD] = "reload",
		[LB_ADMIN_UPGRADE] = "upgrade",
		[LB_ADMIN_VERSION] = "version",
	};

	assert_int_equal(LB_ARRAY_SIZE(lines), LB_ADMIN_VERB_MAX_);
	for (size_t i = 0; i < LB_ARRAY_SIZE(lines); i++) {
		const char *word = lb_admin_verb_word((enum lb_admin_verb)i);

		parses(lines[i]);
		assert_int_equal(r.verb, i);
		assert_memory_equal(lines[i], word, strlen(word));
	}
}

static void what_a_verb_needs_stands_in_its_place(void **state)
{
	parses("weight web 10.0.0.1:80 256");
	assert_string_equal(r.rule, "web");
	assert_string_equal(r.backend, "10.0.0.1:80");
	assert_int_equal(r.weight, 256);
	parses("  drain   a=b  c=d   deadline_ms=5  ");
	assert_string_equal(r.rule, "a=b");
	assert_string_equal(r.backend, "c=d");
	assert_int_equal(r.deadline_ms, 5);
	parses("kill 0123456789abcdef");
	assert_true(r.flow == 0x0123456789abcdefull);
	parses("log WARNING\r");
	assert_int_equal(r.level, LB_LOG_WARN);
}

static void without_options_there_are_defaults(void **state)
{
	parses("flows");
	assert_int_equal(r.limit, 100);
	assert_int_equal(r.sort, LB_ADMIN_SORT_AGE);
	assert_int_equal(r.over_ms, 0);
	assert_null(r.rule);
	assert_null(r.backend);
	assert_false(r.by_client);
	assert_false(r.by_carrier);
	parses("drain r b");
	assert_true(r.deadline_ms == LB_ADMIN_AS_CONFIGURED);
	parses("drain r b deadline_ms=never");
	assert_true(r.deadline_ms == LB_ADMIN_NEVER);
}

static void options_come_in_any_order(void **state)
{
	parses("flows sort=rtt carrier=graft rule=r limit=131072 backend=b over_ms=500");
	assert_int_equal(r.sort, LB_ADMIN_SORT_RTT);
	assert_true(r.by_carrier);
	assert_int_equal(r.carrier, LB_CARRIER_GRAFT);
	assert_string_equal(r.rule, "r");
	assert_string_equal(r.backend, "b");
	assert_int_equal(r.limit, 131072);
	assert_int_equal(r.over_ms, 500);
}

static void a_client_is_an_address_a_prefix_or_a_connection(void **state)
{
	static const struct {
		const char *line, *prefix;
		uint16_t port;
	} cases[] = {
		{"flows client=10.1.2.3", "10.1.2.3/32", 0},
		{"flows client=10.1.2.3/8", "10.0.0.0/8", 0},
		{"flows client=10.1.2.3:80", "10.1.2.3/32", 80},
		{"flows client=fd00::1", "fd00::1/128", 0},
		{"flows client=fd00::/8", "fd00::/8", 0},
		{"flows client=[fd00::1]:65535", "fd00::1/128", 65535},
	};
	char buf[LB_PREFIX_STR_MAX];

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		parses(cases[i].line);
		assert_true(r.by_client);
		assert_string_equal(lb_prefix_format(&r.client, buf), cases[i].prefix);
		assert_int_equal(r.client_port, cases[i].port);
	}
}

static void quotes_hold_a_word_together(void **state)
{
	parses("drain \"my rule\" \"a \\\"b\\\" \\\\c\"");
	assert_string_equal(r.rule, "my rule");
	assert_string_equal(r.backend, "a \"b\" \\c");
	parses("flows rule=\"my rule\" limit=1");
	assert_string_equal(r.rule, "my rule");
	assert_int_equal(r.limit, 1);
	/* Outside of quotes a backslash is itself. */
	parses("drain a\\b c");
	assert_string_equal(r.rule, "a\\b");
}

static void anything_else_is_refused_with_a_sentence(void **state)
{
	static const char *const lines[] = {
		"",
		" ",
		"\r",
		"stat",
		"STATUS",
		"status now",
		"status rule=r",
		"drain",
		"drain r",
		"drain r b 30",
		"drain r b deadline_ms=",
		"drain r b deadline_ms=-1",
		"drain r b deadline_ms=30s",
		"drain r b deadline_ms=604800001",
		"drain \"\" b",
		"drain r b deadline_ms=1 deadline_ms=2",
		"weight r b 0",
		"weight r b 257",
		"weight r b",
		"weight r b 1 2",
		"kill",
		"kill 123",
		"kill 0123456789ABCDEF",
		"kill 0123456789abcdef0",
		"kill -123456789abcdef",
		"log",
		"log loud",
		"flows limit=0",
		"flows limit=131073",
		"flows sort=size",
		"flows carrier=pigeon",
		"flows over_ms=10001",
		"flows client=",
		"flows client=10.0.0.256",
		"flows client=10.0.0.1/33",
		"flows client=:80",
		"flows client=host:80",
		"flows client=10.0.0.1:0",
		"flows =r",
		"flows rule",
		"flows rul=r",
		"flows rulee=r",
		"status \"",
		"status \\\"",
		"drain \"r b",
		"drain \"r\\x\" b",
		"status\tnow",
		"status \x7f",
		"flows a b c d e f g h i j k l m n o p q",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(lines); i++) {
		why[0] = '\0';
		if (parse(lines[i]) != -EINVAL || !why[0])
			fail_msg("'%s' is taken", lines[i]);
	}
}

static void a_line_may_be_as_long_as_said_and_no_longer(void **state)
{
	static char line[LB_ADMIN_LINE_MAX + 2];

	memset(line, ' ', sizeof(line));
	memcpy(line, "status", 6);
	assert_int_equal(lb_admin_request_parse(&r, line, LB_ADMIN_LINE_MAX, why), 0);
	assert_int_equal(lb_admin_request_parse(&r, line, LB_ADMIN_LINE_MAX + 1, why), -EINVAL);
	assert_int_equal(lb_admin_request_parse(&r, "status\0x", 8, why), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_verb_is_known_by_its_word),
		cmocka_unit_test(what_a_verb_needs_stands_in_its_place),
		cmocka_unit_test(without_options_there_are_defaults),
		cmocka_unit_test(options_come_in_any_order),
		cmocka_unit_test(a_client_is_an_address_a_prefix_or_a_connection),
		cmocka_unit_test(quotes_hold_a_word_together),
		cmocka_unit_test(anything_else_is_refused_with_a_sentence),
		cmocka_unit_test(a_line_may_be_as_long_as_said_and_no_longer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
