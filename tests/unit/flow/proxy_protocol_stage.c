/* SPDX-License-Identifier: MIT */
/* Two socket pairs stand for the two connections: client <-> leg 0, leg 1 <-> backend. */
#include "flow/proxy_protocol_stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#define HEADER "PROXY TCP4 192.0.2.77 198.51.100.5 5 443\r\n"

struct fixture {
	struct lb_flow_env env;
	struct lb_rule_config config;
	struct lb_rule rule;
	struct lb_session s;
	struct lb_prefix trusted;
	int peer[2]; /* the client's end, the backend's end */
};

static struct fixture fx;

static int setup(void **state)
{
	int sv[2];

	memset(&fx, 0, sizeof(fx));
	assert_int_equal(lb_loop_new(&fx.env.carrier.loop), 0);
	fx.env.carrier.scratch = malloc(LB_SCRATCH_BYTES);
	assert_non_null(fx.env.carrier.scratch);
	assert_int_equal(lb_prefix_parse("203.0.113.0/24", &fx.trusted), 0);
	fx.config.accept_proxy_protocol = &fx.trusted;
	fx.config.accept_proxy_protocol_count = 1;
	fx.config.proxy_protocol = LB_PROXY_PROTOCOL_V1;
	fx.config.timeouts.handshake_ms = fx.config.timeouts.connect_ms = 1000;
	fx.rule.config = &fx.config;
	fx.s.env = &fx.env;
	fx.s.rule = &fx.rule;
	assert_int_equal(lb_addr_parse("203.0.113.9:4000", &fx.s.client), 0);
	lb_timer_init(&fx.s.timer, NULL);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), 0);
		fx.peer[i] = sv[0];
		fx.s.pair.leg[i].watch.fd = sv[1];
	}
	return 0;
}

static int teardown(void **state)
{
	lb_timer_stop(fx.env.carrier.loop, &fx.s.timer);
	for (int i = 0; i < 2; i++) {
		close(fx.peer[i]);
		close(fx.s.pair.leg[i].watch.fd);
	}
	lb_loop_free(fx.env.carrier.loop);
	free(fx.env.carrier.scratch);
	return 0;
}

static void say(const char *text)
{
	assert_int_equal(send(fx.peer[0], text, strlen(text), 0), strlen(text));
}

static void assert_client(const char *want)
{
	char buf[LB_ADDR_STR_MAX];

	assert_string_equal(lb_addr_format(&fx.s.client, buf), want);
}

static void a_header_leaves_what_follows_it_in_the_socket(void **state)
{
	char buf[64];

	assert_int_equal(lb_proxy_protocol_in_enter(&fx.s), LB_STEP_WAIT);
	assert_true(fx.s.timer.armed);
	say("PROXY TCP4 192.0.2.77 ");
	assert_int_equal(lb_proxy_protocol_in_event(&fx.s, LB_LEG_CLIENT, EPOLLIN), LB_STEP_WAIT);
	assert_client("203.0.113.9:4000");
	say("198.51.100.5 5 443\r\npayload");
	assert_int_equal(lb_proxy_protocol_in_event(&fx.s, LB_LEG_CLIENT, EPOLLIN), LB_STEP_NEXT);
	assert_client("192.0.2.77:5");
	assert_true(fx.s.client_named && fx.s.pair.leg[LB_LEG_CLIENT].readable);
	assert_int_equal(fx.s.pair.leg[LB_LEG_CLIENT].lead_in, sizeof(HEADER) - 1);
	assert_false(fx.s.timer.armed);
	assert_int_equal(recv(fx.s.pair.leg[LB_LEG_CLIENT].watch.fd, buf, sizeof(buf), 0), 7);
	assert_memory_equal(buf, "payload", 7);
}

static void a_mapped_peer_is_trusted_as_its_ipv4_self(void **state)
{
	lb_addr_map(&fx.s.client);
	say(HEADER);
	assert_int_equal(lb_proxy_protocol_in_enter(&fx.s), LB_STEP_NEXT);
}

static void a_stranger_is_refused_unheard(void **state)
{
	assert_int_equal(lb_addr_parse("203.0.114.1:4000", &fx.s.client), 0);
	say(HEADER);
	assert_int_equal(lb_proxy_protocol_in_enter(&fx.s), LB_STEP_CLOSE);
	assert_int_equal(fx.s.reason, LB_REASON_PROXY_UNTRUSTED);
	assert_client("203.0.114.1:4000");
	assert_int_equal(fx.s.pair.leg[LB_LEG_CLIENT].lead_in, 0);
}

static void an_end_before_the_header_is_whole_is_none(void **state)
{
	say("PROXY TCP4 ");
	assert_int_equal(lb_proxy_protocol_in_enter(&fx.s), LB_STEP_WAIT);
	shutdown(fx.peer[0], SHUT_WR);
	assert_int_equal(lb_proxy_protocol_in_event(&fx.s, LB_LEG_CLIENT, EPOLLIN | EPOLLRDHUP),
			 LB_STEP_CLOSE);
	assert_int_equal(fx.s.reason, LB_REASON_PROXY_HEADER);
}

static void a_header_with_the_end_right_behind_it_is_one(void **state)
{
	say(HEADER);
	shutdown(fx.peer[0], SHUT_WR);
	assert_int_equal(lb_proxy_protocol_in_enter(&fx.s), LB_STEP_NEXT);
}

static void a_client_that_is_reset_is_gone(void **state)
{
	assert_int_equal(lb_proxy_protocol_in_enter(&fx.s), LB_STEP_WAIT);
	assert_int_equal(lb_proxy_protocol_in_event(&fx.s, LB_LEG_CLIENT, EPOLLIN | EPOLLERR),
			 LB_STEP_CLOSE);
	assert_int_equal(fx.s.reason, LB_REASON_RESET_BY_CLIENT);
}

static void time_is_up(void **state)
{
	assert_int_equal(lb_proxy_protocol_in_enter(&fx.s), LB_STEP_WAIT);
	assert_int_equal(lb_proxy_protocol_in_timeout(&fx.s), LB_STEP_CLOSE);
	assert_int_equal(fx.s.reason, LB_REASON_HANDSHAKE_TIMEOUT);
}

static void name_client(void)
{
	assert_int_equal(lb_addr_parse("192.0.2.77:5", &fx.s.client), 0);
	assert_int_equal(lb_addr_parse("198.51.100.5:443", &fx.s.destination), 0);
}

/* What the backend has got after <skip> bytes of something else. */
static void assert_backend_got(size_t skip, const char *want)
{
	static char got[4 << 20];
	ssize_t n;
	size_t have = 0;

	while ((n = recv(fx.peer[1], got + have, sizeof(got) - have, 0)) > 0)
		have += (size_t)n;
	assert_int_equal(have, skip + strlen(want));
	assert_memory_equal(got + skip, want, strlen(want));
}

static void the_backend_is_told_first(void **state)
{
	name_client();
	assert_int_equal(lb_proxy_protocol_out_enter(&fx.s), LB_STEP_NEXT);
	assert_int_equal(fx.s.pair.leg[LB_LEG_BACKEND].lead_out, sizeof(HEADER) - 1);
	assert_false(fx.s.timer.armed);
	assert_backend_got(0, HEADER);
}

static void nothing_is_said_when_nothing_is_asked_for(void **state)
{
	fx.config.proxy_protocol = LB_PROXY_PROTOCOL_OFF;
	assert_int_equal(lb_proxy_protocol_out_enter(&fx.s), LB_STEP_NEXT);
	assert_backend_got(0, "");
}

static void a_header_that_went_in_part_is_finished_when_there_is_room(void **state)
{
	struct lb_leg *leg = &fx.s.pair.leg[LB_LEG_BACKEND];
	static const char full[4096];
	size_t filled = 0;
	ssize_t n;

	name_client();
	while ((n = send(leg->watch.fd, full, sizeof(full), 0)) > 0)
		filled += (size_t)n;
	leg->lead_out = 10;
	assert_int_equal(lb_proxy_protocol_out_enter(&fx.s), LB_STEP_WAIT);
	assert_true(fx.s.timer.armed);
	assert_int_equal(lb_proxy_protocol_out_event(&fx.s, LB_LEG_CLIENT, EPOLLIN), LB_STEP_WAIT);
	assert_true(fx.s.pair.leg[LB_LEG_CLIENT].readable);
	assert_backend_got(filled, "");
	assert_int_equal(lb_proxy_protocol_out_event(&fx.s, LB_LEG_BACKEND, EPOLLOUT | EPOLLIN),
			 LB_STEP_NEXT);
	assert_true(leg->readable);
	assert_backend_got(0, &HEADER[10]);
}

static void a_backend_that_has_gone_resets_the_flow(void **state)
{
	close(fx.peer[1]);
	fx.peer[1] = dup(fx.peer[0]);
	assert_int_equal(lb_proxy_protocol_out_enter(&fx.s), LB_STEP_CLOSE);
	assert_int_equal(fx.s.reason, LB_REASON_RESET_BY_BACKEND);
	assert_true(fx.s.pair.error);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_header_leaves_what_follows_it_in_the_socket),
		TEST(a_mapped_peer_is_trusted_as_its_ipv4_self),
		TEST(a_stranger_is_refused_unheard),
		TEST(an_end_before_the_header_is_whole_is_none),
		TEST(a_header_with_the_end_right_behind_it_is_one),
		TEST(a_client_that_is_reset_is_gone),
		TEST(time_is_up),
		TEST(the_backend_is_told_first),
		TEST(nothing_is_said_when_nothing_is_asked_for),
		TEST(a_header_that_went_in_part_is_finished_when_there_is_room),
		TEST(a_backend_that_has_gone_resets_the_flow),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
