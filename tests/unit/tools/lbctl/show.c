/* SPDX-License-Identifier: MIT */
/* Replies as people see them: one real one of each kind, and one of a daemon that says nothing. */
#include "tools/lbctl/show.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

typedef int (*show_fn)(const json_t *reply, FILE *out);

static void shows(show_fn show, const char *json, const char *wanted)
{
	json_t *reply = json_loads(json, 0, NULL);
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	assert_non_null(reply);
	assert_int_equal(show(reply, out), 0);
	fclose(out);
	assert_string_equal(text, wanted);
	free(text);
	json_decref(reply);
}

static void a_status_tells_of_the_daemon_and_its_rules(void **state)
{
	shows(lb_show_status,
	      "{\"ok\":true,\"version\":\"1.0\",\"pid\":7,\"state\":\"serving\",\"uptime_ms\":"
	      "61000,"
	      "\"workers\":2,\"log_level\":\"info\",\"flows\":12,\"access_log_dropped\":3,"
	      "\"carriers\":{\"graft\":{\"in_service\":true,\"flows\":2,\"flows_max\":65536},"
	      "\"sockmap\":{\"in_service\":false,\"why\":\"no_cap\"}},\"rules\":[{\"rule\":\"web\","
	      "\"listen\":\"[::]:80\",\"flows\":12,\"connections\":1234567,\"unserved\":0,"
	      "\"queued\":1,\"bytes_up\":5,\"bytes_down\":6000,\"backends\":3,"
	      "\"backends_eligible\":2}]}",
	      "layer4-lb 1.0, pid 7, serving for 1m01s\n"
	      "12 flows, 2 workers, log level info\n"
	      "graft: in service, 2 of 65536 flows\n"
	      "sockmap: not in service (no_cap)\n"
	      "access log: 3 lines lost\n"
	      "\n"
	      "RULE  LISTEN   BACKENDS  FLOWS  QUEUED  CONNECTIONS  UNSERVED  UP  DOWN\n"
	      "web   [::]:80       2/3     12       1         1.2M         0   5  6.0k\n");
}

static void a_flow_shows_what_is_known_of_it(void **state)
{
	shows(lb_show_flows,
	      "{\"ok\":true,\"matched\":9,\"shown\":2,\"flows\":["
	      "{\"id\":\"00000000000000aa\",\"client\":\"10.0.0.1:5\",\"rule\":\"web\","
	      "\"backend\":\"b:80\",\"state\":\"carried\",\"carrier\":\"relay\",\"why\":\"short\","
	      "\"age_ms\":1500,\"idle_ms\":3,\"bytes_up\":1,\"bytes_down\":2000,\"rate_up\":0,"
	      "\"rate_down\":1333,\"backlog_up\":0,\"backlog_down\":70000,\"rtt_client_us\":90,"
	      "\"rtt_backend_us\":1200,\"retransmissions_client\":1,"
	      "\"retransmissions_backend\":0},"
	      "{\"id\":\"00000000000000bb\",\"client\":\"10.0.0.1:6\",\"rule\":\"web\","
	      "\"backend\":null,\"state\":\"queued\",\"carrier\":null,\"why\":null,\"age_ms\":1,"
	      "\"idle_ms\":1,\"bytes_up\":0,\"bytes_down\":0,\"rate_up\":0,\"rate_down\":0,"
	      "\"backlog_up\":null,\"backlog_down\":null,\"rtt_client_us\":null,"
	      "\"rtt_backend_us\":null}]}",
	      "CLIENT      BACKEND  RULE  CARRIER  WHY     AGE  IDLE  UP  DOWN  UP/S  DOWN/S       "
	      "  "
	      "RTT  RETR  BACKLOG  FLOW\n"
	      "10.0.0.1:5  b:80     web   relay    short  1.5s   3ms   1  2.0k     0    1.3k  "
	      "90us/1.2ms   1/0    0/70k  00000000000000aa\n"
	      "10.0.0.1:6  -        web   queued   -       1ms   1ms   0     0     0       0       "
	      "  "
	      "  -     -        -  00000000000000bb\n"
	      "2 of 9 flows; --limit shows more\n");
}

static void a_drain_shows_its_forecast(void **state)
{
	shows(lb_show_backends,
	      "{\"ok\":true,\"backends\":["
	      "{\"rule\":\"web\",\"backend\":\"a:80\",\"state\":\"up\",\"weight\":5,"
	      "\"share_percent\":100,\"flows\":1,\"limit\":0,\"connections\":2,"
	      "\"connect_failures\":0,\"checks\":9,\"check_failures\":1,\"bytes_up\":0,"
	      "\"checked_by\":\"lb-2\",\"bytes_down\":0,\"drain\":null},"
	      "{\"rule\":\"web\",\"backend\":\"b:80\",\"state\":\"draining\",\"weight\":5,"
	      "\"share_percent\":40,\"flows\":12,\"limit\":20,\"connections\":2,"
	      "\"connect_failures\":0,\"checks\":0,\"check_failures\":0,\"bytes_up\":0,"
	      "\"bytes_down\":0,\"drain\":{\"flows\":12,\"idle\":3,\"bytes_per_second\":1234567,"
	      "\"cut_in_ms\":25000,\"gone_in_ms\":40000}},"
	      "{\"rule\":\"web\",\"backend\":\"c:80\",\"state\":\"draining\",\"drain\":"
	      "{\"flows\":0,\"idle\":0,\"bytes_per_second\":0}}]}",
	      "RULE  BACKEND  STATE      WEIGHT  FLOWS  LIMIT  CONNECTIONS  FAILED  "
	      "CHECKS FAILED/ALL  CHECKED BY  UP  DOWN  DRAIN\n"
	      "web   a:80     up              5      1      -            2       0           "
	      "     1/9  lb-2         0     0  -\n"
	      "web   b:80     draining  5 (40%)     12     20            2       0           "
	      "     0/0  -            0     0  12 flows, 3 idle, 1.2M/s, cut in 25s, all gone in "
	      "40s\n"
	      "web   c:80     draining        -      -      -            -       -           "
	      "       -  -            -     -  done\n");
}

static void a_reply_that_says_nothing_is_shown_all_the_same(void **state)
{
	static const show_fn all[] = {lb_show_status,  lb_show_backends, lb_show_flows,
				      lb_show_drain,   lb_show_weight,   lb_show_log,
				      lb_show_metrics, lb_show_version,  lb_show_nothing};
	static const char *const odd[] = {"{}", "{\"flows\":[{}],\"backends\":[[]],\"rules\":7}",
					  "{\"flows\":{},\"backends\":null,\"rules\":[\"x\"]}"};

	for (size_t i = 0; i < LB_ARRAY_SIZE(all); i++) {
		for (size_t k = 0; k < LB_ARRAY_SIZE(odd); k++) {
			json_t *reply = json_loads(odd[k], 0, NULL);
			FILE *out = fopen("/dev/null", "w");

			assert_int_equal(all[i](reply, out), 0);
			fclose(out);
			json_decref(reply);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_status_tells_of_the_daemon_and_its_rules),
		cmocka_unit_test(a_flow_shows_what_is_known_of_it),
		cmocka_unit_test(a_drain_shows_its_forecast),
		cmocka_unit_test(a_reply_that_says_nothing_is_shown_all_the_same),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
