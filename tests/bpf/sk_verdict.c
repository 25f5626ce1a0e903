/* SPDX-License-Identifier: MIT */
/*
 * sk_verdict: the credit gate between real sockets, through the table that the flows use.
 *
 *	client ~~~> leg 0 ==sk_verdict==> leg 1 ~~~> server
 *
 * The test plays the daemon: it reads what is passed and publishes user_done.
 */
#include <stdlib.h>

#include <bpf/bpf.h>

#include "kernel/handle.h"
#include "room.h"

#define WORKERS      2
#define LEG0         0u
#define LEG1         1u
#define BUFFER_BYTES (256 * 1024)
#define PATIENCE_MS  5000

static struct lb_kernel *kernel;

struct events {
	unsigned int count;
	struct lb_event last;
};

/* A flow on pair 0; -1 where a socket is closed. Bytes are counted from its first. */
struct flow {
	int client, leg0, leg1, server;
	uint64_t cookie[2];
	uint64_t sent, received; /* client -> server */
	struct lb_gate *up, *down;
	unsigned char held[65536]; /* passed bytes the daemon has and has not written */
	size_t held_bytes, held_done;
};

/* --- the daemon's side ------------------------------------------------------------------------ */

static void count_event(void *arg, const struct lb_event *e)
{
	struct events *events = arg;

	events->count++;
	events->last = *e;
}

static struct events drain_ring(uint32_t worker)
{
	struct events events = {};

	assert_false(lb_ring_consume(kernel, worker, count_event, &events));
	return events;
}

/* The program runs on other CPUs. */
static uint64_t seen(const __u64 *counter)
{
	return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static uint32_t mode(const struct lb_gate *gate)
{
	return __atomic_load_n(&gate->mode, __ATOMIC_ACQUIRE);
}

/* Everything redirected so far has left for the sink's send queue. */
static bool sink_is_drained(const struct flow *f)
{
	struct tcp_info ti = room_tcp_info(f->leg1);
	uint64_t written = ti.tcpi_bytes_sent - ti.tcpi_bytes_retrans + ti.tcpi_notsent_bytes;

	return written == seen(&f->up->redirected) + f->up->user_done;
}

static void insert(struct flow *f, uint32_t index, int fd)
{
	struct lb_gate *gate = lb_table_gate(kernel, index);

	*gate = (struct lb_gate){};
	f->cookie[index] = room_cookie(fd);
	assert_int_equal(lb_table_insert(kernel, index, fd, f->cookie[index]), 0);
}

/* --- the ends of the flow ------------------------------------------------------------------------ */

static struct flow flow_open(void)
{
	struct flow f = {.up = lb_table_gate(kernel, LEG0), .down = lb_table_gate(kernel, LEG1)};

	room_connect(BUFFER_BYTES, &f.client, &f.leg0);
	room_connect(BUFFER_BYTES, &f.leg1, &f.server);
	return f;
}

static struct flow flow_open_inserted(void)
{
	struct flow f = flow_open();

	insert(&f, LEG1, f.leg1);
	insert(&f, LEG0, f.leg0);
	return f;
}

static void flow_close(struct flow *f)
{
	lb_cleanup_close(&f->client);
	lb_cleanup_close(&f->leg0);
	lb_cleanup_close(&f->leg1);
	lb_cleanup_close(&f->server);
	for (uint32_t i = 0; i < 2; i++)
		if (f->cookie[i])
			lb_table_forget(kernel, f->cookie[i]);
	drain_ring(0);
}

static unsigned char pattern(uint64_t position)
{
	return (unsigned char)((position * 0x9e3779b97f4a7c15ull) >> 56);
}

static void fill(unsigned char *buf, size_t len, uint64_t position)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = pattern(position + i);
}

static void check(const unsigned char *buf, size_t len, uint64_t position)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != pattern(position + i))
			fail_msg("byte %llu differs", (unsigned long long)(position + i));
}

/* Sends <len> bytes of the pattern and waits for them at the other end. */
static void carry(int from, int to, size_t len, uint64_t position)
{
	unsigned char out[4096], in[4096];
	size_t got = 0;

	assert_true(len <= sizeof(out));
	fill(out, len, position);
	assert_int_equal(send(from, out, len, MSG_NOSIGNAL), len);
	while (got < len) {
		ssize_t n;

		if (!room_readable(to, PATIENCE_MS))
			fail_msg("only %zu of %zu bytes arrived", got, len);
		n = recv(to, in + got, len - got, 0);
		assert_true(n > 0);
		got += (size_t)n;
	}
	check(in, len, position);
}

static void assert_nothing_to_read(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

/* The client sends until everything between it and the server is full. */
static void send_until_stalled(struct flow *f)
{
	static unsigned char buf[65536];
	struct pollfd p = {.fd = f->client, .events = POLLOUT};

	do {
		ssize_t n;

		fill(buf, sizeof(buf), f->sent);
		n = send(f->client, buf, sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0)
			f->sent += (uint64_t)n;
		else
			assert_int_equal(errno, EAGAIN);
		if (f->sent > 64u * BUFFER_BYTES)
			fail_msg("the client never stalled");
	} while (poll(&p, 1, 300) == 1);
}

static void receive_some(struct flow *f)
{
	static unsigned char buf[65536];
	ssize_t n = recv(f->server, buf, sizeof(buf), MSG_DONTWAIT);

	if (n < 0) {
		assert_int_equal(errno, EAGAIN);
		return;
	}
	assert_true(n > 0);
	check(buf, (size_t)n, f->received);
	f->received += (uint64_t)n;
}

/* One turn of what the daemon does while the gate is USER. */
static void forward_some(struct flow *f)
{
	ssize_t n;

	if (f->held_done == f->held_bytes) {
		n = recv(f->leg0, f->held, sizeof(f->held), MSG_DONTWAIT);
		if (n <= 0)
			return;
		f->held_bytes = (size_t)n;
		f->held_done = 0;
	}
	if (!sink_is_drained(f))
		return;
	n = send(f->leg1, f->held + f->held_done, f->held_bytes - f->held_done,
		 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n <= 0)
		return;
	f->held_done += (size_t)n;
	__atomic_store_n(&f->up->user_done, f->up->user_done + (uint64_t)n, __ATOMIC_RELEASE);
}

static void deliver_everything(struct flow *f)
{
	uint64_t deadline = lb_clock_ms() + PATIENCE_MS;

	while (f->received < f->sent) {
		forward_some(f);
		receive_some(f);
		if (lb_clock_ms() > deadline)
			fail_msg("%llu of %llu bytes arrived", (unsigned long long)f->received,
				 (unsigned long long)f->sent);
	}
	assert_nothing_to_read(f->server);
}

/* --- in the kernel --------------------------------------------------------------------------------- */

static void a_stream_crosses_both_ways_in_the_kernel(void **state)
{
	const size_t bytes = 1000, rounds = 200;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	for (size_t i = 0; i < rounds; i++) {
		carry(f.client, f.server, bytes, i * bytes);
		carry(f.server, f.client, bytes, i * bytes + 7);
	}
	assert_int_equal(seen(&f.up->redirected), bytes * rounds);
	assert_int_equal(seen(&f.down->redirected), bytes * rounds);
	assert_int_equal(seen(&f.up->passed) + seen(&f.down->passed), 0);
	assert_int_equal(mode(f.up), LB_GATE_KERNEL);
	assert_int_equal(mode(f.down), LB_GATE_KERNEL);
	assert_nothing_to_read(f.leg0);
	assert_nothing_to_read(f.leg1);
	assert_int_equal(drain_ring(0).count, 0);
	flow_close(&f);
}

static void the_gate_knows_when_the_last_byte_came(void **state)
{
	uint64_t now;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	assert_int_equal(seen(&f.up->last_ns), 0);
	now = lb_clock_ns();
	carry(f.client, f.server, 1, 0);
	/* A jiffy is at most 10 ms. */
	assert_in_range(seen(&f.up->last_ns), now - 10 * 1000000, lb_clock_ns());
	assert_int_equal(seen(&f.down->last_ns), 0);
	flow_close(&f);
}

static void a_bare_fin_is_seen_by_the_daemon_and_harms_no_sink(void **state)
{
	int error = -1;
	socklen_t len = sizeof(error);
	struct flow f;
	char byte;

	room_required();
	f = flow_open_inserted();
	carry(f.client, f.server, 100, 0);
	assert_int_equal(shutdown(f.client, SHUT_WR), 0);
	assert_true(room_readable(f.leg0, PATIENCE_MS));
	assert_int_equal(recv(f.leg0, &byte, 1, MSG_DONTWAIT), 0);
	/* A redirected FIN would arrive by way of a kernel thread. */
	assert_false(room_readable(f.server, 50));
	assert_int_equal(getsockopt(f.leg1, SOL_SOCKET, SO_ERROR, &error, &len), 0);
	assert_int_equal(error, 0);
	assert_int_equal(seen(&f.up->redirected), 100);
	assert_int_equal(seen(&f.up->passed), 0);
	/* Half-closed: the other direction goes on, and the daemon can still write to the sink. */
	carry(f.server, f.client, 1000, 0);
	assert_int_equal(seen(&f.down->redirected), 1000);
	carry(f.leg1, f.server, 10, 100);
	flow_close(&f);
}

/* --- the slow reader ------------------------------------------------------------------------------- */

static void a_sink_that_does_not_read_closes_the_gate_once(void **state)
{
	struct events events;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	send_until_stalled(&f);
	events = drain_ring(0);
	assert_int_equal(events.count, 1);
	assert_int_equal(events.last.kind, LB_EVENT_GATE_USER);
	assert_int_equal(events.last.index, LEG0);
	assert_int_equal(mode(f.up), LB_GATE_USER);
	assert_int_equal(f.up->episodes, 1);
	assert_int_equal(drain_ring(1).count, 0);
	/* Nothing that was received is unaccounted for, and the sink's send buffer (which the
	 * kernel doubled) bounds what was redirected beyond what the reader's buffer took. */
	assert_int_equal(seen(&f.up->redirected) + seen(&f.up->passed),
			 room_tcp_info(f.leg0).tcpi_bytes_received);
	assert_true(seen(&f.up->redirected) > 0);
	assert_true(seen(&f.up->redirected) <= 4u * BUFFER_BYTES);
	assert_true(seen(&f.up->passed) > 0);
	flow_close(&f);
}

static void after_a_stall_every_byte_arrives_in_order(void **state)
{
	struct flow f;

	room_required();
	f = flow_open_inserted();
	send_until_stalled(&f);
	deliver_everything(&f);
	assert_int_equal(seen(&f.up->redirected) + seen(&f.up->passed), f.sent);
	assert_int_equal(seen(&f.up->passed), f.up->user_done);
	flow_close(&f);
}

static void the_gate_opens_by_itself_when_all_is_written(void **state)
{
	uint64_t redirected, passed;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	send_until_stalled(&f);
	deliver_everything(&f);
	redirected = seen(&f.up->redirected);
	passed = seen(&f.up->passed);
	drain_ring(0);
	carry(f.client, f.server, 1000, f.sent);
	assert_int_equal(mode(f.up), LB_GATE_KERNEL);
	assert_int_equal(seen(&f.up->redirected), redirected + 1000);
	assert_int_equal(seen(&f.up->passed), passed);
	assert_int_equal(drain_ring(0).count, 0);
	flow_close(&f);
}

static void the_gate_stays_closed_while_the_daemon_holds_a_byte(void **state)
{
	struct flow f;
	char byte;

	room_required();
	f = flow_open_inserted();
	f.up->passed = f.up->user_done = 10; /* as if ten bytes had gone through our hands .. */
	f.up->user_done--;                   /* .. but for the last */
	assert_int_equal(send(f.client, "x", 1, 0), 1);
	assert_true(room_readable(f.leg0, PATIENCE_MS));
	assert_int_equal(recv(f.leg0, &byte, 1, 0), 1);
	assert_int_equal(mode(f.up), LB_GATE_USER);
	assert_int_equal(seen(&f.up->passed), 11);
	assert_int_equal(seen(&f.up->redirected), 0);
	flow_close(&f);
}

static void each_worker_hears_of_its_own_flows_only(void **state)
{
	struct flow f;

	room_required();
	f = flow_open_inserted();
	f.up->worker = 1;
	send_until_stalled(&f);
	assert_int_equal(drain_ring(0).count, 0);
	assert_true(room_readable(lb_ring_fd(kernel, 1), 0));
	assert_int_equal(drain_ring(1).count, 1);
	assert_false(room_readable(lb_ring_fd(kernel, 1), 0));
	flow_close(&f);
}

static void a_lost_record_is_told_once(void **state)
{
	const uint32_t worker = 1;
	struct events events = {};
	int rings_fd = -1;
	struct flow f;
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];

	room_required();
	for (size_t i = 0, n = lb_load_objects(&kernel->load, objects); i < n; i++)
		if (!strcmp(objects[i].name, "lb_rings"))
			rings_fd = objects[i].fd;
	assert_int_equal(bpf_map_delete_elem(rings_fd, &worker), 0);
	f = flow_open_inserted();
	f.up->worker = worker;
	send_until_stalled(&f);
	assert_true(lb_ring_consume(kernel, worker, count_event, &events));
	assert_false(lb_ring_consume(kernel, worker, count_event, &events));
	assert_int_equal(events.count, 0);
	assert_int_equal(mode(f.up), LB_GATE_USER);
	flow_close(&f);
	assert_int_equal(lb_load_set_ring(&kernel->load, worker, lb_ring_fd(kernel, worker)), 0);
}

/* --- nobody there -------------------------------------------------------------------------------------- */

static void without_a_peer_bytes_are_passed_not_dropped(void **state)
{
	struct flow f;

	room_required();
	f = flow_open();
	insert(&f, LEG0, f.leg0);
	carry(f.client, f.leg0, 1000, 0);
	assert_int_equal(seen(&f.up->passed), 1000);
	assert_int_equal(seen(&f.up->redirected), 0);
	assert_int_equal(drain_ring(0).count, 0);
	flow_close(&f);
}

static void when_the_peer_goes_the_daemon_is_told_and_gets_the_bytes(void **state)
{
	struct events events;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	carry(f.client, f.server, 100, 0);
	lb_cleanup_close(&f.leg1);
	f.leg1 = -1;
	carry(f.client, f.leg0, 1000, 100);
	assert_int_equal(seen(&f.up->passed), 1000);
	assert_int_equal(seen(&f.up->redirected), 100);
	events = drain_ring(0);
	assert_int_equal(events.count, 1);
	assert_int_equal(events.last.index, LEG0);
	flow_close(&f);
}

static void a_sink_that_was_shut_down_takes_nothing_more(void **state)
{
	struct flow f;

	room_required();
	f = flow_open_inserted();
	carry(f.client, f.server, 100, 0);
	assert_int_equal(shutdown(f.leg1, SHUT_WR), 0);
	carry(f.client, f.leg0, 1000, 100);
	assert_int_equal(seen(&f.up->passed), 1000);
	assert_int_equal(seen(&f.up->redirected), 100);
	flow_close(&f);
}

static void an_unknown_cookie_is_passed_and_not_counted(void **state)
{
	struct flow f;

	room_required();
	f = flow_open_inserted();
	lb_table_forget(kernel, f.cookie[LEG0]);
	carry(f.client, f.leg0, 1000, 0);
	assert_int_equal(seen(&f.up->passed), 0);
	assert_int_equal(seen(&f.up->redirected), 0);
	flow_close(&f);
}

/* --- the table ------------------------------------------------------------------------------------------- */

static void assert_cookie_is_unknown(uint64_t cookie)
{
	uint32_t index;

	assert_int_equal(bpf_map_lookup_elem(kernel->load.cookies_fd, &cookie, &index), -ENOENT);
}

static void a_leg_that_is_closing_is_refused_without_a_trace(void **state)
{
	uint64_t cookie;
	struct flow f;
	char byte;

	room_required();
	f = flow_open();
	cookie = room_cookie(f.leg0);
	assert_int_equal(shutdown(f.client, SHUT_WR), 0);
	assert_int_equal(recv(f.leg0, &byte, 1, 0), 0);
	assert_int_equal(lb_table_insert(kernel, LEG0, f.leg0, cookie), -EOPNOTSUPP);
	assert_cookie_is_unknown(cookie);
	flow_close(&f);
}

static void a_slot_that_is_taken_keeps_its_socket(void **state)
{
	uint64_t cookie;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	cookie = room_cookie(f.server);
	assert_int_equal(lb_table_insert(kernel, LEG0, f.server, cookie), -EEXIST);
	assert_cookie_is_unknown(cookie);
	carry(f.client, f.server, 100, 0);
	assert_int_equal(seen(&f.up->redirected), 100);
	flow_close(&f);
}

static void closing_a_socket_empties_its_slot(void **state)
{
	room_required();
	for (int i = 0; i < 3; i++) {
		struct flow f = flow_open_inserted();

		flow_close(&f);
		assert_cookie_is_unknown(f.cookie[LEG0]);
	}
}

static void what_does_not_fit_is_refused_as_full(void **state)
{
	uint32_t beyond;
	struct flow f;

	room_required();
	beyond = lb_kernel_pairs(kernel) * 2;
	f = flow_open();
	assert_int_equal(lb_table_insert(kernel, beyond, f.leg0, room_cookie(f.leg0)), -ENOSPC);
	assert_cookie_is_unknown(room_cookie(f.leg0));
	assert_int_equal(lb_table_insert(kernel, beyond - 1, f.leg0, room_cookie(f.leg0)), 0);
	f.cookie[0] = room_cookie(f.leg0);
	flow_close(&f);
}

/* --- for whoever looks with bpftool ------------------------------------------------------------------------ */

static void the_program_has_a_name_and_btf(void **state)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];
	size_t n;

	room_required();
	n = lb_load_objects(&kernel->load, objects);
	assert_string_equal(objects[n - 1].name, "sk_verdict");
	assert_int_equal(bpf_obj_get_info_by_fd(objects[n - 1].fd, &info, &len), 0);
	assert_string_equal(info.name, "sk_verdict");
	assert_int_equal(info.type, BPF_PROG_TYPE_SK_SKB);
	assert_true(info.btf_id > 0);
}

static void every_map_has_its_name_and_what_can_have_btf_has_it(void **state)
{
	static const struct {
		const char *name;
		bool btf; /* libbpf gives none to maps of sockets and of maps */
	} maps[] = {
		{"lb_socks", false}, {"lb_cookies", true},    {"lb_gates", true},
		{"lb_rings", false}, {"lb_ring_state", true},
	};
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];

	room_required();
	lb_load_objects(&kernel->load, objects);
	for (size_t i = 0; i < LB_ARRAY_SIZE(maps); i++) {
		struct bpf_map_info info = {};
		__u32 len = sizeof(info);

		assert_int_equal(bpf_obj_get_info_by_fd(objects[i].fd, &info, &len), 0);
		assert_string_equal(info.name, maps[i].name);
		assert_int_equal(info.btf_id > 0, maps[i].btf);
	}
}

static int setup(void **state)
{
	struct lb_kernel_opts opts = {.instance = "test", .pairs = 4, .workers = WORKERS};
	struct lb_kernel_report report;

	if (room_enter(state) || room_missing[0])
		return 0;
	if (lb_kernel_open(&kernel, &opts, &report)) {
		print_error("%s: %s\n", lb_why_word(report.why), report.detail);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	lb_kernel_close(kernel);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_crosses_both_ways_in_the_kernel),
		cmocka_unit_test(the_gate_knows_when_the_last_byte_came),
		cmocka_unit_test(a_bare_fin_is_seen_by_the_daemon_and_harms_no_sink),
		cmocka_unit_test(a_sink_that_does_not_read_closes_the_gate_once),
		cmocka_unit_test(after_a_stall_every_byte_arrives_in_order),
		cmocka_unit_test(the_gate_opens_by_itself_when_all_is_written),
		cmocka_unit_test(the_gate_stays_closed_while_the_daemon_holds_a_byte),
		cmocka_unit_test(each_worker_hears_of_its_own_flows_only),
		cmocka_unit_test(a_lost_record_is_told_once),
		cmocka_unit_test(without_a_peer_bytes_are_passed_not_dropped),
		cmocka_unit_test(when_the_peer_goes_the_daemon_is_told_and_gets_the_bytes),
		cmocka_unit_test(a_sink_that_was_shut_down_takes_nothing_more),
		cmocka_unit_test(an_unknown_cookie_is_passed_and_not_counted),
		cmocka_unit_test(a_leg_that_is_closing_is_refused_without_a_trace),
		cmocka_unit_test(a_slot_that_is_taken_keeps_its_socket),
		cmocka_unit_test(closing_a_socket_empties_its_slot),
		cmocka_unit_test(what_does_not_fit_is_refused_as_full),
		cmocka_unit_test(the_program_has_a_name_and_btf),
		cmocka_unit_test(every_map_has_its_name_and_what_can_have_btf_has_it),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
