/* SPDX-License-Identifier: MIT */
/* graft_socket: what the kernel makes of sockets that vanish, and of packets in their name. */
#include "flow/graft_socket.h"

#include "flow/carrier.h"

#include "room.h"

#define BYTES 1000

struct connection {
	int peer, ours;
	struct lb_addr peer_addr, our_addr;
	uint32_t expected; /* what the peer expects next */
	uint32_t sent;     /* behind what it has sent */
};

static uint32_t heard(int fd)
{
	return room_tcp_info(fd).tcpi_segs_in;
}

static uint32_t answers(int fd)
{
	return room_tcp_info(fd).tcpi_segs_out;
}

static uint32_t unacked(int fd)
{
	return room_tcp_info(fd).tcpi_unacked;
}

/* Packets are on their way for as long as the machine likes. */
static void wait_for(uint32_t (*what)(int fd), int fd, uint32_t value)
{
	for (int i = 0; i < 5000 && what(fd) != value; i++)
		usleep(1000);
	assert_int_equal(what(fd), value);
}

/* Nothing is under way on it: what came for a socket that has vanished would be answered. */
static void open_connection(struct connection *c, bool ipv6)
{
	static const char bytes[BYTES];
	char back[BYTES];
	socklen_t len = sizeof(c->our_addr);
	struct lb_graft_position at;
	uint32_t before;

	if (ipv6)
		room_connect_v6(&c->peer, &c->ours);
	else
		room_connect(65536, &c->peer, &c->ours);
	assert_int_equal(getsockname(c->ours, &c->our_addr.sa, &len), 0);
	len = sizeof(c->peer_addr);
	assert_int_equal(getpeername(c->ours, &c->peer_addr.sa, &len), 0);
	assert_int_equal(send(c->ours, bytes, BYTES, 0), BYTES);
	assert_int_equal(recv(c->peer, back, BYTES, MSG_WAITALL), BYTES);
	wait_for(unacked, c->ours, 0);
	before = heard(c->ours);
	assert_int_equal(lb_graft_socket_position(c->ours, BYTES, &at), 0);
	wait_for(heard, c->ours, before + 1);
	c->expected = at.out + BYTES;
	c->sent = at.in;
}

static void assert_peer_reset(const struct connection *c)
{
	char byte;

	assert_true(room_readable(c->peer, 1000));
	assert_int_equal(recv(c->peer, &byte, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
}

static void a_vanished_socket_says_nothing(void **state)
{
	struct connection c;

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		open_connection(&c, ipv6);
		lb_graft_socket_vanish(c.ours);
		assert_false(room_readable(c.peer, 50));
		assert_int_equal(room_tcp_info(c.peer).tcpi_state, LB_TCP_ESTABLISHED);
		close(c.peer);
	}
}

static void a_reset_in_its_name_is_believed_at_once(void **state)
{
	int fds = room_count_fds();
	struct connection c;

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		open_connection(&c, ipv6);
		lb_graft_socket_vanish(c.ours);
		assert_int_equal(
			lb_graft_socket_reset(&c.our_addr, &c.peer_addr, c.expected, c.sent), 0);
		assert_peer_reset(&c);
		close(c.peer);
		assert_int_equal(room_count_fds(), fds);
	}
}

/* Probes are counted (net.ipv4.tcp_invalid_ratelimit, 500 ms), and the first one was just now. */
static void a_nudge_is_answered_where_a_probe_is_not(void **state)
{
	int fds = room_count_fds();
	struct connection c;
	uint32_t before, probes;

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		open_connection(&c, ipv6);
		before = answers(c.peer);
		probes = heard(c.peer);
		lb_graft_socket_probe(c.ours);
		wait_for(heard, c.peer, probes + 1);
		assert_int_equal(answers(c.peer), before);
		lb_graft_socket_vanish(c.ours);
		assert_int_equal(
			lb_graft_socket_nudge(&c.our_addr, &c.peer_addr, c.expected, c.sent), 0);
		wait_for(answers, c.peer, before + 1);
		/* The peer takes it for nothing new. Its answer may meet nobody here: a reset. */
		assert_int_equal(room_tcp_info(c.peer).tcpi_bytes_received, BYTES);
		close(c.peer);
		assert_int_equal(room_count_fds(), fds);
	}
}

static void where_a_socket_is_nobody_stands_in(void **state)
{
	int fds = room_count_fds();
	struct connection c;

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		open_connection(&c, ipv6);
		assert_true(lb_graft_socket_nudge(&c.our_addr, &c.peer_addr, c.expected, c.sent) <
			    0);
		assert_true(lb_graft_socket_reset(&c.our_addr, &c.peer_addr, c.expected, c.sent) <
			    0);
		assert_false(room_readable(c.peer, 50));
		assert_int_equal(room_tcp_info(c.peer).tcpi_state, LB_TCP_ESTABLISHED);
		close(c.peer);
		close(c.ours);
		assert_int_equal(room_count_fds(), fds);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_vanished_socket_says_nothing),
		cmocka_unit_test(a_reset_in_its_name_is_believed_at_once),
		cmocka_unit_test(a_nudge_is_answered_where_a_probe_is_not),
		cmocka_unit_test(where_a_socket_is_nobody_stands_in),
	};

	return cmocka_run_group_tests(tests, room_enter, NULL);
}
