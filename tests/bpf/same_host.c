/* SPDX-License-Identifier: MIT */
/*
 * same_host, same_host_msg: whose sockets are watched, which messages skip TCP, and that nobody can
 * tell by the bytes. One process plays both ends.
 */
#include "kernel/same_host.h"

#include <sys/stat.h>

#include <bpf/bpf.h>

#include "room.h"

#define INSTANCE "test"
#define PINS     LB_PIN_ROOT "/layer4-lb-" INSTANCE

static struct lb_same_host *h;

static struct lb_addr addr_of(const char *text)
{
	struct lb_addr a = {};

	assert_int_equal(lb_addr_parse(text, &a), 0);
	return a;
}

static void add(const char *text)
{
	const struct lb_addr a = addr_of(text);

	assert_int_equal(lb_same_host_add(h, &a), 0);
}

static int enter(void **state)
{
	const struct lb_same_host_opts opts = {.instance = INSTANCE, .sockets = 64, .endpoints = 8};
	struct lb_same_host_report report;

	room_enter(state);
	if (room_missing[0])
		return 0;
	if (lb_same_host_open(&h, &opts, &report)) {
		snprintf(room_missing, sizeof(room_missing), "%s", report.detail);
		return 0;
	}
	add("127.0.0.1:5000");
	add("[::1]:5000");
	add("0.0.0.0:5001");
	return 0;
}

/* --- a connection ----------------------------------------------------------------------------- */

struct ends {
	int client, server;
	uint64_t counts[LB_SAME_HOST_MAX_]; /* when it was opened */
};

static struct ends ends_open(const char *text)
{
	const struct lb_addr a = addr_of(text);
	LB_AUTO_CLOSE int listener = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct ends e;
	int one = 1;

	for (unsigned int c = 0; c < LB_SAME_HOST_MAX_; c++)
		e.counts[c] = lb_same_host_count(h, c);
	assert_int_equal(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
	assert_int_equal(bind(listener, &a.sa, lb_addr_len(&a)), 0);
	assert_int_equal(listen(listener, 1), 0);
	e.client = socket(a.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(setsockopt(e.client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
	assert_int_equal(connect(e.client, &a.sa, lb_addr_len(&a)), 0);
	e.server = accept(listener, NULL, NULL);
	assert_true(e.server >= 0);
	return e;
}

/* How much it has grown. */
static uint64_t seen(const struct ends *e, enum lb_same_host_counter which)
{
	return lb_same_host_count(h, which) - e->counts[which];
}

static void ends_close(struct ends *e)
{
	const struct linger reset = {.l_onoff = 1};

	setsockopt(e->client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	close(e->client);
	close(e->server);
}

static uint64_t bytes_by_tcp(int fd)
{
	struct tcp_info info = {};
	socklen_t len = sizeof(info);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	return info.tcpi_bytes_sent;
}

static void assert_answered(const struct ends *e)
{
	char byte = 0;

	assert_int_equal(send(e->client, "a", 1, 0), 1);
	assert_int_equal(recv(e->server, &byte, 1, 0), 1);
	assert_int_equal(byte, 'a');
	assert_int_equal(send(e->server, "b", 1, 0), 1);
	assert_int_equal(recv(e->client, &byte, 1, 0), 1);
	assert_int_equal(byte, 'b');
}

static void assert_skips_tcp(const char *text)
{
	struct ends e = ends_open(text);

	assert_int_equal(seen(&e, LB_SAME_HOST_SOCKETS), 2);
	assert_answered(&e);
	assert_int_equal(seen(&e, LB_SAME_HOST_REDIRECTS), 2);
	assert_int_equal(seen(&e, LB_SAME_HOST_BYTES), 2);
	assert_int_equal(bytes_by_tcp(e.client) + bytes_by_tcp(e.server), 0);
	ends_close(&e);
}

/* The machine's TCP memory is everybody's; while it is short nothing is redirected, rightly. */
static bool has_memory(void)
{
	struct ends e = ends_open("127.0.0.1:5000");
	bool has;

	assert_answered(&e);
	has = !seen(&e, LB_SAME_HOST_MEMORY);
	ends_close(&e);
	return has;
}

#define memory_required()                                                                   \
	do {                                                                                \
		room_required();                                                            \
		if (!has_memory()) {                                                        \
			print_message("skipped: TCP is short of memory on this machine\n"); \
			skip();                                                             \
		}                                                                           \
	} while (0)

/* --- who -------------------------------------------------------------------------------------- */

static void messages_of_a_scoped_endpoint_skip_tcp(void **state)
{
	memory_required();
	assert_skips_tcp("127.0.0.1:5000");
	assert_skips_tcp("[::1]:5000");
}

static void an_endpoint_on_any_address_means_every_one(void **state)
{
	memory_required();
	assert_skips_tcp("127.0.0.1:5001");
	assert_skips_tcp("127.1.2.3:5001");
}

static void another_port_address_or_family_is_left_alone(void **state)
{
	const char *const others[] = {"127.0.0.1:5002", "127.0.0.2:5000", "[::1]:5001"};

	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(others); i++) {
		struct ends e = ends_open(others[i]);

		assert_answered(&e);
		assert_int_equal(seen(&e, LB_SAME_HOST_SOCKETS), 0);
		assert_int_equal(bytes_by_tcp(e.client), 1);
		ends_close(&e);
	}
}

static void an_endpoint_covers_those_that_share_addresses_with_it(void **state)
{
	const struct {
		const char *addr;
		bool covered;
	} cases[] = {
		{"127.0.0.1:5000", true},
		{"0.0.0.0:5000", true},
		{"127.0.0.2:5000", false},
		{"127.0.0.2:5001", true},
		{"127.0.0.1:5002", false},
		{"[::]:5000", true},
		{"[::2]:5000", false},
		{"[::1]:5001", false},
		{"[::ffff:127.0.0.1]:5000", true},
	};

	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		const struct lb_addr a = addr_of(cases[i].addr);

		if (lb_same_host_covers(h, &a) != cases[i].covered)
			fail_msg("%s", cases[i].addr);
	}
}

/* --- order and memory ------------------------------------------------------------------------- */

static void messages_that_wait_are_limited_in_number(void **state)
{
	enum { MESSAGES = LB_SAME_HOST_RUN_MAX + 500 };
	unsigned char got[MESSAGES];
	struct ends e;

	memory_required();
	e = ends_open("127.0.0.1:5000");
	for (unsigned int i = 0; i < MESSAGES; i++) {
		unsigned char byte = (unsigned char)(i * 7);

		assert_int_equal(send(e.client, &byte, 1, 0), 1);
	}
	assert_int_equal(seen(&e, LB_SAME_HOST_REDIRECTS), LB_SAME_HOST_RUN_MAX);
	assert_int_equal(seen(&e, LB_SAME_HOST_FULL), 1);
	assert_int_equal(seen(&e, LB_SAME_HOST_UNREAD), 499);
	for (unsigned int at = 0; at < MESSAGES;) {
		ssize_t n = recv(e.server, got + at, MESSAGES - at, 0);

		assert_true(n > 0);
		at += (unsigned int)n;
	}
	for (unsigned int i = 0; i < MESSAGES; i++)
		assert_int_equal(got[i], (unsigned char)(i * 7));
	/* All is read: messages skip TCP again. */
	assert_answered(&e);
	assert_int_equal(seen(&e, LB_SAME_HOST_REDIRECTS), LB_SAME_HOST_RUN_MAX + 2);
	ends_close(&e);
}

static void bytes_that_wait_are_limited_by_the_receive_buffer(void **state)
{
	static char data[1 << 20];
	uint64_t sent = 0;
	int rcvbuf = 0;
	socklen_t len = sizeof(rcvbuf);
	struct ends e;
	ssize_t n;

	memory_required();
	e = ends_open("127.0.0.1:5000");
	assert_int_equal(getsockopt(e.server, SOL_SOCKET, SO_RCVBUF, &rcvbuf, &len), 0);
	while ((n = send(e.client, data, 1000, MSG_DONTWAIT)) > 0)
		sent += (uint64_t)n;
	assert_int_equal(errno, EAGAIN);
	assert_true(seen(&e, LB_SAME_HOST_BYTES) > 0);
	assert_true(seen(&e, LB_SAME_HOST_BYTES) <= (uint64_t)rcvbuf / 2);
	assert_true(sent < 16u << 20);
	/* What a reader that comes late gets is all of it. */
	for (uint64_t got = 0; got < sent; got += (uint64_t)n)
		assert_true((n = recv(e.server, data, sizeof(data), 0)) > 0);
	ends_close(&e);
}

static void what_was_redirected_is_read_after_the_writer_has_gone(void **state)
{
	struct ends e;
	char buf[16];

	memory_required();
	e = ends_open("127.0.0.1:5000");
	assert_int_equal(send(e.client, "hello", 5, 0), 5);
	assert_int_equal(seen(&e, LB_SAME_HOST_BYTES), 5);
	close(e.client);
	/* Its own half too: TCP is done with the connection, and the bytes are still there. */
	assert_int_equal(shutdown(e.server, SHUT_WR), 0);
	usleep(20000);
	assert_int_equal(recv(e.server, buf, sizeof(buf), 0), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(recv(e.server, buf, sizeof(buf), 0), 0);
	close(e.server);
}

static void nothing_can_be_sent_after_a_shutdown(void **state)
{
	struct ends e;

	room_required();
	e = ends_open("127.0.0.1:5000");
	assert_int_equal(shutdown(e.client, SHUT_WR), 0);
	assert_int_equal(send(e.client, "x", 1, MSG_NOSIGNAL), -1);
	assert_int_equal(errno, EPIPE);
	ends_close(&e);
}

/* --- traces ----------------------------------------------------------------------------------- */

static void a_connection_that_ended_leaves_no_entry(void **state)
{
	LB_AUTO_CLOSE int fd = -1;
	struct lb_same_host_tuple t;
	struct ends e;

	room_required();
	fd = bpf_obj_get(PINS "/lb_same_peers");
	assert_true(fd >= 0);
	e = ends_open("127.0.0.1:5000");
	assert_int_equal(bpf_map_get_next_key(fd, NULL, &t), 0);
	assert_answered(&e);
	ends_close(&e);
	assert_int_equal(bpf_map_get_next_key(fd, NULL, &t), -ENOENT);
}

/* Last: there is nothing to test afterwards. */
static void nothing_is_watched_after_the_end(void **state)
{
	struct stat st;
	struct ends e;
	char buf[16];

	memory_required();
	e = ends_open("127.0.0.1:5000");
	assert_int_equal(send(e.client, "hello", 5, 0), 5);
	lb_same_host_close(h);
	h = NULL;
	assert_int_equal(lstat(PINS, &st), -1);
	/* What was redirected before is still there, and those sockets go on. */
	assert_int_equal(recv(e.server, buf, sizeof(buf), 0), 5);
	assert_answered(&e);
	assert_int_equal(bytes_by_tcp(e.client), 0);
	ends_close(&e);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(messages_of_a_scoped_endpoint_skip_tcp),
		cmocka_unit_test(an_endpoint_on_any_address_means_every_one),
		cmocka_unit_test(another_port_address_or_family_is_left_alone),
		cmocka_unit_test(an_endpoint_covers_those_that_share_addresses_with_it),
		cmocka_unit_test(messages_that_wait_are_limited_in_number),
		cmocka_unit_test(bytes_that_wait_are_limited_by_the_receive_buffer),
		cmocka_unit_test(what_was_redirected_is_read_after_the_writer_has_gone),
		cmocka_unit_test(nothing_can_be_sent_after_a_shutdown),
		cmocka_unit_test(a_connection_that_ended_leaves_no_entry),
		cmocka_unit_test(nothing_is_watched_after_the_end),
	};

	return cmocka_run_group_tests(tests, enter, NULL);
}
