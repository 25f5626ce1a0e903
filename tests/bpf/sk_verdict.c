/* SPDX-License-Identifier: MIT */
/*
 * sk_verdict: the credit gate between real sockets, through the table that the flows use.
 * The test plays the daemon: it reads what is passed and publishes user_done.
 */
#include <bpf/bpf.h>

#include "flow.h"

#include "flow/bucket.h"

/* --- the daemon's side --------------------------------------------------------------------- */

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

/* --- the ends of the flow ------------------------------------------------------------------ */

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
		if (f->sent > 64u * FLOW_BUFFER)
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

/* --- in the kernel ------------------------------------------------------------------------- */

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

static void the_gate_knows_when_the_first_byte_came(void **state)
{
	uint64_t now, first;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	now = lb_clock_ns();
	carry(f.server, f.client, 1, 0);
	first = seen(&f.down->first_ns);
	assert_in_range(first, now, lb_clock_ns());
	carry(f.server, f.client, 1000, 1);
	assert_int_equal(seen(&f.down->first_ns), first);
	assert_int_equal(seen(&f.up->first_ns), 0);
	/* A byte that goes to the daemon is one too. */
	flow_close(&f);
	f = flow_open();
	insert(&f, LEG1, f.leg1);
	now = lb_clock_ns();
	carry(f.server, f.leg1, 1, 0);
	assert_int_equal(seen(&f.down->passed), 1);
	assert_in_range(seen(&f.down->first_ns), now, lb_clock_ns());
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

/* --- the slow reader ----------------------------------------------------------------------- */

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
	assert_true(seen(&f.up->redirected) <= 4u * FLOW_BUFFER);
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

/*
 * Passed skbs must not wait behind redirected ones in the same socket's queue: the kernel would
 * charge them without the socket's lock.
 */
static void while_one_direction_is_with_the_daemon_the_other_one_goes_there_too(void **state)
{
	struct events events = {};
	struct flow f;

	room_required();
	f = flow_open_inserted();
	send_until_stalled(&f);
	events = drain_ring(0);
	assert_int_equal(events.count, 1);
	for (int i = 0; i < 100 && !sink_is_drained(&f); i++)
		usleep(1000);
	assert_true(sink_is_drained(&f));

	carry(f.server, f.leg1, 1000, 7);
	assert_int_equal(seen(&f.down->passed), 1000);
	assert_int_equal(seen(&f.down->redirected), 0);
	events = drain_ring(0);
	assert_int_equal(events.count, 1);
	assert_int_equal(events.last.index, LEG1);

	deliver_everything(&f);
	__atomic_store_n(&f.down->user_done, 1000, __ATOMIC_RELEASE);
	carry(f.server, f.client, 1000, 1007);
	assert_int_equal(seen(&f.down->redirected), 1000);
	flow_close(&f);
}

/* --- nobody there -------------------------------------------------------------------------- */

static void without_a_peer_bytes_are_passed_not_dropped(void **state)
{
	struct flow f;

	room_required();
	f = flow_open();
	insert(&f, LEG0, f.leg0);
	carry(f.client, f.leg0, 1000, 0);
	assert_int_equal(seen(&f.up->passed), 1000);
	assert_int_equal(seen(&f.up->redirected), 0);
	/* Told once, for the first byte that it owes. */
	carry(f.client, f.leg0, 1000, 1000);
	assert_int_equal(drain_ring(0).count, 1);
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

/* --- limits -------------------------------------------------------------------------------- */

/* Buckets 1 and 2 are those of direction up: as the daemon sets them before it inserts. */
static struct lb_bucket *limit(struct flow *f, uint64_t client_rate, uint64_t backend_rate)
{
	struct lb_bucket *b = lb_table_buckets(kernel);

	lb_bucket_init(&b[1], client_rate);
	lb_bucket_init(&b[2], backend_rate);
	f->up->bucket[0] = 1;
	f->up->bucket[1] = 2;
	return b;
}

/* False when that took longer than something was owed: such a machine has shown nothing. */
static bool redirect_while_something_is_owed(void)
{
	struct flow f = flow_open_inserted();
	struct lb_bucket *b = limit(&f, 1000000, 2000000);
	/* More than a jiffy, less than half a burst. */
	uint64_t ahead = lb_clock_ns() + 8000000;
	bool in_time;

	b[1].tat = b[2].tat = ahead;
	carry(f.client, f.server, 1000, 0);
	in_time = lb_clock_ns() < ahead;
	carry(f.server, f.client, 1000, 0);
	if (in_time) {
		assert_int_equal(seen(&f.up->redirected), 1000);
		assert_int_equal(seen(&b[1].tat), ahead + 1000000);
		assert_int_equal(seen(&b[2].tat), ahead + 500000);
	}
	flow_close(&f);
	return in_time;
}

static void what_is_redirected_is_charged_to_both_buckets(void **state)
{
	int tries = 20;

	room_required();
	while (tries && !redirect_while_something_is_owed())
		tries--;
	assert_true(tries > 0);
}

static void without_budget_in_either_bucket_bytes_go_to_the_daemon_uncharged(void **state)
{
	for (unsigned int which = 1; which <= 2; which++) {
		uint64_t far = lb_clock_ns() + 3600000000000ull;
		struct events events;
		struct lb_bucket *b;
		struct flow f;

		room_required();
		f = flow_open_inserted();
		b = limit(&f, 1000000, 1000000);
		carry(f.client, f.server, 100, 0);
		b[which].tat = far;
		carry(f.client, f.leg0, 1000, 100);
		assert_int_equal(seen(&f.up->passed), 1000);
		assert_int_equal(mode(f.up), LB_GATE_USER);
		assert_int_equal(seen(&b[which].tat), far);
		events = drain_ring(0);
		assert_int_equal(events.count, 1);
		assert_int_equal(events.last.index, LEG0);
		/* With everything written and budget again the kernel goes on by itself. */
		__atomic_store_n(&f.up->user_done, 1000, __ATOMIC_RELEASE);
		b[which].tat = 0;
		carry(f.client, f.server, 500, 1100);
		assert_int_equal(seen(&f.up->redirected), 600);
		assert_int_equal(mode(f.up), LB_GATE_KERNEL);
		flow_close(&f);
	}
}

static void half_a_burst_is_left_to_those_who_wait_in_the_daemon(void **state)
{
	struct lb_bucket *b;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	b = limit(&f, 1000000, 0);
	b[1].tat = lb_clock_ns() + LB_BUCKET_BURST_NS / 2 + 1000000;
	carry(f.client, f.leg0, 10, 0);
	assert_int_equal(seen(&f.up->passed), 10);
	__atomic_store_n(&f.up->user_done, 10, __ATOMIC_RELEASE);
	/* Some of that has been paid when another one comes. */
	b[1].tat = lb_clock_ns() + LB_BUCKET_BURST_NS / 2 - 11000000;
	carry(f.client, f.server, 10, 10);
	assert_int_equal(seen(&f.up->redirected), 10);
	flow_close(&f);
}

static void more_than_a_burst_is_the_daemons_to_cut(void **state)
{
	struct lb_bucket *b;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	b = limit(&f, 10000, 0);
	carry(f.client, f.leg0, 600, 0); /* the burst is 500 bytes */
	assert_int_equal(seen(&f.up->passed), 600);
	assert_int_equal(seen(&b[1].tat), 0);
	flow_close(&f);
}

static void the_other_direction_has_limits_of_its_own(void **state)
{
	struct lb_bucket *b;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	b = limit(&f, 1000000, 0);
	b[1].tat = lb_clock_ns() + 3600000000000ull;
	carry(f.server, f.client, 1000, 0);
	assert_int_equal(seen(&f.down->redirected), 1000);
	flow_close(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_stream_crosses_both_ways_in_the_kernel),
		cmocka_unit_test(the_gate_knows_when_the_last_byte_came),
		cmocka_unit_test(the_gate_knows_when_the_first_byte_came),
		cmocka_unit_test(a_bare_fin_is_seen_by_the_daemon_and_harms_no_sink),
		cmocka_unit_test(a_sink_that_does_not_read_closes_the_gate_once),
		cmocka_unit_test(after_a_stall_every_byte_arrives_in_order),
		cmocka_unit_test(the_gate_opens_by_itself_when_all_is_written),
		cmocka_unit_test(the_gate_stays_closed_while_the_daemon_holds_a_byte),
		cmocka_unit_test(each_worker_hears_of_its_own_flows_only),
		cmocka_unit_test(a_lost_record_is_told_once),
		cmocka_unit_test(
			while_one_direction_is_with_the_daemon_the_other_one_goes_there_too),
		cmocka_unit_test(without_a_peer_bytes_are_passed_not_dropped),
		cmocka_unit_test(when_the_peer_goes_the_daemon_is_told_and_gets_the_bytes),
		cmocka_unit_test(a_sink_that_was_shut_down_takes_nothing_more),
		cmocka_unit_test(an_unknown_cookie_is_passed_and_not_counted),
		cmocka_unit_test(what_is_redirected_is_charged_to_both_buckets),
		cmocka_unit_test(without_budget_in_either_bucket_bytes_go_to_the_daemon_uncharged),
		cmocka_unit_test(half_a_burst_is_left_to_those_who_wait_in_the_daemon),
		cmocka_unit_test(more_than_a_burst_is_the_daemons_to_cut),
		cmocka_unit_test(the_other_direction_has_limits_of_its_own),
	};

	return cmocka_run_group_tests(tests, flow_setup, flow_teardown);
}
