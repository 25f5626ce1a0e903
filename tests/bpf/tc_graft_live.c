/* SPDX-License-Identifier: MIT */
/*
 * tc_graft at work: four real sockets on a loopback of our own, the program at its ingress. The
 * test plays the daemon: it fills in the pair, empties the sockets in between, and closes them.
 *
 *	client ~~~> leg 0   leg 1 ~~~> server	becomes	client ~~~~~~~~> server
 */
#include <linux/sockios.h>

#include "tc_graft.h"

#define PATIENCE_MS 5000
#define CHUNK       65536u
#define MARGIN_MS   100u

struct flow {
	int client, leg[2], server;
	uint64_t sent[2], received[2]; /* [0]: client -> server */
};

static int live_setup(void **state)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = 1, .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts);

	if (graft_setup(state))
		return -1;
	if (room_missing[0])
		return 0;
	opts.prog_fd = bpf_program__fd(skel->progs.tc_graft);
	return bpf_tc_hook_create(&hook) || bpf_tc_attach(&hook, &opts) ? -1 : 0;
}

/* --- streams ------------------------------------------------------------------------------- */

static uint8_t pattern(uint64_t position)
{
	return (uint8_t)((position * 0x9e3779b97f4a7c15ull) >> 56);
}

static void send_some(int fd, uint64_t *sent, uint64_t until)
{
	static uint8_t buf[CHUNK];
	size_t n = until - *sent < CHUNK ? until - *sent : CHUNK;
	ssize_t r;

	for (size_t i = 0; i < n; i++)
		buf[i] = pattern(*sent + i);
	r = send(fd, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (r > 0)
		*sent += (uint64_t)r;
	else if (errno != EAGAIN)
		fail_msg("send: %s", strerror(errno));
}

static void receive_some(int fd, uint64_t *received)
{
	static uint8_t buf[CHUNK];
	ssize_t n = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0)
		fail_msg("recv: %s", n ? strerror(errno) : "end");
	for (ssize_t i = 0; i < n; i++)
		if (buf[i] != pattern(*received + (uint64_t)i))
			fail_msg("byte %llu differs",
				 (unsigned long long)*received + (unsigned long long)i);
	*received += (uint64_t)n;
}

/* <bytes> more both ways at once; what the sockets in between still have goes by our hands. */
static void carry(struct flow *f, uint64_t bytes)
{
	uint64_t until[2] = {f->sent[0] + bytes, f->sent[1] + bytes};
	uint64_t deadline = lb_clock_ms() + PATIENCE_MS;

	while (f->received[0] < until[0] || f->received[1] < until[1]) {
		if (f->sent[0] < until[0])
			send_some(f->client, &f->sent[0], until[0]);
		if (f->sent[1] < until[1])
			send_some(f->server, &f->sent[1], until[1]);
		receive_some(f->server, &f->received[0]);
		receive_some(f->client, &f->received[1]);
		if (lb_clock_ms() > deadline)
			fail_msg("stalled at %llu and %llu of %llu",
				 (unsigned long long)f->received[0],
				 (unsigned long long)f->received[1], (unsigned long long)until[0]);
	}
}

/* --- the daemon's part --------------------------------------------------------------------- */

struct numbers {
	uint32_t in, out, rcv_nxt, snd_una, ts;
	struct tcp_info ti;
	struct sockaddr_in us, peer;
};

static struct numbers numbers_of(int fd)
{
	int on = TCP_REPAIR_ON, off = TCP_REPAIR_OFF_NO_WP, queue;
	socklen_t len = sizeof(uint32_t), addr_len = sizeof(struct sockaddr_in);
	struct numbers n;
	uint32_t write_seq;
	int unacked;

	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
	queue = TCP_RECV_QUEUE;
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)), 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &n.rcv_nxt, &len), 0);
	queue = TCP_SEND_QUEUE;
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, &queue, sizeof(queue)), 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, &write_seq, &len), 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof(off)), 0);
	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_TIMESTAMP, &n.ts, &len), 0);
	assert_int_equal(ioctl(fd, SIOCOUTQ, &unacked), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&n.us, &addr_len), 0);
	assert_int_equal(getpeername(fd, (struct sockaddr *)&n.peer, &addr_len), 0);
	n.ti = room_tcp_info(fd);
	n.in = n.rcv_nxt - (uint32_t)n.ti.tcpi_bytes_received;
	n.out = write_seq - (uint32_t)(n.ti.tcpi_bytes_sent + n.ti.tcpi_notsent_bytes -
				       n.ti.tcpi_bytes_retrans);
	n.snd_una = write_seq - (uint32_t)unacked;
	return n;
}

/* In PASS: all that is known of both sockets, and the keys. */
static struct lb_graft *graft_prepare(struct flow *f)
{
	struct numbers n[2] = {numbers_of(f->leg[0]), numbers_of(f->leg[1])};
	struct lb_graft *g = &grafts[PAIR];

	memset(g, 0, sizeof(*g));
	g->stage = LB_GRAFT_PASS;
	for (uint32_t i = 0; i < 2; i++) {
		struct numbers *a = &n[i], *b = &n[!i];
		struct lb_graft_leg *leg = &g->leg[i];
		struct lb_graft_v4 key = {a->peer.sin_addr.s_addr, a->us.sin_addr.s_addr,
					  a->peer.sin_port, a->us.sin_port};
		uint32_t index = PAIR * 2 + i;

		leg->saddr[0] = b->us.sin_addr.s_addr;
		leg->daddr[0] = b->peer.sin_addr.s_addr;
		leg->sport = b->us.sin_port;
		leg->dport = b->peer.sin_port;
		leg->seq_shift = b->out - a->in;
		leg->ack_shift = b->in - a->out;
		leg->ifindex = LOCAL;
		leg->ts_clock = b->ts - (uint32_t)(lb_clock_ns() / 1000000) + MARGIN_MS;
		leg->wscale_in = a->ti.tcpi_snd_wscale;
		leg->wscale_out = b->ti.tcpi_rcv_wscale;
		leg->fixed = LB_GRAFT_TIMESTAMPS;
		leg->bytes = a->ti.tcpi_bytes_received;
		leg->seq_end = a->rcv_nxt;
		leg->ack_max = a->snd_una;
		leg->edge = a->snd_una + a->ti.tcpi_snd_wnd;
		assert_int_equal(bpf_map_update_elem(key_fd(false), &key, &index, BPF_ANY), 0);
	}
	events_since();
	return g;
}

/* In SPLIT: what <from>'s socket still has goes to <to>'s. Returns how much. */
static uint32_t empty_socket(struct flow *f, struct lb_graft *g, uint32_t from)
{
	static uint8_t buf[CHUNK];
	uint32_t total = 0;

	for (;;) {
		ssize_t n = recv(f->leg[from], buf, sizeof(buf), MSG_DONTWAIT);

		if (n <= 0)
			return total;
		assert_int_equal(send(f->leg[!from], buf, (size_t)n, MSG_DONTWAIT), n);
		total += (uint32_t)n;
	}
}

static void await_acknowledged(int fd)
{
	uint64_t deadline = lb_clock_ms() + PATIENCE_MS;
	int unacked = 1;

	while (unacked) {
		assert_int_equal(ioctl(fd, SIOCOUTQ, &unacked), 0);
		if (lb_clock_ms() > deadline)
			fail_msg("%d bytes were never acknowledged", unacked);
	}
}

static void close_silently(int *fd)
{
	int on = TCP_REPAIR_ON;

	assert_int_equal(setsockopt(*fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)), 0);
	lb_cleanup_close(fd);
	*fd = -1;
}

static struct flow flow_open(void)
{
	struct flow f = {};

	memset(grafts, 0, PAIRS * sizeof(*grafts));
	room_connect(1 << 20, &f.client, &f.leg[0]);
	room_connect(1 << 20, &f.leg[1], &f.server);
	return f;
}

static void flow_close(struct flow *f)
{
	grafts[PAIR].stage = LB_GRAFT_FREE;
	lb_cleanup_close(&f->client);
	lb_cleanup_close(&f->leg[0]);
	lb_cleanup_close(&f->leg[1]);
	lb_cleanup_close(&f->server);
}

static void flow_to_full(struct flow *f, struct lb_graft *g)
{
	__atomic_store_n(&g->stage, LB_GRAFT_SPLIT, __ATOMIC_SEQ_CST);
	empty_socket(f, g, 0);
	empty_socket(f, g, 1);
	await_acknowledged(f->leg[0]);
	await_acknowledged(f->leg[1]);
	__atomic_store_n(&g->stage, LB_GRAFT_FULL, __ATOMIC_SEQ_CST);
	close_silently(&f->leg[0]);
	close_silently(&f->leg[1]);
}

/* A new flow of no bytes, grafted. */
static struct lb_graft *flow_graft(struct flow *f)
{
	struct lb_graft *g = graft_prepare(f);

	flow_to_full(f, g);
	return g;
}

/* --- the promises -------------------------------------------------------------------------- */

static void a_flow_without_sockets_carries_every_byte_both_ways(void **state)
{
	struct lb_graft *g;
	struct flow f;

	room_required();
	f = flow_open();
	g = flow_graft(&f);
	for (uint64_t bytes = 1; bytes <= 1 << 20; bytes *= 4)
		carry(&f, bytes);
	assert_int_equal(g->leg[0].bytes, f.sent[0]);
	assert_int_equal(g->leg[1].bytes, f.sent[1]);
	flow_close(&f);
}

static void bytes_from_before_are_delivered_by_the_sockets(void **state)
{
	const uint64_t late[2] = {150000, 70000};
	uint64_t deadline = lb_clock_ms() + PATIENCE_MS;
	struct lb_graft *g;
	struct flow f;

	room_required();
	f = flow_open();
	while (f.sent[0] < late[0])
		send_some(f.client, &f.sent[0], late[0]);
	while (f.sent[1] < late[1])
		send_some(f.server, &f.sent[1], late[1]);
	/* All of it has arrived in the sockets in between; nobody reads. */
	await_acknowledged(f.client);
	await_acknowledged(f.server);
	g = graft_prepare(&f);
	assert_int_equal(g->leg[0].bytes, late[0]);
	__atomic_store_n(&g->stage, LB_GRAFT_SPLIT, __ATOMIC_SEQ_CST);
	/* What follows overtakes, and waits at its place. */
	send_some(f.client, &f.sent[0], late[0] + 1000);
	send_some(f.server, &f.sent[1], late[1] + 1000);
	assert_int_equal(empty_socket(&f, g, 0), late[0]);
	assert_int_equal(empty_socket(&f, g, 1), late[1]);
	while (f.received[0] < f.sent[0] || f.received[1] < f.sent[1]) {
		receive_some(f.server, &f.received[0]);
		receive_some(f.client, &f.received[1]);
		if (lb_clock_ms() > deadline)
			fail_msg("stalled at %llu and %llu", (unsigned long long)f.received[0],
				 (unsigned long long)f.received[1]);
	}
	flow_to_full(&f, g);
	carry(&f, 300000);
	assert_int_equal(g->leg[0].bytes, f.sent[0]);
	assert_int_equal(g->leg[1].bytes, f.sent[1]);
	flow_close(&f);
}

static void both_ends_close_and_the_books_say_so(void **state)
{
	uint64_t deadline = lb_clock_ms() + PATIENCE_MS;
	const uint32_t done = LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED;
	struct lb_graft *g;
	struct flow f;
	char byte;

	room_required();
	f = flow_open();
	g = flow_graft(&f);
	carry(&f, 1000);
	assert_int_equal(shutdown(f.client, SHUT_WR), 0);
	assert_true(room_readable(f.server, PATIENCE_MS));
	assert_int_equal(recv(f.server, &byte, 1, 0), 0);
	/* Half-closed: the other direction goes on. */
	send_some(f.server, &f.sent[1], 6000);
	while (f.received[1] < f.sent[1])
		receive_some(f.client, &f.received[1]);
	assert_int_equal(shutdown(f.server, SHUT_WR), 0);
	assert_true(room_readable(f.client, PATIENCE_MS));
	assert_int_equal(recv(f.client, &byte, 1, 0), 0);
	while ((g->leg[0].flags & g->leg[1].flags & done) != done)
		assert_true(lb_clock_ms() < deadline);
	assert_int_equal(events_since(), 1);
	assert_int_equal(g->leg[0].bytes, 1000);
	assert_int_equal(g->leg[1].bytes, 6000);
	flow_close(&f);
}

static void a_reset_reaches_the_other_end_and_the_books(void **state)
{
	struct linger hard = {.l_onoff = 1};
	struct lb_graft *g;
	struct flow f;
	char byte;

	room_required();
	f = flow_open();
	g = flow_graft(&f);
	carry(&f, 1000);
	assert_int_equal(setsockopt(f.client, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard)), 0);
	lb_cleanup_close(&f.client);
	f.client = -1;
	assert_true(room_readable(f.server, PATIENCE_MS));
	assert_int_equal(recv(f.server, &byte, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	assert_int_equal(g->leg[0].flags & LB_GRAFT_RST, LB_GRAFT_RST);
	assert_int_equal(events_since(), 1);
	flow_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_flow_without_sockets_carries_every_byte_both_ways),
		cmocka_unit_test(bytes_from_before_are_delivered_by_the_sockets),
		cmocka_unit_test(both_ends_close_and_the_books_say_so),
		cmocka_unit_test(a_reset_reaches_the_other_end_and_the_books),
	};

	return cmocka_run_group_tests(tests, live_setup, graft_teardown);
}
