/* SPDX-License-Identifier: MIT */
/*
 * The source: opens the connections, moves the pattern over all of them at once, and judges. It
 * decides the exit code: every connection must have ended with the count of bytes it should have,
 * and with --verify each byte must be the right one.
 *
 * Must never wait for ever: no byte moved for `stall_s` is the end.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "tools/common/pattern.h"
#include "tools/common/tool.h"
#include "tools/throughput/rate.h"
#include "tools/throughput/throughput.h"

#define TAIL_BYTES     sizeof(struct lb_throughput_trailer)
#define COMPLAINTS_MAX 5

struct conn {
	struct lb_watch watch;
	struct source *source;
	uint32_t phase;
	bool connected, fin_sent;
	uint64_t hello_sent, sent, received; /* sent, received: pattern bytes */
	/* The newest bytes received: the trailer, when they turn out to be the last. */
	uint8_t tail[TAIL_BYTES];
	size_t tail_len;
};

struct source {
	const struct lb_throughput_opts *o;
	struct lb_loop *loop;
	struct conn *conns;
	struct lb_timer tick, deadline;
	struct lb_rate rate;
	unsigned int open, completed, refused, broken;
	uint64_t stalled_s;
	bool over; /* the time is up */
	uint64_t confirmed;
	int64_t wrong_conn; /* -1: none */
	uint64_t wrong_offset;
};

/* One thread, and nothing is kept in it between two events. */
static uint8_t chunk[TAIL_BYTES + LB_THROUGHPUT_CHUNK];

static void conn_close(struct conn *c)
{
	lb_tool_close(c->source->loop, &c->watch);
	if (--c->source->open == 0)
		lb_loop_stop(c->source->loop);
}

static void complain(struct conn *c, const char *what)
{
	struct source *s = c->source;

	if (s->refused + s->broken == COMPLAINTS_MAX)
		fputs("throughput: further failures are only counted\n", stderr);
	if (s->refused + s->broken >= COMPLAINTS_MAX)
		return;
	fprintf(stderr,
		"throughput: connection %td: %s (%" PRIu64 " bytes sent, %" PRIu64 " received)\n",
		c - s->conns, what, c->sent, c->received);
}

static void conn_fail(struct conn *c, const char *what)
{
	complain(c, what);
	if (c->connected)
		c->source->broken++;
	else
		c->source->refused++;
	conn_close(c);
}

static void note_mismatch(struct conn *c, uint64_t offset)
{
	struct source *s = c->source;

	if (s->wrong_conn >= 0)
		return;
	s->wrong_conn = c - s->conns;
	s->wrong_offset = offset;
	fprintf(stderr, "throughput: connection %td: wrong byte at offset %" PRIu64 "\n",
		c - s->conns, offset);
}

/* --- the end of a connection ------------------------------------------------------------------ */

/* NULL when the connection is complete, else what is wrong with it. */
static const char *judge_trailer(struct conn *c)
{
	const struct lb_throughput_opts *o = c->source->o;
	struct lb_throughput_trailer t;
	uint64_t moved = o->reverse ? c->received : c->sent;

	memcpy(&t, c->tail, sizeof(t));
	if (c->tail_len != sizeof(t) || be64toh(t.magic) != LB_THROUGHPUT_MAGIC)
		return "ended without the sink's trailer";
	if (be64toh(t.mismatch) != LB_THROUGHPUT_MATCHED)
		note_mismatch(c, be64toh(t.mismatch));
	if (be64toh(t.bytes) != moved)
		return "the sink counted other bytes than we did";
	if (!o->reverse && c->received)
		return "the sink sent more than its trailer";
	if (o->bytes && moved != o->bytes)
		return "ended before all bytes were moved";
	return NULL;
}

static const char *judge_echo(struct conn *c)
{
	if (!c->fin_sent)
		return "ended before all bytes were sent";
	return c->received == c->sent ? NULL : "not as many bytes came back as were sent";
}

static void conn_finish(struct conn *c)
{
	struct source *s = c->source;
	const char *wrong = s->o->echo ? judge_echo(c) : judge_trailer(c);

	if (wrong) {
		conn_fail(c, wrong);
		return;
	}
	s->completed++;
	s->confirmed += s->o->reverse || s->o->echo ? c->received : c->sent;
	conn_close(c);
}

/* --- bytes ------------------------------------------------------------------------------------ */

/* <len> bytes of the stream are in <chunk>: judge all but the last, which may be the trailer. */
static void take(struct conn *c, size_t len)
{
	const struct lb_throughput_opts *o = c->source->o;
	size_t keep = o->echo ? 0 : TAIL_BYTES;
	size_t pattern = len > keep ? len - keep : 0;

	if (o->verify && (o->reverse || o->echo)) {
		size_t same = lb_pattern_match(c->phase + c->received, chunk, pattern);

		if (same < pattern)
			note_mismatch(c, c->received + same);
	}
	c->received += pattern;
	c->tail_len = len - pattern;
	memcpy(c->tail, chunk + pattern, c->tail_len);
	if (o->reverse || o->echo)
		c->source->rate.bytes += pattern;
}

/* 0, -ENODATA at the end of the stream, or what broke it. */
static int receive(struct conn *c)
{
	for (int i = 0; i < LB_THROUGHPUT_BATCH; i++) {
		ssize_t n;

		memcpy(chunk, c->tail, c->tail_len);
		n = recv(c->watch.fd, chunk + c->tail_len, LB_THROUGHPUT_CHUNK, 0);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (n == 0)
			return -ENODATA;
		take(c, c->tail_len + (size_t)n);
	}
	return 0;
}

static int send_fin(struct conn *c)
{
	if (c->fin_sent)
		return 0;
	if (shutdown(c->watch.fd, SHUT_WR) < 0)
		return -errno;
	c->fin_sent = true;
	return lb_watch_modify(c->source->loop, &c->watch, EPOLLIN);
}

static int send_hello(struct conn *c)
{
	const struct lb_throughput_opts *o = c->source->o;
	struct lb_throughput_hello hello = {
		.magic = htobe64(LB_THROUGHPUT_MAGIC),
		.flags = htobe32((o->reverse ? LB_THROUGHPUT_REVERSE : 0) |
				 (o->verify ? LB_THROUGHPUT_VERIFY : 0)),
		.phase = htobe32(c->phase),
		.bytes = htobe64(o->bytes),
	};
	ssize_t n;

	n = send(c->watch.fd, (uint8_t *)&hello + c->hello_sent, sizeof(hello) - c->hello_sent,
		 MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	c->hello_sent += (size_t)n;
	return 0;
}

static int send_pattern(struct conn *c)
{
	const struct lb_throughput_opts *o = c->source->o;

	for (int i = 0; i < LB_THROUGHPUT_BATCH; i++) {
		uint64_t rest = o->bytes ? o->bytes - c->sent : LB_THROUGHPUT_CHUNK;
		ssize_t n;

		if (rest == 0 || c->source->over)
			return send_fin(c);
		n = send(c->watch.fd, lb_pattern_at(c->phase + c->sent),
			 rest < LB_THROUGHPUT_CHUNK ? (size_t)rest : LB_THROUGHPUT_CHUNK,
			 MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		c->sent += (size_t)n;
		if (!o->echo)
			c->source->rate.bytes += (size_t)n;
	}
	return 0;
}

static int transmit(struct conn *c)
{
	const struct lb_throughput_opts *o = c->source->o;

	if (!o->echo && c->hello_sent < sizeof(struct lb_throughput_hello))
		return send_hello(c);
	if (!o->reverse)
		return send_pattern(c);
	if (c->source->over)
		return send_fin(c);
	return lb_watch_modify(c->source->loop, &c->watch, EPOLLIN);
}

static int socket_error(int fd)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0)
		return -errno;
	return -err;
}

static int step(struct conn *c, uint32_t events)
{
	int r = 0;

	if (!c->connected) {
		r = socket_error(c->watch.fd);
		if (r < 0)
			return r;
		c->connected = true;
	}
	if (events & ~(uint32_t)EPOLLOUT)
		r = receive(c);
	if (r == 0 && events & EPOLLOUT)
		r = transmit(c);
	return r;
}

static void on_conn(struct lb_watch *w, uint32_t events)
{
	struct conn *c = lb_container_of(w, struct conn, watch);
	int r = step(c, events);

	if (r == -ENODATA)
		conn_finish(c);
	else if (r < 0)
		conn_fail(c, strerror(-r));
}

/* --- time ------------------------------------------------------------------------------------- */

static void on_deadline(struct lb_timer *t)
{
	struct source *s = lb_container_of(t, struct source, deadline);

	/* Those that send find out when they next can; those that only receive must be told. */
	s->over = true;
	for (uint32_t i = 0; s->o->reverse && i < s->o->connections; i++) {
		struct conn *c = &s->conns[i];

		if (c->watch.fd >= 0 && c->hello_sent == sizeof(struct lb_throughput_hello) &&
		    send_fin(c) < 0)
			conn_fail(c, "cannot end the stream");
	}
}

static void on_tick(struct lb_timer *t)
{
	struct source *s = lb_container_of(t, struct source, tick);

	s->stalled_s = lb_rate_moved(&s->rate) ? 0 : s->stalled_s + 1;
	if (s->o->json) {
		s->rate.line_bytes = s->rate.bytes;
		s->rate.line_ns = lb_clock_ns();
	} else {
		lb_rate_print(&s->rate, lb_clock_ns(), s->open);
	}
	if (s->stalled_s < s->o->stall_s) {
		lb_timer_start(s->loop, t, 1000);
		return;
	}
	for (uint32_t i = 0; i < s->o->connections; i++) {
		if (s->conns[i].watch.fd >= 0)
			conn_fail(&s->conns[i], "no byte moved for too long");
	}
}

/* --- life ------------------------------------------------------------------------------------- */

static int conn_open(struct source *s, uint32_t i)
{
	LB_AUTO_CLOSE int fd = -1;
	struct conn *c = &s->conns[i];
	const int one = 1;
	int r;

	fd = socket(s->o->addr.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, &s->o->addr.sa, lb_addr_len(&s->o->addr)) < 0 && errno != EINPROGRESS)
		return -errno;
	c->source = s;
	/* Each starts elsewhere in the pattern, so that bytes of another connection are wrong. */
	c->phase = (uint32_t)(i * 104729ull % LB_PATTERN_PERIOD);
	r = lb_watch_add(s->loop, &c->watch, fd, EPOLLIN | EPOLLOUT, on_conn);
	if (r < 0)
		return r;
	(void)LB_TAKE_FD(fd);
	s->open++;
	return 0;
}

static int start(struct source *s)
{
	int r;

	lb_timer_init(&s->tick, on_tick);
	lb_timer_init(&s->deadline, on_deadline);
	s->conns = calloc(s->o->connections, sizeof(*s->conns));
	if (!s->conns)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->o->connections; i++)
		s->conns[i].watch.fd = -1;
	r = lb_loop_new(&s->loop);
	if (r == 0)
		r = lb_tool_stop_on_signal(s->loop);
	lb_rate_start(&s->rate, lb_clock_ns());
	for (uint32_t i = 0; r == 0 && i < s->o->connections; i++)
		r = conn_open(s, i);
	if (r < 0)
		return r;
	lb_timer_start(s->loop, &s->tick, 1000);
	if (s->o->seconds)
		lb_timer_start(s->loop, &s->deadline, s->o->seconds * 1000);
	return 0;
}

static void stop(struct source *s)
{
	for (uint32_t i = 0; s->conns && i < s->o->connections; i++)
		lb_tool_close(s->loop, &s->conns[i].watch);
	free(s->conns);
	lb_loop_free(s->loop);
}

static void print_json(const struct source *s, double seconds)
{
	const struct lb_throughput_opts *o = s->o;

	printf("{\"role\":\"source\",\"mode\":\"%s\",\"connections\":%" PRIu32
	       ",\"completed\":%u,\"refused\":%u,\"broken\":%u,\"bytes\":%" PRIu64
	       ",\"seconds\":%.3f,\"bytes_per_second\":%.0f,\"verify\":%s,\"mismatch\":",
	       o->echo ? "echo" : (o->reverse ? "reverse" : "up"), o->connections, s->completed,
	       s->refused, s->broken, s->confirmed, seconds,
	       seconds > 0 ? (double)s->confirmed / seconds : 0, o->verify ? "true" : "false");
	if (s->wrong_conn >= 0)
		printf("{\"connection\":%" PRId64 ",\"offset\":%" PRIu64 "}}\n", s->wrong_conn,
		       s->wrong_offset);
	else
		puts("null}");
}

static void print_text(const struct source *s, double seconds)
{
	double per_second = seconds > 0 ? (double)s->confirmed / seconds : 0;
	const char *verdict = "";
	char bytes[32], rate[32];

	if (s->wrong_conn >= 0)
		verdict = ", WRONG BYTES";
	else if (s->o->verify && s->completed == s->o->connections)
		verdict = ", every byte verified";
	printf("total: %s in %.2f s, %s/s, %.2f Gbit/s; %u of %" PRIu32 " connections complete%s\n",
	       lb_rate_format((double)s->confirmed, bytes), seconds,
	       lb_rate_format(per_second, rate), per_second * 8 / 1e9, s->completed,
	       s->o->connections, verdict);
}

int lb_throughput_source(const struct lb_throughput_opts *o)
{
	struct source s = {.o = o, .wrong_conn = -1};
	double seconds;
	int r;

	r = start(&s);
	if (r < 0) {
		fprintf(stderr, "throughput: cannot start: %s\n", strerror(-r));
		stop(&s);
		return LB_TOOL_SYSTEM;
	}
	r = lb_loop_run(s.loop);
	seconds = lb_rate_seconds(&s.rate, lb_clock_ns());
	if (s.open)
		fprintf(stderr, "throughput: stopped with %u connections unfinished\n", s.open);
	if (o->json)
		print_json(&s, seconds);
	else
		print_text(&s, seconds);
	stop(&s);
	if (s.broken || s.open || s.wrong_conn >= 0)
		return LB_TOOL_FAILED;
	return s.refused || r < 0 ? LB_TOOL_SYSTEM : LB_TOOL_OK;
}
