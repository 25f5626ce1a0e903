/* SPDX-License-Identifier: MIT */
/* A daemon of a few lines at the other end; the clock is an argument. */
#include "tools/lbctl/top_talk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define OVERVIEW "{\"ok\":true,\"pid\":1,\"uptime_ms\":1,\"total\":{}}\n"
#define FLOWS    "{\"ok\":true,\"flows\":[]}\n"

struct scene {
	char folder[32], path[64];
	int listening, daemon;
	struct lb_top top;
	struct lb_top_talk talk;
};

static void serve(struct scene *s)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	memcpy(addr.sun_path, s->path, strlen(s->path));
	s->listening = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->listening, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(s->listening, 4), 0);
}

static void stop_serving(struct scene *s)
{
	close(s->listening);
	unlink(s->path);
}

static int setup(void **state)
{
	static struct scene s;

	s = (struct scene){.folder = "/tmp/lb-top-XXXXXX"};
	if (!mkdtemp(s.folder))
		return -1;
	snprintf(s.path, sizeof(s.path), "%s/s", s.folder);
	serve(&s);
	lb_top_init(&s.top);
	lb_top_talk_init(&s.talk, s.path);
	*state = &s;
	return 0;
}

static int teardown(void **state)
{
	struct scene *s = *state;

	lb_top_talk_fini(&s->talk);
	lb_top_fini(&s->top);
	stop_serving(s);
	return rmdir(s->folder);
}

static bool step(struct scene *s, uint64_t now_ms)
{
	return lb_top_talk_step(&s->talk, &s->top, now_ms);
}

static void accept_it(struct scene *s)
{
	s->daemon = accept(s->listening, NULL, NULL);
	assert_true(s->daemon >= 0);
}

static void say(const struct scene *s, const char *text)
{
	assert_int_equal(send(s->daemon, text, strlen(text), MSG_NOSIGNAL), (int)strlen(text));
}

static void hears(const struct scene *s, const char *wanted)
{
	char line[256] = "";

	assert_true(recv(s->daemon, line, sizeof(line) - 1, MSG_DONTWAIT) > 0);
	assert_memory_equal(line, wanted, strlen(wanted));
	assert_int_equal(line[strlen(line) - 1], '\n');
}

static void begin(struct scene *s)
{
	assert_false(step(s, 0));
	accept_it(s);
	hears(s, "overview\n");
	say(s, OVERVIEW);
	assert_true(step(s, 1));
}

static void it_asks_for_flows_and_an_overview_in_turn(void **state)
{
	struct scene *s = *state;

	begin(s);
	/* The first look is short. */
	hears(s, "flows sort=rate limit=1000 over_ms=500\n");
	say(s, "{\"ok\":true,");
	assert_false(step(s, 2));
	say(s, "\"flows\":[]}\n");
	assert_false(step(s, 3));
	hears(s, "overview\n");
	say(s, OVERVIEW);
	assert_true(step(s, 4));
	hears(s, "flows sort=rate limit=1000 over_ms=2000\n");
	close(s->daemon);
}

static void a_daemon_that_goes_is_said_to_be_gone_and_asked_again(void **state)
{
	struct scene *s = *state;

	begin(s);
	close(s->daemon);
	stop_serving(s);
	assert_true(step(s, 10));
	assert_non_null(strstr(s->talk.trouble, "gone"));
	assert_int_equal(lb_top_talk_timeout_ms(&s->talk, 10), 1000);
	assert_false(step(s, 1009));
	assert_true(step(s, 1010));
	assert_non_null(strstr(s->talk.trouble, "No such file"));
	serve(s);
	assert_false(step(s, 2010));
	accept_it(s);
	say(s, OVERVIEW);
	assert_true(step(s, 2011));
	assert_string_equal(s->talk.trouble, "");
	close(s->daemon);
}

static void a_daemon_that_says_nothing_is_not_waited_for(void **state)
{
	struct scene *s = *state;

	begin(s);
	assert_false(step(s, 10500));
	assert_true(step(s, 10501));
	assert_non_null(strstr(s->talk.trouble, "does not answer"));
	assert_int_equal(s->talk.fd, -1);
	close(s->daemon);
}

static void a_refusal_is_shown_and_asked_about_again(void **state)
{
	struct scene *s = *state;

	assert_false(step(s, 0));
	accept_it(s);
	say(s, "{\"ok\":false,\"error\":\"too many clients\"}\n");
	close(s->daemon);
	assert_true(step(s, 1));
	assert_true(s->talk.refused);
	assert_string_equal(s->talk.trouble, "the daemon says: too many clients");
	assert_false(step(s, 1000));
	assert_false(step(s, 1001));
	accept_it(s);
	hears(s, "overview\n");
	close(s->daemon);
}

static void what_is_no_reply_is_trouble(void **state)
{
	static const char *const odd[] = {"\n", "x\n", "[]\n", "{\"ok\":true}\n"};
	struct scene *s = *state;

	for (uint64_t i = 0; i < LB_ARRAY_SIZE(odd); i++) {
		assert_false(step(s, i * 5000));
		accept_it(s);
		say(s, odd[i]);
		assert_true(step(s, i * 5000 + 1));
		assert_true(*s->talk.trouble && s->talk.fd < 0);
		close(s->daemon);
	}
}

static void one_who_pauses_asks_nothing_and_goes_on(void **state)
{
	struct scene *s = *state;

	begin(s);
	s->top.paused = true;
	hears(s, "flows");
	say(s, FLOWS);
	assert_true(step(s, 3));
	assert_null(s->top.flows);
	assert_int_equal(lb_top_talk_timeout_ms(&s->talk, 3), -1);
	/* A daemon hangs up on whoever says nothing for a minute: no news. */
	close(s->daemon);
	assert_false(step(s, 70000));
	assert_int_equal(s->talk.fd, -1);
	assert_string_equal(s->talk.trouble, "");
	s->top.paused = false;
	assert_false(step(s, 80000));
	accept_it(s);
	hears(s, "overview\n");
	close(s->daemon);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(it_asks_for_flows_and_an_overview_in_turn),
		CASE(a_daemon_that_goes_is_said_to_be_gone_and_asked_again),
		CASE(a_daemon_that_says_nothing_is_not_waited_for),
		CASE(a_refusal_is_shown_and_asked_about_again),
		CASE(what_is_no_reply_is_trouble),
		CASE(one_who_pauses_asks_nothing_and_goes_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
