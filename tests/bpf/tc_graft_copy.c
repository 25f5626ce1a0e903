/* SPDX-License-Identifier: MIT */
/*
 * tc_graft: while a flow is taken over, our own socket hears what its peer acknowledges, and
 * nothing else; the socket is a real one, over loopback. And no peer is told what it would drop,
 * because the other one and our socket do not stand at the same place yet. What skb->csum says is
 * not looked at: a packet that is cut loses it (__skb_trim_rcsum), and the kernel sums up anew.
 */
#include "tc_graft.h"

#define SENT 100u /* bytes of the peer that our socket has */

/* Leg 0 of the pair is this connection: peer ~~~> ours. */
struct connection {
	bool ipv6;
	int peer, ours;
	struct end peer_end, our_end;
	uint32_t expected; /* what our socket expects next */
	uint32_t written;  /* behind the last byte our socket has sent */
};

static struct end end_of(bool ipv6, int fd)
{
	struct lb_addr addr = {};
	socklen_t len = sizeof(addr);
	struct end e = {};

	assert_int_equal(getsockname(fd, &addr.sa, &len), 0);
	if (ipv6)
		memcpy(e.addr, &addr.in6.sin6_addr, 16);
	else
		memcpy(e.addr + 12, &addr.in4.sin_addr, 4);
	e.port = ntohs(ipv6 ? addr.in6.sin6_port : addr.in4.sin_port);
	return e;
}

static uint32_t queue_seq(int fd, int queue)
{
	int on = TCP_REPAIR_ON, off = TCP_REPAIR_OFF_NO_WP;
	uint32_t seq = 0;
	socklen_t len = sizeof(seq);

	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)), 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &seq, &len), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)), 0);
	return seq;
}

static struct connection connection_open(bool ipv6, uint32_t stage)
{
	struct connection c = {.ipv6 = ipv6};
	uint8_t bytes[SENT] = {};

	if (ipv6)
		room_connect_v6(&c.peer, &c.ours);
	else
		room_connect(65536, &c.peer, &c.ours);
	assert_int_equal(send(c.peer, bytes, sizeof(bytes), 0), sizeof(bytes));
	assert_true(room_readable(c.ours, 5000));
	c.peer_end = end_of(ipv6, c.peer);
	c.our_end = end_of(ipv6, c.ours);
	c.expected = queue_seq(c.ours, TCP_RECV_QUEUE);
	c.written = queue_seq(c.ours, TCP_SEND_QUEUE);
	pair_open(ipv6, stage);
	add_key(ipv6, &c.peer_end, &c.our_end, PAIR * 2);
	return c;
}

static void connection_close(struct connection *c)
{
	union key key = key_of(c->ipv6, &c->peer_end, &c->our_end);

	bpf_map_delete_elem(key_fd(c->ipv6), &key);
	lb_cleanup_close(&c->peer);
	lb_cleanup_close(&c->ours);
}

static struct segment segment_on(const struct connection *c, size_t payload)
{
	struct segment s = segment_of(c->ipv6, 0, payload);

	s.from = c->peer_end;
	s.to = c->our_end;
	s.seq = c->expected;
	s.ack = c->written;
	return s;
}

static struct frame_bytes marked(const struct segment *s)
{
	struct frame_bytes f = build(s);

	memcpy(f.b + 6, MARK, 6);
	return f;
}

static void a_copy_is_an_acknowledgement_and_nothing_else(void **state)
{
	const size_t payloads[] = {0, 1, 2, 299, 1400};
	const struct {
		uint8_t flags, left;
	} flags[] = {
		{ACK, ACK},
		{ACK | PSH | FIN, ACK},
		{ACK | URG | ECE | CWR, ACK | ECE | CWR},
	};
	const struct options options[] = {
		{},
		OPT(NOP, NOP, TS(1, 2)),
		OPT(NOP, NOP, TS(1, 2), NOP, NOP, SACK3(1, 2, 3, 4, 5, 6)),
	};

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct connection c = connection_open(ipv6, LB_GRAFT_SPLIT);
		uint64_t copied = counted(LB_GRAFT_COUNT_COPIED);

		for (size_t i = 0; i < 5 * 3 * 3; i++) {
			struct segment s = segment_on(&c, payloads[i % 5]);
			struct frame_bytes in, out, want;

			s.flags = flags[i / 5 % 3].flags;
			s.opt = options[i / 15];
			s.urgent = 77;
			s.seq += 1000 * (uint32_t)i - 20000; /* wherever it stood */
			s.padding = i % 7;
			in = marked(&s);
			s.seq = c.expected;
			s.flags = flags[i / 5 % 3].left;
			s.urgent = 0;
			s.payload = s.padding = 0;
			want = marked(&s);
			assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_UNSPEC);
			assert_frame("copy", &out, &want, 0);
		}
		assert_true(counted(LB_GRAFT_COUNT_COPIED) >= copied + 45);
		/* They are no packets of the flow. */
		assert_int_equal(grafts[PAIR].leg[0].packets, 0);
		assert_int_equal(grafts[PAIR].leg[0].bytes, 1000);
		assert_int_equal(grafts[PAIR].leg[0].flags, 0);
		connection_close(&c);
	}
}

static void a_copy_reaches_a_socket_that_is_half_closed(void **state)
{
	room_required();
	for (int i = 0; i < 4; i++) {
		struct connection c = connection_open(i / 2, LB_GRAFT_SPLIT);
		struct frame_bytes in, out;
		struct segment s;

		assert_int_equal(shutdown(i % 2 ? c.peer : c.ours, SHUT_WR), 0);
		s = segment_on(&c, 10);
		in = marked(&s);
		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_UNSPEC);
		connection_close(&c);
	}
}

/* A copy of a packet with <ack> tells our socket of <told>. */
static void assert_told(const struct connection *c, uint32_t ack, uint32_t told)
{
	struct segment s = segment_on(c, 10);
	struct frame_bytes in, out, want;

	s.ack = ack;
	in = marked(&s);
	s.ack = told;
	s.payload = 0;
	want = marked(&s);
	assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_UNSPEC);
	assert_frame("copy", &out, &want, 0);
}

/* Writes until neither the peer's window nor our queue takes more. Returns what was not sent. */
static uint32_t write_beyond_window(struct connection *c)
{
	static const uint8_t bytes[16384];
	struct tcp_info info;
	int sndbuf = 1 << 20;

	assert_int_equal(setsockopt(c->ours, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf)), 0);
	while (send(c->ours, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
	info = room_tcp_info(c->ours);
	assert_true(info.tcpi_notsent_bytes > 1000);
	return info.tcpi_notsent_bytes;
}

/* Of an acknowledgement of what a socket has not sent it believes nothing. */
static void no_copy_acknowledges_more_than_our_socket_sent(void **state)
{
	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct connection c = connection_open(ipv6, LB_GRAFT_SPLIT);
		uint32_t sent = c.written, unsent;

		assert_told(&c, sent - 1, sent - 1);
		assert_told(&c, sent, sent);
		assert_told(&c, sent + 1, sent);
		assert_told(&c, sent + 0x7fffffff, sent);
		unsent = write_beyond_window(&c);
		sent = queue_seq(c.ours, TCP_SEND_QUEUE) - unsent;
		assert_told(&c, sent, sent);
		assert_told(&c, sent + 1, sent);
		assert_told(&c, sent + unsent, sent);
		connection_close(&c);
	}
}

static void a_copy_without_a_socket_is_dropped(void **state)
{
	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct connection c = connection_open(ipv6, LB_GRAFT_SPLIT);
		struct segment s = segment_on(&c, 10);
		struct frame_bytes in = marked(&s), out;

		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_UNSPEC);
		lb_cleanup_close(&c.ours);
		lb_cleanup_close(&c.peer);
		c.ours = c.peer = -1;
		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_SHOT);
		connection_close(&c);
	}
}

static void a_copy_that_acknowledges_nothing_is_dropped(void **state)
{
	struct frame_bytes in, out;
	struct connection c;
	struct segment s;

	room_required();
	c = connection_open(false, LB_GRAFT_SPLIT);
	s = segment_on(&c, 10);
	s.flags = PSH;
	in = marked(&s);
	assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_SHOT);
	connection_close(&c);
}

static void when_the_sockets_are_gone_no_copy_goes_up(void **state)
{
	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct connection c = connection_open(ipv6, LB_GRAFT_FULL);
		struct segment s = segment_on(&c, 10);
		struct frame_bytes in = marked(&s), out;

		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_SHOT);
		assert_int_equal(grafts[PAIR].leg[0].packets, 0);
		connection_close(&c);
	}
}

/* The mark that the packet itself leaves with is what its clone went up with. */
static void every_packet_but_syn_and_rst_has_a_copy(void **state)
{
	const struct {
		uint8_t flags;
		bool copy;
	} rows[] = {{ACK, true}, {ACK | FIN, true}, {SYN, false}, {RST, false}, {RST | ACK, false}};

	room_required();
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct segment s = segment_of(false, 0, 10), want;
		struct frame_bytes in, out, w;

		pair_open(false, LB_GRAFT_SPLIT);
		s.flags = rows[i].flags;
		in = build(&s);
		want = forwarded(&s, 0);
		if (rows[i].flags == SYN)
			want.seq = grafts[PAIR].leg[1].ack_max - 1;
		w = rows[i].copy ? marked(&want) : build(&want);
		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_REDIRECT);
		assert_frame("split", &out, &w, 0);
		assert_int_equal(grafts[PAIR].leg[0].packets, 1);
	}
}

/*
 * Its peer stands where our socket has let it come, 1300 of its bytes, and the other one takes none
 * beyond its edge. What says nothing but how far the peer has read is not to be lost with it.
 */
static void an_acknowledgement_stands_at_the_edge_of_its_receiver(void **state)
{
	const struct {
		uint32_t stage, edge, at;
		uint8_t flags;
		uint8_t payload;
	} rows[] = {
		{LB_GRAFT_SPLIT, 1000, 1000, ACK, 0},       /* a shut window */
		{LB_GRAFT_SPLIT, 1299, 1299, ACK, 0},       /* one that is too small */
		{LB_GRAFT_SPLIT, 1300, 1300, ACK, 0},       /* one that is filled */
		{LB_GRAFT_SPLIT, 2000, 1300, ACK, 0},       /* an open one */
		{LB_GRAFT_SPLIT, 1000, 1300, ACK, 1},       /* a byte has its place .. */
		{LB_GRAFT_SPLIT, 1000, 1300, ACK | FIN, 0}, /* .. and so has the end */
		{LB_GRAFT_FULL, 1000, 1000, ACK, 0},        /* not every stack looks at it */
		{LB_GRAFT_FULL, 1300, 1300, ACK, 0},
	};

	room_required();
	for (size_t i = 0; i < 4 * sizeof(rows) / sizeof(*rows); i++) {
		uint32_t row = (uint32_t)i / 4, leg = i & 1;
		bool ipv6 = i & 2;
		struct lb_graft *g = pair_open(ipv6, rows[row].stage);
		struct segment s = segment_of(ipv6, leg, rows[row].payload), want;
		struct frame_bytes in, out, w;

		g->leg[!leg].edge = out_of[!leg] + rows[row].edge;
		s.seq = in_of[leg] + 1300;
		s.flags = rows[row].flags;
		in = build(&s);
		want = forwarded(&s, leg);
		want.seq = out_of[!leg] + rows[row].at;
		w = rows[row].stage == LB_GRAFT_SPLIT ? marked(&want) : build(&want);
		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_REDIRECT);
		assert_frame(ipv6 ? "v6" : "v4", &out, &w, 0);
	}
}

/* What it is told beyond that, it would hold against what our socket says, which is older. */
static void an_acknowledgement_says_no_more_than_its_receiver_was_promised(void **state)
{
	const struct {
		uint32_t limit, ack, window;
	} rows[] = {{600, 600, 5400}, {999, 999, 5001}, {1000, 1000, 5000}, {1500, 1000, 5000}};

	room_required();
	for (size_t i = 0; i < 2 * sizeof(rows) / sizeof(*rows); i++) {
		struct segment s = segment_of(false, i & 1, 10), want;
		struct lb_graft *g = pair_open(false, LB_GRAFT_SPLIT);
		struct frame_bytes in = build(&s), out, w;

		g->leg[i & 1].ack_limit = in_of[!(i & 1)] + rows[i / 2].limit;
		want = forwarded(&s, i & 1);
		want.ack = in_of[!(i & 1)] + rows[i / 2].ack;
		want.window = (uint16_t)rows[i / 2].window;
		w = marked(&want);
		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_REDIRECT);
		assert_frame("limited", &out, &w, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_copy_is_an_acknowledgement_and_nothing_else),
		cmocka_unit_test(a_copy_reaches_a_socket_that_is_half_closed),
		cmocka_unit_test(no_copy_acknowledges_more_than_our_socket_sent),
		cmocka_unit_test(a_copy_without_a_socket_is_dropped),
		cmocka_unit_test(a_copy_that_acknowledges_nothing_is_dropped),
		cmocka_unit_test(when_the_sockets_are_gone_no_copy_goes_up),
		cmocka_unit_test(every_packet_but_syn_and_rst_has_a_copy),
		cmocka_unit_test(an_acknowledgement_stands_at_the_edge_of_its_receiver),
		cmocka_unit_test(an_acknowledgement_says_no_more_than_its_receiver_was_promised),
	};

	return cmocka_run_group_tests(tests, graft_setup, graft_teardown);
}
