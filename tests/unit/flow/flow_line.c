/* SPDX-License-Identifier: MIT */
#include "flow/flow_line.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/addr.h"

static struct lb_addr client;

static int setup(void **state)
{
	return lb_addr_parse("192.0.2.1:4711", &client);
}

static struct lb_flow_record record(void)
{
	return (struct lb_flow_record){
		.rule = "web",
		.client = &client,
		.backend = "10.0.0.1:80",
		.carrier = "relay",
		.why = LB_WHY_CONFIGURED,
		.reason = LB_REASON_DONE,
		.bytes = {78, 153},
		.duration_ms = 42,
		.connected = true,
		.connect_us = 2500,
		.answered = true,
		.first_byte_us = 10200,
		.tries = 1,
	};
}

/* Everything there can be, and all of it as long as it can be. */
static struct lb_flow_record longest(char rule[383], char certified[65], char backend[261])
{
	struct lb_flow_record r = record();

	/* A route's: "rule/route". */
	memset(rule, '"', 382);
	memset(certified, '\x01', 64);
	memset(backend, '\xff', 260);
	rule[382] = certified[64] = backend[260] = '\0';
	r.rule = rule;
	r.certified = certified;
	r.backend = backend;
	r.error = EPROTONOSUPPORT;
	r.detail = "certificate verify failed: unable to get local issuer certificate";
	r.bytes[0] = r.bytes[1] = r.duration_ms = r.unlogged = INT64_MAX;
	r.connect_us = r.first_byte_us = INT64_MAX;
	r.tries = UINT32_MAX;
	return r;
}

static const char *line_of(const struct lb_flow_record *r, enum lb_log_format format)
{
	static char line[LB_FLOW_LINE_MAX];
	size_t len = lb_flow_line(r, format, line, sizeof(line));

	assert_int_equal(len, strlen(line));
	assert_null(strchr(line, '\n'));
	return line;
}

static json_t *json_of(const struct lb_flow_record *r)
{
	json_t *value = json_loads(line_of(r, LB_LOG_JSON), JSON_REJECT_DUPLICATES, NULL);

	assert_true(json_is_object(value));
	return value;
}

static void a_line_tells_who_how_and_why(void **state)
{
	struct lb_flow_record r = record();
	const char *line = line_of(&r, LB_LOG_TEXT);

	assert_int_equal(strncmp(line, "time=20", 7), 0);
	assert_string_equal(strchr(line, ' '),
			    " rule=web client=192.0.2.1:4711 backend=10.0.0.1:80 carrier=relay "
			    "why=configured reason=done up=78 down=153 duration_ms=42 "
			    "connect_ms=2.5 first_byte_ms=10.2 tries=1");
}

static void a_name_with_spaces_or_quotes_stays_one_word(void **state)
{
	struct lb_flow_record r = record();

	r.rule = "my \"web\" \\ rule";
	assert_non_null(
		strstr(line_of(&r, LB_LOG_TEXT), " rule=\"my \\\"web\\\" \\\\ rule\" client="));
}

static void json_has_the_same_under_the_same_names(void **state)
{
	struct lb_flow_record r = record();
	const char *line = line_of(&r, LB_LOG_JSON);

	assert_int_equal(strncmp(line, "{\"time\":\"20", 11), 0);
	assert_string_equal(strchr(line, ',') + 1,
			    "\"rule\":\"web\",\"client\":\"192.0.2.1:4711\","
			    "\"backend\":\"10.0.0.1:80\",\"carrier\":\"relay\","
			    "\"why\":\"configured\",\"reason\":\"done\",\"up\":78,\"down\":153,"
			    "\"duration_ms\":42,\"connect_ms\":2.5,\"first_byte_ms\":10.2,"
			    "\"tries\":1}");
}

/* Every word of the text is a member of the object, and the other way round. */
static void both_forms_have_all_fields(void **state)
{
	char rule[383], certified[65], backend[261], line[LB_FLOW_LINE_MAX], *save = NULL;
	struct lb_flow_record r = longest(rule, certified, backend);
	json_t *value;
	size_t words = 0;

	r.rule = "web";
	r.certified = "somebody";
	r.backend = "b:1";
	r.detail = "detail";
	value = json_of(&r);
	strcpy(line, line_of(&r, LB_LOG_TEXT));
	for (char *w = strtok_r(line, " ", &save); w; w = strtok_r(NULL, " ", &save), words++) {
		*strchr(w, '=') = '\0';
		assert_non_null(json_object_get(value, w));
	}
	assert_int_equal(words, json_object_size(value));
	json_decref(value);
}

static void what_is_not_there_is_a_dash_or_null(void **state)
{
	struct lb_flow_record r = record();
	json_t *value;

	r.backend = r.carrier = NULL;
	r.connected = r.answered = false;
	assert_non_null(strstr(line_of(&r, LB_LOG_TEXT), " backend=- carrier=- why=- reason="));
	assert_non_null(strstr(line_of(&r, LB_LOG_TEXT), " connect_ms=- first_byte_ms=- tries="));
	value = json_of(&r);
	assert_true(json_is_null(json_object_get(value, "backend")));
	assert_true(json_is_null(json_object_get(value, "carrier")));
	assert_true(json_is_null(json_object_get(value, "why")));
	assert_true(json_is_null(json_object_get(value, "connect_ms")));
	assert_true(json_is_null(json_object_get(value, "first_byte_ms")));
	json_decref(value);
}

/* A client chooses the name in its certificate. */
static void a_peers_words_cannot_forge_a_field(void **state)
{
	struct lb_flow_record r = record();
	json_t *value;

	r.certified = "x\",\"reason\":\"forged\n{";
	value = json_of(&r);
	assert_string_equal(json_string_value(json_object_get(value, "certified")), r.certified);
	assert_string_equal(json_string_value(json_object_get(value, "reason")), "done");
	json_decref(value);
}

static void the_longest_line_fits(void **state)
{
	char rule[383], certified[65], backend[261];
	struct lb_flow_record r = longest(rule, certified, backend);
	json_t *value = json_of(&r);

	assert_int_equal(json_string_length(json_object_get(value, "rule")), 382);
	assert_non_null(json_object_get(value, "unlogged"));
	json_decref(value);
	assert_non_null(strstr(line_of(&r, LB_LOG_TEXT), " unlogged=9223372036854775807"));
}

static void a_line_too_long_is_cut_not_overrun(void **state)
{
	struct lb_flow_record r = record();
	char line[64 + 1];

	for (int format = LB_LOG_TEXT; format <= LB_LOG_JSON; format++) {
		for (size_t size = 4; size <= 64; size++) {
			line[size] = '#';
			assert_true(lb_flow_line(&r, (enum lb_log_format)format, line, size) <
				    size);
			assert_int_equal(line[size], '#');
			assert_true(strlen(line) < size);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_tells_who_how_and_why),
		cmocka_unit_test(a_name_with_spaces_or_quotes_stays_one_word),
		cmocka_unit_test(json_has_the_same_under_the_same_names),
		cmocka_unit_test(both_forms_have_all_fields),
		cmocka_unit_test(what_is_not_there_is_a_dash_or_null),
		cmocka_unit_test(a_peers_words_cannot_forge_a_field),
		cmocka_unit_test(the_longest_line_fits),
		cmocka_unit_test(a_line_too_long_is_cut_not_overrun),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
