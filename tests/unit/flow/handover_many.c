/* SPDX-License-Identifier: MIT */
/* Many flows, a batch at a time; and one that goes to another process. */
#include "unit/flow/handover.h"

#include <signal.h>
#include <sys/wait.h>

/* --- many ------------------------------------------------------------------------------------- */

#define FLOWS 100

static bool is_even(void *arg, const struct lb_session *s)
{
	return lb_addr_port(&s->client) % 2 == 0;
}

static void a_sweep_meets_each_once_in_batches(void **state)
{
	static struct ends ends[FLOWS];
	struct lb_handover_sweep sweep = {.wants = NULL};
	struct lb_list batch;
	unsigned int moved = 0;
	bool done = false;

	for (int i = 0; i < FLOWS; i++)
		ends[i] = open_flow(&old);
	/* One that is not ready. */
	session_of(&old)->carrying = false;
	lb_list_init(&batch);
	lb_handover_sweep_begin(&old.env, &sweep);
	while (!done) {
		size_t n = lb_handover_sweep_next(&old.env, &sweep, &batch, 7, &done);

		assert_true(n <= 7);
		for (; n; n--, moved++)
			thaw(&new,
			     carry_over(lb_container_of(batch.next, struct lb_handover, node)));
		assert_true(lb_list_empty(&batch));
	}
	lb_handover_sweep_end(&sweep);
	session_of(&old)->carrying = true;
	assert_int_equal(moved, FLOWS - 1);
	assert_int_equal(sweep.later, 1);
	assert_int_equal(sweep.stay, 0);
	for (int i = 0; i < FLOWS - 1; i++) {
		e = ends[i];
		streams(1000, 1000);
		run(&new, all_arrived);
	}
	e = ends[FLOWS - 1];
	streams(1000, 1000);
	run(&old, all_arrived);
	for (int i = 0; i < FLOWS; i++)
		close_ends(&ends[i]);
	run(&new, has_none);
	run(&old, has_none);
}

static void a_turn_looks_at_no_more_than_it_has_time_for(void **state)
{
	static struct ends ends[FLOWS];
	struct lb_handover_sweep sweep = {.wants = is_even};
	struct lb_list batch;
	bool done;
	size_t n;

	for (int i = 0; i < FLOWS; i++)
		ends[i] = open_flow(&old);
	lb_list_init(&batch);
	lb_handover_sweep_begin(&old.env, &sweep);
	n = lb_handover_sweep_next(&old.env, &sweep, &batch, SIZE_MAX, &done);
	assert_false(done);
	assert_true(n + sweep.stay < FLOWS);
	n += lb_handover_sweep_next(&old.env, &sweep, &batch, SIZE_MAX, &done);
	assert_true(done);
	assert_int_equal(n + sweep.stay, FLOWS);
	lb_handover_sweep_end(&sweep);
	while (!lb_list_empty(&batch)) {
		struct lb_handover *h = lb_container_of(batch.next, struct lb_handover, node);

		lb_handover_reset(&h);
	}
	for (int i = 0; i < FLOWS; i++)
		close_ends(&ends[i]);
}

/* --- between processes ------------------------------------------------------------------------ */

static void send_all(int channel, struct lb_handover *h)
{
	size_t size = lb_handover_size(h);
	LB_AUTO_FREE uint8_t *buf = malloc(size);
	char control[CMSG_SPACE(2 * sizeof(int))] = {0};
	struct iovec iov = {.iov_len = size};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

	assert_non_null(buf);
	lb_handover_encode(h, buf);
	iov.iov_base = buf;
	*c = (struct cmsghdr){.cmsg_len = CMSG_LEN(2 * sizeof(int)),
			      .cmsg_level = SOL_SOCKET,
			      .cmsg_type = SCM_RIGHTS};
	memcpy(CMSG_DATA(c), (int[]){h->leg[0].fd, h->leg[1].fd}, 2 * sizeof(int));
	for (size_t at = 0; at < size;) {
		ssize_t n = sendmsg(channel, &msg, MSG_NOSIGNAL);

		assert_true(n > 0);
		at += (size_t)n;
		iov = (struct iovec){buf + at, size - at};
		msg.msg_control = NULL;
		msg.msg_controllen = 0;
	}
	lb_handover_forget(&h);
}

/* NULL at the end. */
static struct lb_handover *receive(int channel)
{
	static uint8_t buf[LB_HANDOVER_BYTES_MAX];
	char control[CMSG_SPACE(2 * sizeof(int))];
	struct iovec iov = {buf, LB_HANDOVER_HEAD_BYTES};
	struct msghdr msg = {.msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = control,
			     .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(channel, &msg, MSG_WAITALL | MSG_CMSG_CLOEXEC);
	struct lb_handover *h = NULL;
	int64_t size;
	int fd[2];

	if (n != LB_HANDOVER_HEAD_BYTES)
		return NULL;
	memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof(fd));
	size = lb_handover_peek(buf, (size_t)n);
	if (size > n && recv(channel, buf + n, (size_t)(size - n), MSG_WAITALL) != size - n)
		return NULL;
	if (size < n || lb_handover_decode(buf, (size_t)size, &h))
		return NULL;
	h->leg[0].fd = fd[0];
	h->leg[1].fd = fd[1];
	return h;
}

/* The successor: serves what it gets until it has ended, and knows how many bytes it moved. */
static int successor(int channel)
{
	struct lb_handover *h = receive(channel);

	if (!h || lb_handover_thaw(&new.env, &new.rule, &h))
		return 1;
	run(&new, has_none);
	if (write(channel, new.counters[0].bytes, sizeof(new.counters[0].bytes)) !=
	    sizeof(new.counters[0].bytes))
		return 2;
	return new.lines == 1 && new.counters[0].ends[LB_REASON_DONE] == 1 ? 0 : 3;
}

static void a_flow_goes_to_another_process(void **state)
{
	uint64_t bytes[2];
	int channel[2], status;
	pid_t child;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, channel), 0);
	/* Before there is a flow that it would inherit. */
	child = fork();
	if (!child) {
		close(channel[0]);
		_exit(successor(channel[1]));
	}
	close(channel[1]);
	e = open_flow(&old);
	stall(&old);
	down.to_send = 5 << 20;
	send_all(channel[0], freeze(&old));
	while (!all_arrived(&old))
		sched_yield();
	shutdown(e.client, SHUT_WR);
	shutdown(e.server, SHUT_WR);
	while (!both_ended(&old))
		sched_yield();
	assert_int_equal(read(channel[0], bytes, sizeof(bytes)), sizeof(bytes));
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(old.counters[0].bytes[0] + bytes[0], up.to_send);
	assert_int_equal(old.counters[0].bytes[1] + bytes[1], down.to_send);
	assert_int_equal(old.lines, 0);
	close(channel[0]);
	close_ends(&e);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_sweep_meets_each_once_in_batches),
		TEST(a_turn_looks_at_no_more_than_it_has_time_for),
		TEST(a_flow_goes_to_another_process),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
