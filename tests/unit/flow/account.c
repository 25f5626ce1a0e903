/* SPDX-License-Identifier: MIT */
#include "flow/account.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "flow/session.h"

struct fixture {
	struct lb_flow_env env;
	struct lb_counters counters[1];
	struct lb_rule_config config;
	struct lb_backend_config backend_config;
	struct lb_rule rule;
	struct lb_backend backend;
	struct lb_session session;
};

static struct fixture fx;

static int setup(void **state)
{
	struct lb_session *s = &fx.session;

	memset(&fx, 0, sizeof(fx));
	assert_int_equal(lb_loop_new(&fx.env.carrier.loop), 0);
	fx.env.counters = fx.counters;
	fx.config.name = (char *)"web";
	fx.backend_config.addr = (char *)"10.0.0.1:80";
	fx.rule.config = &fx.config;
	fx.backend.config = &fx.backend_config;
	s->env = &fx.env;
	s->rule = s->route = &fx.rule;
	s->backend = &fx.backend;
	s->tries = 1;
	s->accept_ns = s->try_ns = lb_loop_now_ns(fx.env.carrier.loop);
	s->connected_ns = s->try_ns + 2500000;
	assert_int_equal(lb_addr_parse("192.0.2.1:4711", &s->client), 0);
	lb_carrier_init(&s->pair, &fx.env.carrier, LB_ACCELERATION_RELAY);
	return 0;
}

static int teardown(void **state)
{
	lb_loop_free(fx.env.carrier.loop);
	return 0;
}

static char written[LB_FLOW_LINE_MAX];

static void keep_line(struct lb_flow_env *env, const char *line, size_t len)
{
	assert_true(len < sizeof(written));
	memcpy(written, line, len);
	written[len] = '\0';
}

static void a_session_writes_the_line_of_its_flow(void **state)
{
	fx.env.log_line = keep_line;
	fx.session.carrying = true;
	fx.session.closed = true;
	fx.session.pair.dir[0].bytes = 78;
	fx.session.pair.dir[1].bytes = 153;
	lb_account_end(&fx.session, LB_REASON_IDLE);
	assert_non_null(strstr(written,
			       " rule=web client=192.0.2.1:4711 backend=10.0.0.1:80 "
			       "carrier=relay why=configured reason=idle up=78 down=153 "));
	assert_non_null(strstr(written, " connect_ms=2.5 first_byte_ms=- tries=1"));
}

static void a_flow_that_never_connected_says_so(void **state)
{
	fx.env.log_line = keep_line;
	fx.session.backend = NULL;
	fx.session.connected_ns = 0;
	lb_account_end(&fx.session, LB_REASON_CONNECT_FAILED);
	assert_non_null(strstr(written, " backend=- carrier=- why=- reason=connect_failed "));
	assert_non_null(strstr(written, " connect_ms=- "));
}

static void bytes_are_counted_once_however_often_they_are_folded(void **state)
{
	struct lb_session *s = &fx.session;

	s->carrying = true;
	s->pair.dir[0].bytes = 100;
	lb_account_fold(s);
	lb_account_fold(s);
	s->pair.dir[0].bytes = 150;
	s->pair.dir[1].bytes = 7;
	s->closed = true;
	lb_account_end(s, LB_REASON_IDLE);
	assert_int_equal(fx.counters[0].bytes[0], 150);
	assert_int_equal(fx.counters[0].bytes[1], 7);
	assert_int_equal(fx.counters[0].carrier_bytes[LB_CARRIER_RELAY], 157);
	assert_int_equal(fx.counters[0].ends[LB_REASON_IDLE], 1);
	assert_int_equal(fx.counters[0].flows[LB_CARRIER_RELAY], 1);
	assert_int_equal(fx.counters[0].whys[LB_WHY_CONFIGURED], 1);
}

/* Of whatever carrier: the pair says when it came. */
static void the_first_byte_is_counted_once_when_it_has_come(void **state)
{
	struct lb_session *s = &fx.session;

	fx.env.log_line = keep_line;
	s->carrying = true;
	lb_account_fold(s);
	assert_int_equal(fx.counters[0].first_byte_sum_us, 0);
	s->pair.first_ns = s->connected_ns + 7000000;
	lb_account_fold(s);
	lb_account_fold(s);
	s->closed = true;
	lb_account_end(s, LB_REASON_DONE);
	assert_int_equal(fx.counters[0].first_bytes[4], 1);
	assert_int_equal(fx.counters[0].first_byte_sum_us, 7000);
	assert_non_null(strstr(written, " first_byte_ms=7.0 "));
}

static void a_backend_that_says_nothing_has_no_first_byte(void **state)
{
	struct lb_session *s = &fx.session;

	fx.env.log_line = keep_line;
	s->carrying = true;
	s->pair.dir[0].bytes = 100;
	s->closed = true;
	lb_account_end(s, LB_REASON_IDLE);
	for (int i = 0; i <= LB_FIRST_BYTE_BUCKETS; i++)
		assert_int_equal(fx.counters[0].first_bytes[i], 0);
	assert_non_null(strstr(written, " first_byte_ms=- "));
}

/* The loop's time is that of its turn: a byte may be there before. */
static void a_first_byte_before_the_connect_took_no_time(void **state)
{
	struct lb_session *s = &fx.session;

	s->carrying = true;
	s->pair.first_ns = s->connected_ns - 1;
	lb_account_fold(s);
	assert_int_equal(fx.counters[0].first_bytes[0], 1);
	assert_int_equal(fx.counters[0].first_byte_sum_us, 0);
}

static void first_bytes_are_counted_by_their_time(void **state)
{
	struct lb_counters c = {0};

	for (int i = 0; i < LB_FIRST_BYTE_BUCKETS; i++) {
		lb_account_count_first_byte(&c, lb_first_byte_bounds_us[i]);
		lb_account_count_backend_first_byte(&fx.backend, lb_first_byte_bounds_us[i]);
		lb_account_count_first_byte(&c, lb_first_byte_bounds_us[i] + 1);
		lb_account_count_backend_first_byte(&fx.backend, lb_first_byte_bounds_us[i] + 1);
	}
	assert_memory_equal(c.first_bytes, fx.backend.counts.first_bytes, sizeof(c.first_bytes));
	assert_int_equal(c.first_byte_sum_us, fx.backend.counts.first_byte_sum_us);
	assert_int_equal(c.first_bytes[0], 1);
	for (int i = 1; i < LB_FIRST_BYTE_BUCKETS; i++)
		assert_int_equal(c.first_bytes[i], 2);
	assert_int_equal(c.first_bytes[LB_FIRST_BYTE_BUCKETS], 1);
}

static void connects_are_counted_by_their_time(void **state)
{
	struct lb_counters c = {0};

	lb_account_count_connect(&c, &fx.backend, 0);
	lb_account_count_connect(&c, &fx.backend, 100);
	lb_account_count_connect(&c, &fx.backend, 101);
	lb_account_count_connect(&c, &fx.backend, 10000000);
	lb_account_count_connect(&c, &fx.backend, 10000001);
	assert_int_equal(c.connects[0], 2);
	assert_int_equal(c.connects[1], 1);
	assert_int_equal(c.connects[LB_CONNECT_BUCKETS - 1], 1);
	assert_int_equal(c.connects[LB_CONNECT_BUCKETS], 1);
	assert_int_equal(c.connect_sum_us, 20000202);
	assert_memory_equal(c.connects, fx.backend.counts.connects, sizeof(c.connects));
	assert_int_equal(c.connect_sum_us, fx.backend.counts.connect_sum_us);
}

/* Of an earlier run: there is no rule, or no backend, that it is of. */
static void ends_say_what_was_cut_and_by_carrier(void **state)
{
	struct lb_ends e = {0}, sum = {.all = 1};

	lb_account_count_ends(&e, LB_CARRIER_RELAY, LB_REASON_DONE);
	lb_account_count_ends(&e, LB_CARRIER_GRAFT, LB_REASON_DRAINED);
	lb_account_count_ends(&e, LB_CARRIER_MAX_, LB_REASON_KILLED);
	lb_account_count_ends(&e, LB_CARRIER_RELAY, LB_REASON_RESET_BY_CLIENT);
	lb_account_add_ends(&sum, &e);
	assert_int_equal(sum.all, 5);
	assert_int_equal(sum.cut[LB_CARRIER_RELAY], 0);
	assert_int_equal(sum.cut[LB_CARRIER_GRAFT], 1);
	assert_int_equal(sum.cut[LB_CARRIER_MAX_], 1);
}

static void sums_are_sums(void **state)
{
	struct lb_counters a = {.connections = 1, .duration_sum_ms = 5};
	const struct lb_counters b = {.connections = 2, .duration_sum_ms = 6, .active = 3};

	lb_account_add(&a, &b);
	assert_int_equal(a.connections, 3);
	assert_int_equal(a.duration_sum_ms, 11);
	assert_int_equal(a.active, 3);
}

static void every_reason_has_a_word_of_its_own(void **state)
{
	for (int i = 0; i < LB_REASON_MAX_; i++) {
		assert_true(*lb_reason_word((enum lb_reason)i) &&
			    *lb_reason_help((enum lb_reason)i));
		for (int j = 0; j < i; j++)
			assert_string_not_equal(lb_reason_word((enum lb_reason)i),
						lb_reason_word((enum lb_reason)j));
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_session_writes_the_line_of_its_flow),
		TEST(a_flow_that_never_connected_says_so),
		TEST(bytes_are_counted_once_however_often_they_are_folded),
		TEST(the_first_byte_is_counted_once_when_it_has_come),
		TEST(a_backend_that_says_nothing_has_no_first_byte),
		TEST(a_first_byte_before_the_connect_took_no_time),
		TEST(first_bytes_are_counted_by_their_time),
		TEST(connects_are_counted_by_their_time),
		TEST(ends_say_what_was_cut_and_by_carrier),
		TEST(sums_are_sums),
		TEST(every_reason_has_a_word_of_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
