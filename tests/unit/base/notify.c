/* SPDX-License-Identifier: MIT */
#include "base/notify.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static int manager = -1;

/* At a name without a file, which the kernel picks; NOTIFY_SOCKET names it. */
static int setup(void **state)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(addr);
	char name[sizeof(addr.sun_path) + 1];

	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (manager < 0 || bind(manager, (struct sockaddr *)&addr, sizeof(sa_family_t)) ||
	    getsockname(manager, (struct sockaddr *)&addr, &len))
		return -1;
	len -= offsetof(struct sockaddr_un, sun_path);
	snprintf(name, sizeof(name), "@%.*s", (int)len - 1, addr.sun_path + 1);
	return setenv("NOTIFY_SOCKET", name, 1);
}

static int teardown(void **state)
{
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
	return close(manager);
}

static const char *heard(void)
{
	static char text[1024];
	ssize_t len = recv(manager, text, sizeof(text) - 1, 0);

	text[len > 0 ? len : 0] = '\0';
	return text;
}

static void a_message_is_one_datagram(void **state)
{
	assert_int_equal(lb_notify("READY=1\nSTATUS=%d rules", 3), 0);
	assert_int_equal(lb_notify("WATCHDOG=1"), 0);
	assert_string_equal(heard(), "READY=1\nSTATUS=3 rules");
	assert_string_equal(heard(), "WATCHDOG=1");
	assert_string_equal(heard(), "");
}

static void without_a_manager_nothing_happens(void **state)
{
	setenv("NOTIFY_SOCKET", "", 1);
	assert_int_equal(lb_notify("READY=1"), 0);
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(lb_notify("READY=1"), 0);
	assert_string_equal(heard(), "");
}

static void a_name_that_cannot_be_is_an_error(void **state)
{
	char name[512];

	memset(name, 'x', sizeof(name) - 1);
	name[0] = '/';
	name[sizeof(name) - 1] = '\0';
	setenv("NOTIFY_SOCKET", name, 1);
	assert_int_equal(lb_notify("READY=1"), -EINVAL);
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(lb_notify("READY=1"), -EINVAL);
	setenv("NOTIFY_SOCKET", "@", 1);
	assert_int_equal(lb_notify("READY=1"), -EINVAL);
	setenv("NOTIFY_SOCKET", "/nonexistent/notify", 1);
	assert_int_equal(lb_notify("READY=1"), -ENOENT);
}

static void what_is_too_long_is_not_sent_in_part(void **state)
{
	char text[600];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(lb_notify("STATUS=%s", text), -EMSGSIZE);
	assert_string_equal(heard(), "");
}

static void the_watchdogs_interval_is_ours_alone(void **state)
{
	char pid[32];

	assert_int_equal(lb_notify_watchdog_us(), 0);
	setenv("WATCHDOG_USEC", "30000000", 1);
	assert_int_equal(lb_notify_watchdog_us(), 30000000);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("WATCHDOG_PID", pid, 1);
	assert_int_equal(lb_notify_watchdog_us(), 30000000);
	setenv("WATCHDOG_PID", "1", 1);
	assert_int_equal(lb_notify_watchdog_us(), 0);
}

static void an_interval_that_is_no_number_is_none(void **state)
{
	static const char *const bad[] = {"", "0", "-1", "1s", " 1", "99999999999999999999999"};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		setenv("WATCHDOG_USEC", bad[i], 1);
		assert_int_equal(lb_notify_watchdog_us(), 0);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_message_is_one_datagram),
		TEST(without_a_manager_nothing_happens),
		TEST(a_name_that_cannot_be_is_an_error),
		TEST(what_is_too_long_is_not_sent_in_part),
		TEST(the_watchdogs_interval_is_ours_alone),
		TEST(an_interval_that_is_no_number_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
