/* SPDX-License-Identifier: MIT */
#include "base/listen_fds.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"

static struct lb_listen_fds *handed;

static int setup(void **state)
{
	lb_log_set_level(LB_LOG_ERROR); /* what is closed is named, rightly */
	return lb_listen_fds_new(&handed);
}

static int teardown(void **state)
{
	lb_listen_fds_free(&handed);
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return 0;
}

/* Bound to <text>, port 0: *addr says where. */
static int bound(int type, const char *text, struct lb_addr *addr)
{
	socklen_t len = sizeof(*addr);
	int fd;

	assert_int_equal(lb_addr_parse(text, addr), 0);
	addr->in4.sin_port = 0;
	fd = socket(addr->sa.sa_family, type | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, &addr->sa, lb_addr_len(addr)), 0);
	assert_int_equal(getsockname(fd, &addr->sa, &len), 0);
	return fd;
}

static int listening(const char *text, struct lb_addr *addr)
{
	int fd = bound(SOCK_STREAM, text, addr);

	assert_int_equal(listen(fd, 16), 0);
	return fd;
}

static void a_listener_is_found_by_its_address_and_then_the_callers(void **state)
{
	struct lb_addr a, b, other;
	int fd_a = listening("127.0.0.1:1", &a), fd_b = listening("127.0.0.1:1", &b);

	assert_int_equal(lb_listen_fds_add(handed, fd_a, "a"), 0);
	assert_int_equal(lb_listen_fds_add(handed, fd_b, "b"), 0);
	assert_int_equal(lb_addr_parse("127.0.0.1:1", &other), 0);
	assert_int_equal(lb_listen_fds_get(handed, &other), -ENOENT);
	assert_int_equal(lb_listen_fds_get(handed, &b), fd_b);
	assert_int_equal(lb_listen_fds_get(handed, &b), -ENOENT);
	assert_int_equal(lb_listen_fds_get(handed, &a), fd_a);
	lb_listen_fds_free(&handed);
	assert_int_equal(close(fd_a), 0);
	assert_int_equal(close(fd_b), 0);
}

static void several_at_one_address_come_one_after_the_other(void **state)
{
	struct lb_addr addr;
	int fd = listening("127.0.0.1:1", &addr), second = dup(fd);

	assert_int_equal(lb_listen_fds_add(handed, fd, "x"), 0);
	assert_int_equal(lb_listen_fds_add(handed, second, "x"), 0);
	assert_int_equal(lb_listen_fds_get(handed, &addr), fd);
	assert_int_equal(lb_listen_fds_get(handed, &addr), second);
	assert_int_equal(lb_listen_fds_get(handed, &addr), -ENOENT);
	close(fd);
	close(second);
}

static void what_does_not_listen_is_never_given_out_and_is_closed(void **state)
{
	struct lb_addr udp, deaf;
	int fds[] = {bound(SOCK_DGRAM, "127.0.0.1:1", &udp),
		     bound(SOCK_STREAM, "127.0.0.1:1", &deaf), open("/dev/null", O_RDONLY)};

	for (int i = 0; i < 3; i++)
		assert_int_equal(lb_listen_fds_add(handed, fds[i], "x"), 0);
	assert_int_equal(lb_listen_fds_get(handed, &udp), -ENOENT);
	assert_int_equal(lb_listen_fds_get(handed, &deaf), -ENOENT);
	lb_listen_fds_free(&handed);
	for (int i = 0; i < 3; i++)
		assert_int_equal(fcntl(fds[i], F_GETFD), -1);
}

static void what_nobody_wanted_is_closed(void **state)
{
	struct lb_addr addr;
	int fd = listening("[::1]:1", &addr);

	assert_int_equal(lb_listen_fds_add(handed, fd, "x"), 0);
	lb_listen_fds_free(&handed);
	assert_null(handed);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void without_any_nothing_is_found(void **state)
{
	struct lb_addr addr;

	assert_int_equal(lb_addr_parse("127.0.0.1:1", &addr), 0);
	assert_int_equal(lb_listen_fds_get(NULL, &addr), -ENOENT);
	assert_int_equal(lb_listen_fds_get(handed, &addr), -ENOENT);
}

/* Descriptor 3 is put aside while it plays a listener. */
static void the_environment_hands_them_to_its_own_process_alone(void **state)
{
	struct lb_addr addr;
	int fd = listening("127.0.0.1:1", &addr), aside = fcntl(3, F_DUPFD_CLOEXEC, 10);
	char pid[32];

	assert_int_equal(dup2(fd, 3), 3);
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", "1", 1);
	assert_int_equal(lb_listen_fds_inherit(handed), 0);
	assert_int_equal(lb_listen_fds_get(handed, &addr), -ENOENT);
	assert_null(getenv("LISTEN_FDS"));

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("LISTEN_FDS", "1", 1);
	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDNAMES", "web", 1);
	assert_int_equal(lb_listen_fds_inherit(handed), 0);
	assert_int_equal(fcntl(3, F_GETFD), FD_CLOEXEC);
	assert_int_equal(lb_listen_fds_get(handed, &addr), 3);
	assert_null(getenv("LISTEN_FDS"));
	assert_null(getenv("LISTEN_PID"));
	assert_null(getenv("LISTEN_FDNAMES"));

	close(3);
	close(fd);
	if (aside >= 0) {
		assert_int_equal(dup2(aside, 3), 3);
		close(aside);
	}
}

static void an_environment_that_makes_no_sense_hands_nothing(void **state)
{
	static const char *const bad[] = {"", "-1", "x", "1x", "99999999"};
	char pid[32];

	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		int flags = fcntl(3, F_GETFD);

		setenv("LISTEN_PID", pid, 1);
		setenv("LISTEN_FDS", bad[i], 1);
		assert_int_equal(lb_listen_fds_inherit(handed), 0);
		assert_int_equal(fcntl(3, F_GETFD), flags);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_listener_is_found_by_its_address_and_then_the_callers),
		TEST(several_at_one_address_come_one_after_the_other),
		TEST(what_does_not_listen_is_never_given_out_and_is_closed),
		TEST(what_nobody_wanted_is_closed),
		TEST(without_any_nothing_is_found),
		TEST(the_environment_hands_them_to_its_own_process_alone),
		TEST(an_environment_that_makes_no_sense_hands_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
