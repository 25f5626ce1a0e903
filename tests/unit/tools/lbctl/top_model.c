/* SPDX-License-Identifier: MIT */
/* Samples go in, keys are pressed, and the frame tells what its user sees. */
#include "tools/lbctl/top_model.h"

#include <errno.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "control/admin_request.h"
#include "tools/lbctl/top_frame.h"
#include "tools/lbctl/top_rows.h"

struct numbers {
	int pid, uptime_ms, connections, bytes_up, denied;
	const char *state; /* of backend b:80 */
};

static json_t *overview(const struct numbers *n)
{
	char text[4096];

	snprintf(
		text, sizeof(text),
		"{\"ok\":true,\"version\":\"1.0\",\"instance\":null,\"pid\":%d,\"state\":"
		"\"serving\","
		"\"start_ms\":%d,\"uptime_ms\":%d,\"flows\":7,\"reload\":{\"generation\":3,\"last_"
		"applied\":true},"
		"\"total\":{\"connections\":%d,\"bytes_up\":%d,\"bytes_down\":0,"
		"\"refusals\":{\"acl_denied\":%d}},\"carriers\":["
		"{\"carrier\":\"relay\",\"in_service\":true,\"why\":\"none\",\"flows\":null,"
		"\"flows_max\":null,\"bytes\":%d},"
		"{\"carrier\":\"graft\",\"in_service\":false,\"why\":\"no_cap\",\"flows\":0,"
		"\"flows_max\":0,\"bytes\":0}],\"rules\":["
		"{\"rule\":\"web\",\"listen\":\"10.0.0.1:80\",\"flows\":7,\"queued\":0,"
		"\"backends\":2,\"backends_eligible\":%d,\"connections\":%d,\"bytes_up\":%d,"
		"\"bytes_down\":0,\"refusals\":{\"acl_denied\":%d}},"
		"{\"rule\":\"mail\",\"listen\":\"10.0.0.1:25\",\"flows\":0,\"queued\":0,"
		"\"backends\":1,\"backends_eligible\":1,\"connections\":0,\"bytes_up\":0,"
		"\"bytes_down\":0,\"refusals\":{}}],\"backends\":["
		"{\"rule\":\"web\",\"backend\":\"a:80\",\"address\":\"10.0.1.1:80\",\"state\":"
		"\"up\","
		"\"eligible\":true,\"flows\":5,\"connections\":%d,\"bytes_up\":0,\"bytes_down\":0},"
		"{\"rule\":\"web\",\"backend\":\"b:80\",\"address\":\"10.0.1.2:80\",\"state\":\"%"
		"s\","
		"\"eligible\":true,\"flows\":2,\"connections\":0,\"bytes_up\":0,\"bytes_down\":0},"
		"{\"rule\":\"mail\",\"backend\":\"a:80\",\"address\":\"10.0.1.1:80\","
		"\"state\":\"up\",\"eligible\":true,\"flows\":0},"
		"{\"rule\":\"mail/in\",\"of\":\"mail\",\"backend\":\"c:80\",\"address\":"
		"\"10.0.1.3:80\",\"state\":\"up\",\"eligible\":true,\"flows\":1}],"
		"\"left_out\":0}",
		n->pid, n->pid, n->uptime_ms, n->connections, n->bytes_up, n->denied, n->bytes_up,
		n->state ? 1 : 2, n->connections, n->bytes_up, n->denied, n->connections,
		n->state ? n->state : "up");
	return json_loads(text, 0, NULL);
}

static json_t *flow(const char *id, const char *client, const char *rule, const char *backend,
		    int rate_down)
{
	return json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:s,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:i,s:n}",
			 "id", id, "client", client, "rule", rule, "backend", backend, "state",
			 "carried", "carrier", "relay", "why", "short", "age_ms", 90000, "idle_ms",
			 5, "bytes_up", 1, "bytes_down", 1000, "rate_up", 2, "rate_down", rate_down,
			 "backlog_up", 3, "backlog_down", 4, "rtt_client_us", 85, "rtt_backend_us");
}

static json_t *flows(void)
{
	return json_pack("{s:b,s:i,s:i,s:[o,o,o,o]}", "ok", 1, "matched", 9, "shown", 4, "flows",
			 flow("aa", "10.9.0.1:1001", "web", "a:80", 500),
			 flow("bb", "10.9.0.2:1002", "web", "b:80", 30000),
			 flow("cc", "[fd00::1]:1003", "mail", "a:80", 7),
			 flow("dd", "10.9.0.1:1004", "web", "a:80", 40000));
}

static const struct numbers first = {.pid = 1, .uptime_ms = 1000, .connections = 10};
static const struct numbers second = {
	.pid = 1, .uptime_ms = 3000, .connections = 50, .bytes_up = 4000, .denied = 3};

static int setup(void **state)
{
	static struct lb_top t;

	if (!setlocale(LC_CTYPE, "C.UTF-8"))
		return -1;
	lb_top_init(&t);
	*state = &t;
	return lb_top_take_overview(&t, overview(&first)) || lb_top_take_flows(&t, flows()) ||
	       lb_top_take_overview(&t, overview(&second));
}

static int teardown(void **state)
{
	lb_top_fini(*state);
	return 0;
}

/* The line <line> of what is on a terminal of 80x24. */
static const char *seen(struct lb_top *t, size_t line)
{
	static char text[512];
	struct lb_top_frame frame;

	assert_int_equal(lb_top_frame_draw(&frame, t, NULL, 80, 24), 0);
	assert_int_equal(frame.count, 24);
	snprintf(text, sizeof(text), "%s", frame.lines[line].text);
	lb_top_frame_fini(&frame);
	for (size_t len = strlen(text); len && text[len - 1] == ' '; len--)
		text[len - 1] = '\0';
	return text;
}

#define TABS  4
#define PLACE 5
#define HEAD  6
#define ROW   7

static void rates_are_differences_of_two_looks(void **state)
{
	struct lb_top *t = *state;

	assert_string_equal(seen(t, 0), "layer4-lb 1.0, serving for 3.0s, generation 3");
	assert_string_equal(seen(t, 1),
			    "7 flows, 20 connections/s, 2.0k/s up, 0/s down, 1.5 refused/s");
	assert_string_equal(seen(t, 2), "carriers: relay 2.0k/s, graft off (no_cap)");
	assert_string_equal(seen(t, 3), "refused: acl_denied 1.5/s");
	assert_string_equal(seen(t, HEAD), "RULE             BACKENDS FLOWS QUEUE CONN/S REFUSED/S "
					   "  UP/S DOWN/S");
	assert_string_equal(seen(t, ROW + 1), "web                   2/2     7     0     20       "
					      "1.5   2.0k      0");
}

static void without_two_looks_at_one_daemon_there_are_none(void **state)
{
	static const struct numbers others[] = {
		{.pid = 2, .uptime_ms = 5000, .connections = 90},
		{.pid = 1, .uptime_ms = 2000, .connections = 90},
		{.pid = 1, .uptime_ms = 3000, .connections = 90},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(others); i++) {
		struct lb_top t;

		lb_top_init(&t);
		assert_int_equal(lb_top_take_overview(&t, overview(&second)), 0);
		assert_int_equal(lb_top_take_overview(&t, overview(&others[i])), 0);
		assert_string_equal(seen(&t, 1),
				    "7 flows, - connections/s, -/s up, -/s down, - refused/s");
		lb_top_fini(&t);
	}
}

static void a_counter_that_went_back_has_no_rate(void **state)
{
	struct lb_top *t = *state;
	const struct numbers less = {
		.pid = 1, .uptime_ms = 5000, .connections = 5, .bytes_up = 8000};

	assert_int_equal(lb_top_take_overview(t, overview(&less)), 0);
	assert_string_equal(seen(t, 1),
			    "7 flows, - connections/s, 2.0k/s up, 0/s down, - refused/s");
}

static void what_is_shown_stays_when_the_daemon_goes(void **state)
{
	struct lb_top *t = *state;
	struct lb_top_frame frame;

	lb_top_forget(t);
	assert_string_equal(seen(t, ROW + 1),
			    "web                   2/2     7     0      -         "
			    "-      -      -");
	assert_int_equal(lb_top_frame_draw(&frame, t, "it is gone", 80, 24), 0);
	assert_string_equal(frame.lines[23].text, "it is gone");
	assert_int_equal(frame.lines[23].look, LB_TOP_ALARM);
	lb_top_frame_fini(&frame);
}

static void one_goes_from_a_rule_to_one_flow_and_back(void **state)
{
	struct lb_top *t = *state;

	lb_top_press(t, LB_TOP_KEY_DOWN); /* mail is first: nothing moves downwards */
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_string_equal(seen(t, PLACE), "by DOWN/S; rule web");
	assert_string_equal(seen(t, ROW),
			    "a:80                  web      up           5     20      "
			    "  -      0      0");
	assert_non_null(strstr(seen(t, ROW + 1), "b:80"));
	assert_string_equal(seen(t, ROW + 2), "");
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_string_equal(seen(t, PLACE),
			    "by DOWN/S; the fastest 4 of 9 flows; rule web; backend a:80");
	assert_non_null(strstr(seen(t, ROW), "10.9.0.1:1004"));
	assert_non_null(strstr(seen(t, ROW + 1), "10.9.0.1:1001"));
	assert_string_equal(seen(t, ROW + 2), "");
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_string_equal(seen(t, PLACE), "flow dd; rule web; backend a:80");
	assert_string_equal(seen(t, PLACE + 1), "client                    10.9.0.1:1004");
	assert_string_equal(seen(t, PLACE + 5), "carrier                   relay");
	assert_string_equal(seen(t, PLACE + 6), "why not a faster one      short");
	assert_string_equal(seen(t, PLACE + 11), "backlog up/down           3/4");
	/* One of both is not known. */
	assert_string_equal(seen(t, PLACE + 12), "RTT client/backend        -");
	for (int i = 0; i < 3; i++)
		lb_top_press(t, LB_TOP_KEY_BACK);
	assert_string_equal(seen(t, PLACE), "by DOWN/S");
	lb_top_press(t, LB_TOP_KEY_BACK);
	assert_int_equal(t->depth, 0);
}

static void a_rule_leads_to_its_routes(void **state)
{
	struct lb_top *t = *state;
	json_t *row = flow("ee", "10.9.0.5:1005", "mail/in", "c:80", 9), *reply;

	json_object_set_new(row, "of", json_string("mail"));
	reply = json_pack("{s:b,s:i,s:i,s:[o,o]}", "ok", 1, "matched", 2, "shown", 2, "flows", row,
			  flow("cc", "[fd00::1]:1003", "mail", "a:80", 7));
	assert_int_equal(lb_top_take_flows(t, reply), 0);
	lb_top_press(t, LB_TOP_KEY_ENTER); /* mail is first */
	assert_non_null(strstr(seen(t, ROW), "a:80"));
	assert_non_null(strstr(seen(t, ROW + 1), "c:80                  mail/in "));
	assert_string_equal(seen(t, ROW + 2), "");
	/* All flows of the rule .. */
	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_FLOWS);
	assert_non_null(strstr(seen(t, ROW), "10.9.0.5:1005"));
	assert_non_null(strstr(seen(t, ROW + 1), "[fd00::1]:1003"));
	/* .. or those of one route. */
	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_BACKENDS);
	lb_top_press(t, LB_TOP_KEY_DOWN);
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_non_null(strstr(seen(t, PLACE), "rule mail/in; backend c:80"));
	assert_non_null(strstr(seen(t, ROW), "10.9.0.5:1005"));
	assert_string_equal(seen(t, ROW + 1), "");
}

static void flows_are_asked_for_where_one_is(void **state)
{
	struct lb_top *t = *state;
	struct lb_admin_request r;
	char why[LB_ADMIN_WHY_MAX];
	struct lb_ask a;

	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_FLOWS);
	lb_top_press(t, LB_TOP_KEY_ENTER); /* dd, the fastest */
	lb_top_ask_flows(t, &a, 1000);
	assert_int_equal(lb_admin_request_parse(&r, a.text, a.len, why), 0);
	assert_int_equal(r.sort, LB_ADMIN_SORT_RATE);
	assert_int_equal(r.over_ms, 1000);
	assert_int_equal(r.client_port, 1004);
	lb_top_press(t, LB_TOP_KEY_BACK);
	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_CLIENTS);
	lb_top_press(t, LB_TOP_KEY_END);
	lb_top_press(t, LB_TOP_KEY_ENTER);
	lb_top_ask_flows(t, &a, 500);
	assert_int_equal(lb_admin_request_parse(&r, a.text, a.len, why), 0);
	assert_true(r.by_client && r.client.family == AF_INET6 && !r.client_port);
	assert_null(r.rule);
}

static void clients_are_the_sums_of_their_flows(void **state)
{
	struct lb_top *t = *state;

	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_CLIENTS);
	assert_string_equal(seen(t, ROW),
			    "10.9.0.1                   2    4.0    40k      2   2.0k  "
			    "    14   1m30s");
	assert_non_null(strstr(seen(t, ROW + 1), "10.9.0.2"));
	assert_non_null(strstr(seen(t, ROW + 2), "fd00::1 "));
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_non_null(strstr(seen(t, ROW), "10.9.0.1:1004"));
	assert_non_null(strstr(seen(t, ROW + 1), "10.9.0.1:1001"));
	assert_string_equal(seen(t, ROW + 2), "");
}

static void refusals_are_shown_by_reason_and_rule(void **state)
{
	struct lb_top *t = *state;

	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_REFUSALS);
	assert_string_equal(seen(t, ROW),
			    "acl_denied           web                   1.5        3");
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_string_equal(seen(t, PLACE), "by DOWN/S; rule web");
}

static void carriers_have_their_shares(void **state)
{
	struct lb_top *t = *state;

	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_CARRIERS);
	assert_string_equal(seen(t, ROW),
			    "relay    yes             -        -    2.0k   100%   4.0k   100%");
	assert_string_equal(seen(t, ROW + 1),
			    "graft    no_cap          0        0       0     0%      0     0%");
}

static void rows_are_sorted_by_any_column_both_ways(void **state)
{
	struct lb_top *t = *state;

	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_FLOWS);
	for (int i = 0; i < 4; i++)
		lb_top_press(t, LB_TOP_KEY_SORT); /* BACKLOG comes after RETR, CLIENT after it */
	assert_non_null(strstr(seen(t, PLACE), "by CLIENT"));
	assert_non_null(strstr(seen(t, ROW), "10.9.0.1:1001"));
	lb_top_press(t, LB_TOP_KEY_REVERSE);
	assert_non_null(strstr(seen(t, ROW), "[fd00::1]:1003"));
	lb_top_press(t, LB_TOP_KEY_SORT_BACK);
	assert_non_null(strstr(seen(t, PLACE), "by BACKLOG"));
	/* What is not known is last, both ways: of equals the key decides. */
	lb_top_press(t, LB_TOP_KEY_SORT_BACK);
	assert_non_null(strstr(seen(t, PLACE), "by RETR"));
	assert_non_null(strstr(seen(t, ROW), "10.9.0.1:1001"));
}

static void the_selection_follows_its_row(void **state)
{
	struct lb_top *t = *state;
	json_t *reply = flows();

	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_FLOWS);
	lb_top_press(t, LB_TOP_KEY_DOWN); /* bb */
	json_object_set_new(json_array_get(json_object_get(reply, "flows"), 1), "rate_down",
			    json_integer(0));
	assert_int_equal(lb_top_take_flows(t, reply), 0);
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_string_equal(lb_top_here(t)->flow, "bb");
}

static void a_flow_that_has_ended_says_so(void **state)
{
	struct lb_top *t = *state;

	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_FLOWS);
	lb_top_press(t, LB_TOP_KEY_ENTER);
	assert_int_equal(lb_top_take_flows(t, json_loads("{\"ok\":true,\"flows\":[]}", 0, NULL)),
			 0);
	assert_non_null(strstr(seen(t, PLACE + 1), "It has ended"));
	/* And whoever asks for another table leaves it. */
	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_RULES);
	assert_int_equal(lb_top_here(t)->view, LB_TOP_RULES);
	assert_int_equal(t->depth, 0);
}

static void keys_change_what_they_are_for(void **state)
{
	struct lb_top *t = *state;

	for (int i = 0; i < 9; i++)
		lb_top_press(t, LB_TOP_KEY_SLOWER);
	assert_int_equal(t->interval_ms, LB_TOP_INTERVAL_MAX);
	for (int i = 0; i < 9; i++)
		lb_top_press(t, LB_TOP_KEY_FASTER);
	assert_int_equal(t->interval_ms, LB_TOP_INTERVAL_MIN);
	t->interval_ms = 3000; /* as somebody said on the command line */
	lb_top_press(t, LB_TOP_KEY_SLOWER);
	assert_int_equal(t->interval_ms, 5000);
	t->interval_ms = 3000;
	lb_top_press(t, LB_TOP_KEY_FASTER);
	assert_int_equal(t->interval_ms, 2000);
	lb_top_press(t, LB_TOP_KEY_PAUSE);
	assert_non_null(strstr(seen(t, TABS), "PAUSED"));
	lb_top_press(t, LB_TOP_KEY_HELP);
	assert_non_null(strstr(seen(t, PLACE + 1), "rules, backends, flows"));
	lb_top_press(t, LB_TOP_KEY_PAUSE); /* whatever it is, it closes the help alone */
	assert_true(t->paused && !t->help);
	lb_top_press(t, LB_TOP_KEY_PREVIOUS);
	assert_non_null(strstr(seen(t, TABS), "[6 Refusals]"));
	lb_top_press(t, LB_TOP_KEY_NEXT);
	assert_non_null(strstr(seen(t, TABS), "[1 Rules]"));
	lb_top_press(t, LB_TOP_KEY_QUIT);
	assert_true(t->quit);
}

static void what_is_no_reply_changes_nothing(void **state)
{
	static const char *const odd[] = {"{}", "[]", "{\"ok\":false,\"error\":\"x\"}",
					  "{\"ok\":true}", "{\"ok\":true,\"total\":7}"};
	struct lb_top *t = *state;

	for (size_t i = 0; i < LB_ARRAY_SIZE(odd); i++) {
		assert_int_equal(lb_top_take_overview(t, json_loads(odd[i], 0, NULL)), -EINVAL);
		assert_int_equal(lb_top_take_flows(t, json_loads(odd[i], 0, NULL)), -EINVAL);
	}
	assert_non_null(strstr(seen(t, ROW + 1), "web"));
}

static void any_sample_is_shown_at_any_size(void **state)
{
	static const char *const odd[] = {
		"{\"ok\":true,\"total\":{}}",
		"{\"ok\":true,\"total\":{},\"rules\":[{}],\"backends\":[7,null],\"carriers\":[[]]}",
		"{\"ok\":true,\"total\":{\"refusals\":{\"x\":\"y\"}},\"rules\":{},\"backends\":"
		"\"z\"}",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(odd); i++) {
		struct lb_top t;

		lb_top_init(&t);
		for (int look = 0; look < 2; look++)
			assert_int_equal(lb_top_take_overview(&t, json_loads(odd[i], 0, NULL)), 0);
		assert_int_equal(
			lb_top_take_flows(&t, json_loads("{\"flows\":[{},7,{}]}", 0, NULL)), 0);
		for (unsigned int key = 0; key < LB_TOP_KEY_VIEW + LB_TOP_TABLES_; key++) {
			lb_top_press(&t, key);
			for (size_t size = 0; size < 130; size += 13) {
				struct lb_top_frame frame;

				assert_int_equal(lb_top_frame_draw(&frame, &t, NULL, size, size),
						 0);
				assert_true(frame.count <= size);
				lb_top_frame_fini(&frame);
			}
		}
		lb_top_fini(&t);
	}
}

static void many_rows_scroll_and_the_last_one_is_reached(void **state)
{
	json_t *list = json_array();
	struct lb_top *t = *state;

	for (int i = 0; i < 100; i++) {
		char id[16], client[32];

		snprintf(id, sizeof(id), "%03d", i);
		snprintf(client, sizeof(client), "10.9.0.1:%d", 2000 + i);
		json_array_append_new(list, flow(id, client, "web", "a:80", 1000 - i));
	}
	assert_int_equal(lb_top_take_flows(t, json_pack("{s:o}", "flows", list)), 0);
	lb_top_press(t, LB_TOP_KEY_VIEW + LB_TOP_FLOWS);
	assert_non_null(strstr(seen(t, ROW), ":2000"));
	assert_int_equal(t->page, 16);
	lb_top_press(t, LB_TOP_KEY_PAGE_DOWN);
	assert_non_null(strstr(seen(t, ROW), ":2000"));
	lb_top_press(t, LB_TOP_KEY_DOWN);
	assert_non_null(strstr(seen(t, ROW), ":2001"));
	lb_top_press(t, LB_TOP_KEY_END);
	assert_non_null(strstr(seen(t, ROW + 15), ":2099"));
	lb_top_press(t, LB_TOP_KEY_HOME);
	assert_non_null(strstr(seen(t, ROW), ":2000"));
}

static void all_tables_fit_into_one_text(void **state)
{
	struct lb_top_frame frame;
	int heads = 0;

	assert_int_equal(lb_top_frame_draw_all(&frame, *state, 120, 2), 0);
	for (size_t i = 0; i < frame.count; i++)
		heads += frame.lines[i].look == LB_TOP_HEAD;
	assert_int_equal(heads, LB_TOP_TABLES_);
	/* Four of the daemon; of each table a blank line, a head and two rows, of refusals one. */
	assert_int_equal(frame.count, 4 + LB_TOP_TABLES_ * 4 - 1);
	lb_top_frame_fini(&frame);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(rates_are_differences_of_two_looks),
		CASE(without_two_looks_at_one_daemon_there_are_none),
		CASE(a_counter_that_went_back_has_no_rate),
		CASE(what_is_shown_stays_when_the_daemon_goes),
		CASE(one_goes_from_a_rule_to_one_flow_and_back),
		CASE(a_rule_leads_to_its_routes),
		CASE(flows_are_asked_for_where_one_is),
		CASE(clients_are_the_sums_of_their_flows),
		CASE(refusals_are_shown_by_reason_and_rule),
		CASE(carriers_have_their_shares),
		CASE(rows_are_sorted_by_any_column_both_ways),
		CASE(the_selection_follows_its_row),
		CASE(a_flow_that_has_ended_says_so),
		CASE(keys_change_what_they_are_for),
		CASE(what_is_no_reply_changes_nothing),
		CASE(any_sample_is_shown_at_any_size),
		CASE(many_rows_scroll_and_the_last_one_is_reached),
		CASE(all_tables_fit_into_one_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
