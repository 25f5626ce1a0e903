/* SPDX-License-Identifier: MIT */
/* Two socket pairs stand for the two connections: client <-> leg 0, leg 1 <-> backend. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "flow/carrier.h"

#define TURNS_MAX 20000000

struct fixture {
	struct lb_carrier_env env;
	struct lb_pair pair;
	int peer[2]; /* the client's end, the backend's end */
	int turns;
	bool (*until)(struct fixture *f);
	struct lb_task tick;
	bool ended, clean;
	enum lb_reason reason;
};

static struct fixture fx;
static struct lb_bucket client_bucket, backend_bucket;
static struct lb_budget budget;

static void on_leg(struct lb_watch *w, uint32_t events)
{
	struct lb_leg *leg = lb_container_of(w, struct lb_leg, watch);

	if (!fx.ended)
		fx.pair.carrier->event(&fx.pair, leg->index, events);
}

/* What the session does at the end, without the memory. */
static void on_end(struct lb_pair *p, enum lb_reason reason, bool clean)
{
	assert_false(fx.ended);
	fx.ended = true;
	fx.reason = reason;
	fx.clean = clean;
	lb_carrier_quiesce(p);
	for (unsigned int i = 0; i < 2; i++) {
		int fd = p->leg[i].watch.fd;

		lb_watch_remove(p->env->loop, &p->leg[i].watch, true);
		close(fd);
	}
	p->carrier->stop(p);
}

static void on_tick(struct lb_task *t)
{
	if (fx.until(&fx) || ++fx.turns > TURNS_MAX)
		lb_loop_stop(fx.env.loop);
	else
		lb_loop_again(fx.env.loop, t, on_tick);
}

/* Turns the loop until <until> is true; fails the test when it never is. */
static void run(bool (*until)(struct fixture *f))
{
	fx.until = until;
	fx.turns = 0;
	lb_loop_again(fx.env.loop, &fx.tick, on_tick);
	assert_int_equal(lb_loop_run(fx.env.loop), 0);
	assert_true(fx.turns <= TURNS_MAX);
}

static int setup(void **state)
{
	int sv[2];

	memset(&fx, 0, sizeof(fx));
	fx.env.kernel_why = fx.env.graft_why = LB_WHY_NO_CAP;
	fx.env.scratch = malloc(LB_SCRATCH_BYTES);
	assert_non_null(fx.env.scratch);
	assert_int_equal(lb_loop_new(&fx.env.loop), 0);
	lb_carrier_init(&fx.pair, &fx.env, LB_ACCELERATION_AUTO);
	fx.pair.end = on_end;
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), 0);
		fx.peer[i] = sv[0];
		assert_int_equal(lb_watch_add(fx.env.loop, &fx.pair.leg[i].watch, sv[1],
					      LB_LEG_EVENTS, on_leg),
				 0);
	}
	lb_carrier_begin(&fx.pair);
	return 0;
}

static int teardown(void **state)
{
	if (!fx.ended)
		on_end(&fx.pair, LB_REASON_DRAINED, false);
	for (unsigned int i = 0; i < 2; i++)
		if (fx.peer[i] >= 0)
			close(fx.peer[i]);
	lb_loop_free(fx.env.loop);
	lb_pipe_pool_fini(&fx.env.pipes);
	free(fx.env.scratch);
	return 0;
}

static bool has_ended(struct fixture *f)
{
	return f->ended;
}

static char byte_at(size_t offset)
{
	return (char)(offset * 31 + offset / 251);
}

/* A sender and a checking receiver that are pumped between the loop's turns. */
static size_t to_send, sent, received;
static bool reads;

static bool pump_stream(struct fixture *f)
{
	static char buf[100000];
	ssize_t n;

	while (sent < to_send) {
		size_t len = to_send - sent < sizeof(buf) ? to_send - sent : sizeof(buf);

		for (size_t i = 0; i < len; i++)
			buf[i] = byte_at(sent + i);
		n = send(f->peer[0], buf, len, MSG_NOSIGNAL);
		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	while (reads && (n = recv(f->peer[1], buf, sizeof(buf), 0)) > 0)
		for (ssize_t i = 0; i < n; i++, received++)
			assert_int_equal(buf[i], byte_at(received));
	return received == to_send;
}

static bool is_stalled(struct fixture *f)
{
	static size_t last = SIZE_MAX;
	static int same;

	(void)pump_stream(f);
	same = last == f->pair.dir[0].bytes ? same + 1 : 0;
	last = f->pair.dir[0].bytes;
	return same > 50;
}

static void stream(size_t n)
{
	to_send = n;
	sent = received = 0;
	reads = true;
	run(pump_stream);
}

static void sizes_around_every_buffer_cross_unharmed(void **state)
{
	const size_t sizes[] = {1, 2, 4095, 4096, 4097, 65535, 65536, 65537, 262144, 1048577};
	size_t total = 0;

	for (size_t i = 0; i < LB_ARRAY_SIZE(sizes); i++) {
		stream(sizes[i]);
		total += sizes[i];
		assert_int_equal(fx.pair.carrier->bytes(&fx.pair, 0), total);
	}
	assert_int_equal(fx.pair.carrier->bytes(&fx.pair, 1), 0);
	assert_false(fx.ended);
}

/* Others that want something of every turn. */
static struct lb_task others[100];

static void on_other(struct lb_task *t)
{
	lb_loop_again(fx.env.loop, t, on_other);
}

static bool has_settled(struct fixture *f)
{
	return f->turns > 3;
}

static bool has_moved(struct fixture *f)
{
	return f->pair.dir[0].bytes > 0;
}

/* Bytes that it moves in one turn, of many that could be moved. */
static size_t share_beside(size_t count)
{
	static const char data[1 << 20];
	int bytes = 4 << 20;

	(void)setsockopt(fx.peer[0], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes));
	(void)setsockopt(fx.pair.leg[1].watch.fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes,
			 sizeof(bytes));
	for (size_t i = 0; i < count; i++)
		on_other(&others[i]);
	run(has_settled);
	assert_int_equal(send(fx.peer[0], data, sizeof(data), 0), sizeof(data));
	run(has_moved);
	for (size_t i = 0; i < count; i++)
		lb_loop_again_cancel(fx.env.loop, &others[i]);
	return fx.pair.dir[0].bytes;
}

static void alone_it_may_move_much_in_a_turn(void **state)
{
	assert_true(share_beside(0) > 100000);
}

static void beside_many_it_moves_less_in_a_turn(void **state)
{
	size_t bytes = share_beside(LB_ARRAY_SIZE(others));

	assert_in_range(bytes, 1, 65536);
}

static bool client_has_a_byte(struct fixture *f)
{
	char c;

	return recv(f->peer[0], &c, 1, 0) == 1;
}

static void the_time_of_the_backends_first_byte_is_kept(void **state)
{
	uint64_t first, before;

	stream(1000);
	assert_int_equal(fx.pair.carrier->first_ns(&fx.pair), 0);
	before = lb_clock_ns();
	assert_int_equal(send(fx.peer[1], "x", 1, 0), 1);
	run(client_has_a_byte);
	first = fx.pair.carrier->first_ns(&fx.pair);
	assert_in_range(first, before, lb_clock_ns());
	assert_int_equal(send(fx.peer[1], "x", 1, 0), 1);
	run(client_has_a_byte);
	assert_int_equal(fx.pair.carrier->first_ns(&fx.pair), first);
}

static void bulk_leaves_neither_pipe_nor_buffer_behind(void **state)
{
	stream(64 << 20);
	assert_null(fx.pair.dir[0].pipe);
	assert_null(fx.pair.dir[0].held);
	assert_true(fx.pair.carrier->clean(&fx.pair));
}

static void a_sink_that_does_not_read_stops_the_source_and_loses_nothing(void **state)
{
	to_send = 64 << 20;
	sent = received = 0;
	reads = false;
	run(is_stalled);
	assert_true(sent < to_send);
	assert_false(fx.pair.carrier->clean(&fx.pair));
	reads = true;
	run(pump_stream);
	assert_int_equal(received, to_send);
	assert_true(fx.pair.carrier->clean(&fx.pair));
}

static bool backend_saw_the_end(struct fixture *f)
{
	char c;

	return recv(f->peer[1], &c, 1, 0) == 0;
}

static bool backend_saw_the_end_of_all(struct fixture *f)
{
	return pump_stream(f) && backend_saw_the_end(f);
}

static bool client_got_the_answer(struct fixture *f)
{
	char answer[8];

	return recv(f->peer[0], answer, sizeof(answer), 0) == 6;
}

static void a_half_close_crosses_and_the_answer_still_comes_back(void **state)
{
	stream(1000);
	assert_int_equal(shutdown(fx.peer[0], SHUT_WR), 0);
	run(backend_saw_the_end);
	assert_false(fx.ended);
	assert_int_equal(send(fx.peer[1], "answer", 6, 0), 6);
	run(client_got_the_answer);
	close(fx.peer[1]);
	fx.peer[1] = -1;
	run(has_ended);
	assert_int_equal(fx.reason, LB_REASON_DONE);
	assert_true(fx.clean);
	assert_int_equal(fx.pair.dir[1].bytes, 6);
}

static void bytes_in_front_of_an_end_arrive_before_it(void **state)
{
	to_send = 3 << 20;
	sent = received = 0;
	reads = false;
	run(is_stalled);
	to_send = sent;
	assert_int_equal(shutdown(fx.peer[0], SHUT_WR), 0);
	reads = true;
	run(pump_stream);
	run(backend_saw_the_end);
	assert_int_equal(received, to_send);
}

static void a_sink_that_fails_ends_the_pair_without_a_clean_close(void **state)
{
	close(fx.peer[1]);
	fx.peer[1] = -1;
	to_send = 1 << 20;
	sent = received = 0;
	reads = false;
	(void)pump_stream(&fx);
	run(has_ended);
	assert_int_equal(fx.reason, LB_REASON_RESET_BY_BACKEND);
	assert_false(fx.clean);
}

static void no_kernel_help_is_the_stated_reason(void **state)
{
	stream(1 << 20);
	assert_ptr_equal(fx.pair.carrier, &lb_relay);
	assert_int_equal(fx.pair.why, LB_WHY_NO_CAP);
}

/* --- limits ----------------------------------------------------------------------------------- */

/* Of direction 0; the pair has begun already, as one has whose rule gets a limit later. */
static void limit(uint64_t client_rate, uint64_t backend_rate)
{
	lb_bucket_init(&client_bucket, client_rate);
	lb_bucket_init(&backend_bucket, backend_rate);
	budget = (struct lb_budget){.bucket = {&client_bucket, &backend_bucket}};
	fx.pair.dir[0].budget = &budget;
}

static void a_limit_slows_the_stream_down_and_changes_no_byte(void **state)
{
	uint64_t begin = lb_clock_ns(), took;

	limit(2500000, 0);
	stream(1 << 20);
	took = lb_clock_ns() - begin;
	/* 1 MiB but for the burst of 0.125 MB, at 2.5 MB/s. */
	assert_true(took >= 310000000);
	assert_int_equal(fx.pair.dir[0].bytes, 1 << 20);
	assert_true(budget.waits > 0);
	assert_int_equal(budget.reserved, 0);
	/* Charged once: what is owed now is what has not been paid since. */
	assert_in_range(client_bucket.tat, begin + (1ull << 20) * 400,
			begin + (1ull << 20) * 400 + took);
}

/* False when that took longer than something was owed: such a machine has shown nothing. */
static bool stream_while_something_is_owed(void)
{
	uint64_t owed = lb_clock_ns() + 25000000;

	limit(100000000, 50000000);
	client_bucket.tat = backend_bucket.tat = owed;
	stream(300000);
	if (lb_clock_ns() >= owed)
		return false;
	assert_int_equal(client_bucket.tat, owed + 3000000);
	assert_int_equal(backend_bucket.tat, owed + 6000000);
	assert_int_equal(budget.waits, 0);
	return true;
}

static void both_buckets_are_charged_with_what_moved(void **state)
{
	int tries = 20;

	while (tries && !stream_while_something_is_owed())
		tries--;
	assert_true(tries > 0);
}

static void a_stream_far_below_its_limit_still_splices_and_never_waits(void **state)
{
	limit(1ull << 40, 1ull << 40);
	stream(64 << 20);
	assert_int_equal(budget.waits, 0);
	assert_null(fx.pair.dir[0].pipe);
}

static void an_end_behind_bytes_that_wait_comes_behind_them(void **state)
{
	limit(1000000, 0);
	to_send = 150000;
	sent = received = 0;
	reads = true;
	(void)pump_stream(&fx);
	assert_int_equal(sent, to_send);
	assert_int_equal(shutdown(fx.peer[0], SHUT_WR), 0);
	run(backend_saw_the_end_of_all);
	assert_int_equal(received, to_send);
}

static bool waits(struct fixture *f)
{
	return budget.reserved;
}

static void a_reset_is_seen_while_bytes_wait(void **state)
{
	limit(1000, 0);
	to_send = 100000;
	sent = received = 0;
	reads = false;
	(void)pump_stream(&fx);
	run(waits);
	close(fx.peer[1]);
	fx.peer[1] = -1;
	/* At the latest when the next bytes may go: this sink says nothing before. */
	run(has_ended);
	assert_int_equal(fx.reason, LB_REASON_RESET_BY_BACKEND);
}

static void who_waits_goes_on_when_the_limit_is_lifted(void **state)
{
	limit(10, 0);
	to_send = 100000;
	sent = received = 0;
	reads = true;
	(void)pump_stream(&fx);
	run(waits);
	assert_true(lb_budget_wait_ns(&budget, lb_clock_ns()) > 0);
	lb_bucket_change(&client_bucket, 100000000, lb_clock_ns());
	lb_carrier_look_again(&fx.pair);
	run(pump_stream);
	assert_int_equal(received, to_send);
}

static void a_sink_that_does_not_read_keeps_no_place_in_the_queue(void **state)
{
	limit(50000000, 0);
	to_send = 64 << 20;
	sent = received = 0;
	reads = false;
	run(is_stalled);
	assert_false(fx.pair.carrier->clean(&fx.pair));
	assert_int_equal(budget.reserved, 0);
	reads = true;
	to_send = sent;
	run(pump_stream);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(sizes_around_every_buffer_cross_unharmed),
		TEST(alone_it_may_move_much_in_a_turn),
		TEST(beside_many_it_moves_less_in_a_turn),
		TEST(the_time_of_the_backends_first_byte_is_kept),
		TEST(bulk_leaves_neither_pipe_nor_buffer_behind),
		TEST(a_sink_that_does_not_read_stops_the_source_and_loses_nothing),
		TEST(a_half_close_crosses_and_the_answer_still_comes_back),
		TEST(bytes_in_front_of_an_end_arrive_before_it),
		TEST(a_sink_that_fails_ends_the_pair_without_a_clean_close),
		TEST(no_kernel_help_is_the_stated_reason),
		TEST(a_limit_slows_the_stream_down_and_changes_no_byte),
		TEST(both_buckets_are_charged_with_what_moved),
		TEST(a_stream_far_below_its_limit_still_splices_and_never_waits),
		TEST(an_end_behind_bytes_that_wait_comes_behind_them),
		TEST(a_reset_is_seen_while_bytes_wait),
		TEST(who_waits_goes_on_when_the_limit_is_lifted),
		TEST(a_sink_that_does_not_read_keeps_no_place_in_the_queue),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
