/* SPDX-License-Identifier: MIT */
/* The access log when it goes to the syslog; files and pipes: access_log.c. */
#include "control/access_log_output.h"

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

#include "base/clock.h"
#include "base/log.h"
#include "control/access_log.h"

#define PATIENCE_MS 10000
#define FULL        4096 /* lines: many times what a socket's queue holds */

struct place {
	char dir[40], path[64];
	int reader;
	struct lb_access_log *log;
};

static void listen_there(struct place *p)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	strcpy(addr.sun_path, p->path);
	p->reader = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(p->reader, (struct sockaddr *)&addr, sizeof(addr)), 0);
}

static int setup(void **state)
{
	static struct place p;

	strcpy(p.dir, "/tmp/lb-access-log-output-XXXXXX");
	if (!mkdtemp(p.dir))
		return -1;
	snprintf(p.path, sizeof(p.path), "%s/log", p.dir);
	p.reader = -1;
	lb_log_set_level(LB_LOG_ERROR); /* an output that is not there is warned about, rightly */
	*state = &p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	lb_access_log_close(&p->log);
	if (p->reader >= 0)
		close(p->reader);
	unlink(p->path);
	return rmdir(p->dir);
}

static void open_log(struct place *p)
{
	const struct lb_access_log_opts opts = {.path = LB_ACCESS_LOG_SYSLOG,
						.facility = LOG_LOCAL0,
						.socket = p->path,
						.workers = 1};

	assert_int_equal(lb_access_log_open(&p->log, &opts), 0);
	assert_int_equal(lb_access_log_start(p->log), 0);
}

static void write_number(struct place *p, unsigned int number)
{
	char line[16];

	lb_access_log_write(p->log, 0, line, (size_t)snprintf(line, sizeof(line), "%u", number));
}

/* The number in the next datagram, which is to be one line; fails without one. */
static unsigned int next_number(struct place *p)
{
	struct pollfd in = {.fd = p->reader, .events = POLLIN};
	char text[256];
	ssize_t len;

	assert_int_equal(poll(&in, 1, PATIENCE_MS), 1);
	len = recv(p->reader, text, sizeof(text) - 1, 0);
	assert_true(len > 0);
	text[len] = '\0';
	assert_null(strchr(text, '\n'));
	assert_non_null(strstr(text, "]: "));
	return (unsigned int)strtoul(strstr(text, "]: ") + 3, NULL, 10);
}

static void every_line_is_a_datagram(void **state)
{
	struct place *p = *state;

	listen_there(p);
	open_log(p);
	for (unsigned int i = 0; i < 3; i++)
		write_number(p, i);
	for (unsigned int i = 0; i < 3; i++)
		assert_int_equal(next_number(p), i);
	assert_int_equal(lb_access_log_reopen(p->log), -ENOTSUP);
	write_number(p, 3);
	assert_int_equal(next_number(p), 3);
}

/* The queue of a socket holds a few lines (net.unix.max_dgram_qlen). */
static void a_syslog_that_is_behind_gets_all_in_order_when_it_reads(void **state)
{
	struct place *p = *state;

	listen_there(p);
	open_log(p);
	for (unsigned int i = 0; i < FULL; i++)
		write_number(p, i);
	for (unsigned int i = 0; i < FULL; i++)
		assert_int_equal(next_number(p), i);
	assert_int_equal(lb_access_log_dropped(p->log), 0);
}

static void what_finds_no_room_is_dropped_and_counted(void **state)
{
	static char line[2000];
	struct place *p = *state;
	uint64_t begun_ms;

	listen_there(p);
	open_log(p);
	memset(line, 'x', sizeof(line));
	begun_ms = lb_clock_ms();
	for (unsigned int i = 0; i < FULL; i++)
		lb_access_log_write(p->log, 0, line, sizeof(line));
	/* 8 MB; a ring and a batch are 512 KiB. The worker never waited for the reader. */
	assert_in_range(lb_access_log_dropped(p->log), FULL / 2, FULL);
	assert_in_range(lb_clock_ms() - begun_ms, 0, PATIENCE_MS / 2);
}

static void a_syslog_that_comes_later_gets_what_was_kept(void **state)
{
	struct place *p = *state;

	open_log(p);
	write_number(p, 7);
	listen_there(p);
	assert_int_equal(next_number(p), 7);
}

static void a_syslog_that_never_comes_does_not_hold_up_close(void **state)
{
	struct place *p = *state;
	uint64_t begun_ms;

	open_log(p);
	write_number(p, 7);
	begun_ms = lb_clock_ms();
	lb_access_log_close(&p->log);
	assert_in_range(lb_clock_ms() - begun_ms, 0, 1500);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(every_line_is_a_datagram),
		TEST(a_syslog_that_is_behind_gets_all_in_order_when_it_reads),
		TEST(what_finds_no_room_is_dropped_and_counted),
		TEST(a_syslog_that_comes_later_gets_what_was_kept),
		TEST(a_syslog_that_never_comes_does_not_hold_up_close),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
