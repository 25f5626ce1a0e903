/* SPDX-License-Identifier: MIT */
#include "control/syslog.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <unistd.h>

#include <cmocka.h>

/* A folder of the test's own, and in it the socket of a syslog. */
struct place {
	char dir[32], path[64];
	int reader;
	struct lb_syslog s;
};

static void listen_there(struct place *p)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	strcpy(addr.sun_path, p->path);
	p->reader = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(p->reader, (struct sockaddr *)&addr, sizeof(addr)), 0);
}

static void go_away(struct place *p)
{
	if (p->reader >= 0)
		close(p->reader);
	p->reader = -1;
	unlink(p->path);
}

static int setup(void **state)
{
	static struct place p;

	strcpy(p.dir, "/tmp/lb-syslog-XXXXXX");
	if (!mkdtemp(p.dir))
		return -1;
	snprintf(p.path, sizeof(p.path), "%s/log", p.dir);
	listen_there(&p);
	lb_syslog_init(&p.s, p.path, LOG_LOCAL3);
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	lb_syslog_fini(&p->s);
	go_away(p);
	return rmdir(p->dir);
}

static int send_text(struct place *p, const char *text)
{
	return lb_syslog_send(&p->s, text, strlen(text));
}

static const char *received(struct place *p)
{
	static char text[4096];
	ssize_t len = recv(p->reader, text, sizeof(text) - 1, 0);

	text[len > 0 ? len : 0] = '\0';
	return text;
}

static void a_line_is_one_datagram_with_priority_time_and_name(void **state)
{
	struct place *p = *state;
	char month[4], end[64];
	int priority, day, n = 0;
	unsigned t[3];

	assert_int_equal(send_text(p, "reason=done"), 0);
	assert_int_equal(sscanf(received(p), "<%d>%3s %2d %2u:%2u:%2u layer4-lb%n", &priority,
				month, &day, &t[0], &t[1], &t[2], &n),
			 6);
	assert_int_equal(priority, LOG_LOCAL3 | LOG_INFO);
	snprintf(end, sizeof(end), "[%d]: reason=done", (int)getpid());
	assert_int_equal(send_text(p, "reason=done"), 0);
	assert_string_equal(received(p) + n, end);
	assert_string_equal(received(p), "");
}

static void without_a_reader_it_says_so_and_finds_the_next_one(void **state)
{
	struct place *p = *state;

	assert_int_equal(send_text(p, "one"), 0);
	go_away(p);
	assert_true(send_text(p, "two") < 0);
	assert_int_equal(send_text(p, "two"), -ENOENT);
	listen_there(p);
	assert_int_equal(send_text(p, "three"), 0);
	assert_non_null(strstr(received(p), "]: three"));
}

static void a_reader_that_does_not_read_makes_nobody_wait(void **state)
{
	struct place *p = *state;
	struct pollfd out = {.events = POLLOUT};
	int sent = 0, err;

	while (!(err = send_text(p, "x")))
		assert_true(++sent < 1000000);
	assert_int_equal(err, -EAGAIN);
	out.fd = p->s.fd;
	assert_int_equal(poll(&out, 1, 0), 0);
	for (int i = 0; i < sent; i++)
		assert_non_null(strstr(received(p), "]: x"));
	assert_int_equal(poll(&out, 1, 0), 1);
	assert_int_equal(send_text(p, "y"), 0);
}

static void a_line_no_datagram_can_hold_is_told_apart(void **state)
{
	static char text[4 << 20];
	struct place *p = *state;

	memset(text, 'x', sizeof(text) - 1);
	assert_int_equal(send_text(p, text), -EMSGSIZE);
	assert_int_equal(send_text(p, "after"), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_line_is_one_datagram_with_priority_time_and_name),
		TEST(without_a_reader_it_says_so_and_finds_the_next_one),
		TEST(a_reader_that_does_not_read_makes_nobody_wait),
		TEST(a_line_no_datagram_can_hold_is_told_apart),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
