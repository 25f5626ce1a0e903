/* SPDX-License-Identifier: MIT */
/*
 * A flow of real sockets on pair 0 of an open kernel, and its ends:
 *
 *	client ~~~> leg 0 ==sk_verdict==> leg 1 ~~~> server
 */
#ifndef TESTS_BPF_FLOW_H
#define TESTS_BPF_FLOW_H

#include "kernel/handle.h"
#include "room.h"

#define FLOW_WORKERS 2
#define FLOW_BUFFER  (256 * 1024)
#define PATIENCE_MS  5000
#define LEG0         0u
#define LEG1         1u

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

static inline void count_event(void *arg, const struct lb_event *e)
{
	struct events *events = arg;

	events->count++;
	events->last = *e;
}

static inline struct events drain_ring(uint32_t worker)
{
	struct events events = {};

	assert_false(lb_ring_consume(kernel, worker, count_event, &events));
	return events;
}

/* The program runs on other CPUs. */
static inline uint64_t seen(const __u64 *counter)
{
	return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static inline void insert(struct flow *f, uint32_t index, int fd)
{
	struct lb_gate *gate = lb_table_gate(kernel, index);

	*gate = (struct lb_gate){};
	f->cookie[index] = room_cookie(fd);
	assert_int_equal(lb_table_insert(kernel, index, fd, f->cookie[index]), 0);
}

static inline struct flow flow_open(void)
{
	struct flow f = {.up = lb_table_gate(kernel, LEG0), .down = lb_table_gate(kernel, LEG1)};

	room_connect(FLOW_BUFFER, &f.client, &f.leg0);
	room_connect(FLOW_BUFFER, &f.leg1, &f.server);
	return f;
}

static inline struct flow flow_open_inserted(void)
{
	struct flow f = flow_open();

	insert(&f, LEG1, f.leg1);
	insert(&f, LEG0, f.leg0);
	return f;
}

static inline void flow_close(struct flow *f)
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

static inline unsigned char pattern(uint64_t position)
{
	return (unsigned char)((position * 0x9e3779b97f4a7c15ull) >> 56);
}

static inline void fill(unsigned char *buf, size_t len, uint64_t position)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = pattern(position + i);
}

static inline void check(const unsigned char *buf, size_t len, uint64_t position)
{
	for (size_t i = 0; i < len; i++)
		if (buf[i] != pattern(position + i))
			fail_msg("byte %llu differs", (unsigned long long)(position + i));
}

/* Sends <len> bytes of the pattern and waits for them at the other end. */
static inline void carry(int from, int to, size_t len, uint64_t position)
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

static inline void assert_nothing_to_read(int fd)
{
	char byte;

	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

/* Group setup and teardown. */
static inline int flow_setup(void **state)
{
	struct lb_kernel_opts opts = {
		.instance = "test", .pairs = 4, .workers = FLOW_WORKERS, .buckets = 4};
	struct lb_kernel_report report;

	if (room_enter(state) || room_missing[0])
		return 0;
	if (lb_kernel_open(&kernel, &opts, &report)) {
		print_error("%s: %s\n", lb_why_word(report.why), report.detail);
		return -1;
	}
	return 0;
}

static inline int flow_teardown(void **state)
{
	lb_kernel_close(kernel);
	return 0;
}

#endif
