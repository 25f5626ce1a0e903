/* SPDX-License-Identifier: MIT */
#include "control/difference.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define RULE "{name: a, listen: \":80\", backends: [\"10.0.0.1:80\", \"10.0.0.2:80\"]"

/* What was told, one line after the other. */
static char told[4096];

static void tell(void *arg, const struct lb_difference *d)
{
	FILE *out = fmemopen(told + strlen(told), sizeof(told) - strlen(told), "w");

	assert_non_null(out);
	lb_difference_print(d, out);
	fputc('\n', out);
	fclose(out);
}

static struct lb_config *parse(const char *text)
{
	struct lb_config_notices notices = {0};
	struct lb_config *config = NULL;

	if (lb_config_parse(&config, text, strlen(text), &notices))
		lb_config_notices_print(&notices, NULL, stderr);
	assert_non_null(config);
	lb_config_notices_fini(&notices);
	return config;
}

static void assert_told(const char *was, const char *is, const char *want)
{
	LB_AUTO(lb_config_free) struct lb_config *a = parse(was);
	LB_AUTO(lb_config_free) struct lb_config *b = parse(is);

	told[0] = '\0';
	assert_int_equal(lb_difference_find(a, a, b, tell, NULL), 0);
	assert_string_equal(told, want);
}

static void the_same_file_makes_no_difference(void **state)
{
	const char *other_form =
		"log: {level: info}\nrules:\n- name: a\n  listen: \"0.0.0.0:80\"\n"
		"  timeouts: {idle_ms: 600s}\n"
		"  backends: [{addr: \"10.0.0.1:80\", weight: 1}, \"10.0.0.2:80\"]\n";

	assert_told("rules: [" RULE "}]", "rules: [" RULE "}]", "");
	assert_told("rules: [" RULE "}]", other_form, "");
}

static void live_keys_change_with_their_values(void **state)
{
	assert_told("rules: [" RULE "}]", "rules: [" RULE ", retries: 5, timeouts: {idle_ms: 5s}}]",
		    "rule a: timeouts.idle_ms: 600000 -> 5000\nrule a: retries: 2 -> 5\n");
	assert_told("rules: [" RULE "}]", "rules: [" RULE ", balance: random_two}]",
		    "rule a: balance: weighted_round_robin -> random_two\n");
	assert_told("rules: [" RULE "}]", "log: {level: debug}\nrules: [" RULE "}]",
		    "log.level: info -> debug\n");
}

#define TLS ", tls: {enabled: true, cert: own.pem, key: own.key}"

static void files_that_hold_something_else_make_a_difference(void **state)
{
	LB_AUTO(lb_config_free) struct lb_config *a = parse("rules: [" RULE TLS "}]");
	LB_AUTO(lb_config_free) struct lb_config *b = parse("rules: [" RULE TLS "}]");
	LB_AUTO(lb_config_free)
	struct lb_config *c = parse("rules: [" RULE TLS ", backend_tls: {enabled: true}}]");

	b->rules[0].tls.files[31] = 1;
	told[0] = '\0';
	assert_int_equal(lb_difference_find(a, a, b, tell, NULL), 0);
	assert_string_equal(told, "rule a: tls: the files as they were -> "
				  "files that have changed\n");
	/* What is new anyway has no files that have changed. */
	c->rules[0].backend_tls.files[0] = 1;
	told[0] = '\0';
	assert_int_equal(lb_difference_find(a, a, c, tell, NULL), 0);
	assert_string_equal(told, "rule a: backend_tls.enabled: false -> true (needs a restart)\n");
}

static void backends_are_known_by_their_address(void **state)
{
	assert_told("rules: [" RULE "}]",
		    "rules: [{name: a, listen: \":80\", backends: [\"10.0.0.3:80\", {addr: "
		    "\"10.0.0.2:80\", weight: 7}]}]",
		    "rule a: backends: - 10.0.0.1:80\n"
		    "rule a: backends[10.0.0.2:80].weight: 1 -> 7\n"
		    "rule a: backends: + 10.0.0.3:80\n");
	/* Their order means nothing. */
	assert_told("rules: [" RULE "}]",
		    "rules: [{name: a, listen: \":80\", backends: [\"10.0.0.2:80\", "
		    "\"10.0.0.1:80\"]}]",
		    "");
}

static void rules_come_and_go_by_their_name(void **state)
{
	assert_told("rules: [" RULE "}]",
		    "rules: [{name: b, listen: \":81\", backends: [\"10.0.0.1:80\"]}]",
		    "rule a: removed, its flows have 30.0 s to end\n"
		    "rule b: added, listens on 0.0.0.0:81\n");
}

static void what_cannot_begin_or_end_in_between_is_refused(void **state)
{
	assert_told("rules: [" RULE "}]", "rules: [" RULE ", client_connection_limit: 3}]",
		    "rule a: client_connection_limit: 0 -> 3 (needs a restart)\n");
	assert_told("rules: [" RULE ", client_connection_limit: 3}]",
		    "rules: [" RULE ", client_connection_limit: 4}]",
		    "rule a: client_connection_limit: 3 -> 4\n");
	assert_told("rules: [" RULE "}]", "rules: [" RULE ", same_host_bypass: true}]",
		    "rule a: same_host_bypass: false -> true (needs a restart)\n");
	assert_told("rules: [" RULE "}]",
		    "rules: [" RULE "}, {name: b, listen: \":81\", same_host_bypass: true, "
		    "backends: [\"10.0.0.9:80\"]}]",
		    "rule b: added, listens on 0.0.0.0:81\n"
		    "rule b: same_host_bypass: + something (needs a restart)\n");
}

static void the_rest_is_named_and_left_as_it_is(void **state)
{
	assert_told("workers: 2\nrules: [" RULE "}]", "workers: 3\nrules: [" RULE "}]",
		    "workers: 2 -> 3 (needs a restart; 2 stays in force)\n");
}

/* However many files came in between, the start is what is in force. */
static void it_is_compared_with_the_start(void **state)
{
	LB_AUTO(lb_config_free) struct lb_config *first = parse("workers: 2\nrules: [" RULE "}]");
	LB_AUTO(lb_config_free)
	struct lb_config *was = parse("workers: 3\nrules: [" RULE ", retries: 1}]");
	LB_AUTO(lb_config_free)
	struct lb_config *is = parse("workers: 3\nrules: [" RULE ", retries: 1}]");

	told[0] = '\0';
	assert_int_equal(lb_difference_find(first, was, is, tell, NULL), 0);
	assert_string_equal(told, "workers: 2 -> 3 (needs a restart; 2 stays in force)\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_same_file_makes_no_difference),
		cmocka_unit_test(live_keys_change_with_their_values),
		cmocka_unit_test(files_that_hold_something_else_make_a_difference),
		cmocka_unit_test(backends_are_known_by_their_address),
		cmocka_unit_test(rules_come_and_go_by_their_name),
		cmocka_unit_test(what_cannot_begin_or_end_in_between_is_refused),
		cmocka_unit_test(the_rest_is_named_and_left_as_it_is),
		cmocka_unit_test(it_is_compared_with_the_start),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
