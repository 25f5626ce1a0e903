/* SPDX-License-Identifier: MIT */
/* sk_verdict: who carries when the memory of all of TCP runs low. The test plays the daemon. */
#include "flow.h"

/* Opened before we leave the first network namespace, which alone has it. -1: none. */
static int tcp_mem_fd = -1;
static char tcp_mem_was[128];

/* The first number of net.ipv4.tcp_mem; the kernel acts only on the others. */
static void set_tcp_mem_low(const char *pages)
{
	char text[192];
	int len = snprintf(text, sizeof(text), "%s%s", pages, strchr(tcp_mem_was, '\t'));

	assert_int_equal(pwrite(tcp_mem_fd, text, (size_t)len, 0), len);
}

static int put_tcp_mem_back(void **state)
{
	size_t len = strlen(tcp_mem_was);

	return len && pwrite(tcp_mem_fd, tcp_mem_was, len, 0) != (ssize_t)len;
}

static void while_memory_runs_low_the_daemon_carries(void **state)
{
	struct events events;
	struct flow f;

	room_required();
	if (!tcp_mem_was[0]) {
		print_message("skipped: net.ipv4.tcp_mem cannot be changed here\n");
		skip();
	}
	f = flow_open_inserted();
	carry(f.client, f.server, 1000, 0);
	set_tcp_mem_low("18446744073708551616"); /* less than nothing, for the kernel */
	carry(f.client, f.leg0, 1000, 1000);
	carry(f.server, f.leg1, 1000, 7);
	assert_int_equal(seen(&f.up->redirected), 1000);
	assert_int_equal(seen(&f.up->passed), 1000);
	assert_int_equal(seen(&f.down->passed), 1000);
	events = drain_ring(0);
	assert_int_equal(events.count, 2);
	/* Also when the daemon is done with it. */
	carry(f.leg1, f.server, 1000, 1000);
	carry(f.leg0, f.client, 1000, 7);
	__atomic_store_n(&f.up->user_done, 1000, __ATOMIC_RELEASE);
	__atomic_store_n(&f.down->user_done, 1000, __ATOMIC_RELEASE);
	carry(f.client, f.leg0, 500, 2000);
	assert_int_equal(seen(&f.up->passed), 1500);

	assert_false(put_tcp_mem_back(NULL));
	carry(f.leg1, f.server, 500, 2000);
	__atomic_store_n(&f.up->user_done, 1500, __ATOMIC_RELEASE);
	carry(f.client, f.server, 1000, 2500);
	assert_int_equal(seen(&f.up->redirected), 2000);
	flow_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(while_memory_runs_low_the_daemon_carries,
					  put_tcp_mem_back),
	};

	tcp_mem_fd = open("/proc/sys/net/ipv4/tcp_mem", O_RDWR | O_CLOEXEC);
	if (tcp_mem_fd >= 0 && read(tcp_mem_fd, tcp_mem_was, sizeof(tcp_mem_was) - 1) < 0)
		tcp_mem_was[0] = '\0';
	return cmocka_run_group_tests(tests, flow_setup, flow_teardown);
}
