/* SPDX-License-Identifier: MIT */
/*
 * The sink: takes bytes and counts them, or sends them when the source's hello asks for that. A
 * client without a hello is simply read to its end, so that any program can feed a sink.
 */
#include <endian.h>
#include <errno.h>
#include <inttypes.h>
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

#define ACCEPT_PAUSE_MS 100

struct sink {
	struct lb_loop *loop;
	struct lb_watch watch;
	struct lb_timer tick, pause; /* pause: no descriptor free for another connection */
	struct lb_list conns;
	struct lb_rate rate;
	unsigned int open;
	uint64_t accepted, broken, mismatches;
	bool json;
};

/*
 *  HELLO --(up)------> RECEIVE --(FIN)--------------> TRAILER --> closed
 *     +----(reverse)-> SEND ----(all sent, or FIN)---> TRAILER
 *     +----(no hello)> DISCARD --(FIN)-------------------------> closed
 */
enum state { HELLO, RECEIVE, SEND, DISCARD, TRAILER };

struct conn {
	struct lb_watch watch;
	struct lb_task free;
	struct lb_list node;
	struct sink *sink;
	enum state state;
	union {
		struct lb_throughput_hello hello;
		struct lb_throughput_trailer trailer;
		uint8_t raw[24];
	} wire;
	size_t wire_at; /* of the hello received, or of the trailer sent */
	bool verify;
	uint32_t phase;
	uint64_t bytes, limit, mismatch;
};

/* One thread, and nothing is kept in it between two events. */
static uint8_t chunk[LB_THROUGHPUT_CHUNK];

static void conn_free(struct lb_task *t)
{
	free(lb_container_of(t, struct conn, free));
}

static void conn_close(struct conn *c)
{
	lb_tool_close(c->sink->loop, &c->watch);
	lb_list_remove(&c->node);
	c->sink->open--;
	lb_loop_defer(c->sink->loop, &c->free, conn_free);
}

static void count(struct conn *c, size_t bytes)
{
	c->bytes += bytes;
	c->sink->rate.bytes += bytes;
}

/* The functions of a state return 0, -ENODATA when the connection is complete, or what broke it. */

static int send_trailer(struct conn *c)
{
	ssize_t n = send(c->watch.fd, c->wire.raw + c->wire_at, sizeof(c->wire.raw) - c->wire_at,
			 MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	c->wire_at += (size_t)n;
	return c->wire_at == sizeof(c->wire.raw) ? -ENODATA : 0;
}

static int start_trailer(struct conn *c)
{
	c->state = TRAILER;
	c->wire_at = 0;
	c->wire.trailer.magic = htobe64(LB_THROUGHPUT_MAGIC);
	c->wire.trailer.bytes = htobe64(c->bytes);
	c->wire.trailer.mismatch = htobe64(c->mismatch);
	return lb_watch_modify(c->sink->loop, &c->watch, EPOLLOUT);
}

/* The hello is in c->wire. */
static int start_transfer(struct conn *c)
{
	const struct lb_throughput_hello hello = c->wire.hello;
	uint32_t flags = be32toh(hello.flags);

	if (be64toh(hello.magic) != LB_THROUGHPUT_MAGIC) {
		c->state = DISCARD;
		count(c, sizeof(hello));
		return 0;
	}
	c->phase = be32toh(hello.phase);
	c->limit = be64toh(hello.bytes);
	c->verify = flags & LB_THROUGHPUT_VERIFY;
	c->state = flags & LB_THROUGHPUT_REVERSE ? SEND : RECEIVE;
	if (c->state == SEND)
		return lb_watch_modify(c->sink->loop, &c->watch, EPOLLOUT | EPOLLRDHUP);
	return 0;
}

static int receive_hello(struct conn *c)
{
	ssize_t n =
		recv(c->watch.fd, c->wire.raw + c->wire_at, sizeof(c->wire.raw) - c->wire_at, 0);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0) {
		count(c, c->wire_at); /* a client without a hello, and a short one */
		return -ENODATA;
	}
	c->wire_at += (size_t)n;
	return c->wire_at == sizeof(c->wire.raw) ? start_transfer(c) : 0;
}

static void judge(struct conn *c, size_t len)
{
	size_t same;

	if (!c->verify || c->mismatch != LB_THROUGHPUT_MATCHED)
		return;
	same = lb_pattern_match(c->phase + c->bytes, chunk, len);
	if (same == len)
		return;
	c->mismatch = c->bytes + same;
	c->sink->mismatches++;
	fprintf(stderr, "throughput: wrong byte at offset %" PRIu64 " of a connection\n",
		c->mismatch);
}

static int receive(struct conn *c)
{
	for (int i = 0; i < LB_THROUGHPUT_BATCH; i++) {
		ssize_t n = recv(c->watch.fd, chunk, sizeof(chunk), 0);

		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		if (n == 0)
			return c->state == DISCARD ? -ENODATA : start_trailer(c);
		judge(c, (size_t)n);
		count(c, (size_t)n);
	}
	return 0;
}

static int transmit(struct conn *c, uint32_t events)
{
	if (events & EPOLLRDHUP)
		return start_trailer(c);
	for (int i = 0; i < LB_THROUGHPUT_BATCH; i++) {
		uint64_t rest = c->limit ? c->limit - c->bytes : sizeof(chunk);
		ssize_t n;

		if (rest == 0)
			return start_trailer(c);
		n = send(c->watch.fd, lb_pattern_at(c->phase + c->bytes),
			 rest < sizeof(chunk) ? (size_t)rest : sizeof(chunk), MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -errno;
		count(c, (size_t)n);
	}
	return 0;
}

static int step(struct conn *c, uint32_t events)
{
	switch (c->state) {
	case HELLO:
		return receive_hello(c);
	case RECEIVE:
	case DISCARD:
		return receive(c);
	case SEND:
		return transmit(c, events);
	case TRAILER:
		return send_trailer(c);
	}
	return -EINVAL;
}

static void on_conn(struct lb_watch *w, uint32_t events)
{
	struct conn *c = lb_container_of(w, struct conn, watch);
	int r = step(c, events);

	if (r == 0)
		return;
	if (r != -ENODATA) {
		c->sink->broken++;
		fprintf(stderr, "throughput: connection broke after %" PRIu64 " bytes: %s\n",
			c->bytes, strerror(-r));
	}
	conn_close(c);
}

static int conn_new(struct sink *s, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->sink = s;
	c->state = HELLO;
	c->mismatch = LB_THROUGHPUT_MATCHED;
	r = lb_watch_add(s->loop, &c->watch, fd, EPOLLIN, on_conn);
	if (r < 0) {
		free(c);
		return r;
	}
	lb_list_append(&s->conns, &c->node);
	s->open++;
	s->accepted++;
	return 0;
}

static void on_listen(struct lb_watch *w, uint32_t events)
{
	struct sink *s = lb_container_of(w, struct sink, watch);
	int fd = lb_tool_accept(w->fd);

	if (fd >= 0) {
		if (conn_new(s, fd) < 0)
			close(fd);
		return;
	}
	if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
		/* The listener stays readable: look away, or this loop spins. */
		(void)lb_watch_modify(s->loop, w, 0);
		lb_timer_start(s->loop, &s->pause, ACCEPT_PAUSE_MS);
	}
}

static void on_pause_over(struct lb_timer *t)
{
	struct sink *s = lb_container_of(t, struct sink, pause);

	(void)lb_watch_modify(s->loop, &s->watch, EPOLLIN);
}

static void on_tick(struct lb_timer *t)
{
	struct sink *s = lb_container_of(t, struct sink, tick);

	/* A sink nobody feeds is silent. */
	if (!s->json && lb_rate_moved(&s->rate))
		lb_rate_print(&s->rate, lb_clock_ns(), s->open);
	else
		s->rate.line_ns = lb_clock_ns();
	lb_timer_start(s->loop, t, 1000);
}

static void print_summary(const struct sink *s)
{
	double seconds = lb_rate_seconds(&s->rate, lb_clock_ns());
	char text[32];

	if (s->json)
		printf("{\"role\":\"sink\",\"connections\":%" PRIu64 ",\"broken\":%" PRIu64
		       ",\"mismatches\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"seconds\":%.3f}\n",
		       s->accepted, s->broken, s->mismatches, s->rate.bytes, seconds);
	else
		printf("%" PRIu64 " connections, %s in %.1f s, %" PRIu64 " broken, %" PRIu64
		       " with wrong bytes\n",
		       s->accepted, lb_rate_format((double)s->rate.bytes, text), seconds, s->broken,
		       s->mismatches);
}

static void stop(struct sink *s)
{
	while (!lb_list_empty(&s->conns)) {
		struct conn *c = lb_container_of(s->conns.next, struct conn, node);

		/* The loop has stopped, no event can name it any more. */
		lb_tool_close(s->loop, &c->watch);
		lb_list_remove(&c->node);
		free(c);
	}
	lb_tool_close(s->loop, &s->watch);
	lb_loop_free(s->loop);
}

static int start(struct sink *s, const struct lb_addr *addr)
{
	int fd, r;

	lb_list_init(&s->conns);
	lb_timer_init(&s->tick, on_tick);
	lb_timer_init(&s->pause, on_pause_over);
	r = lb_loop_new(&s->loop);
	if (r < 0)
		return r;
	r = lb_tool_stop_on_signal(s->loop);
	if (r < 0)
		return r;
	fd = lb_tool_listen(addr);
	if (fd < 0)
		return fd;
	r = lb_watch_add(s->loop, &s->watch, fd, EPOLLIN, on_listen);
	if (r < 0) {
		close(fd);
		return r;
	}
	lb_rate_start(&s->rate, lb_clock_ns());
	lb_timer_start(s->loop, &s->tick, 1000);
	return 0;
}

int lb_throughput_sink(const struct lb_throughput_opts *o)
{
	struct sink s = {.watch = {.fd = -1}, .json = o->json};
	char text[LB_ADDR_STR_MAX];
	int r;

	r = start(&s, &o->addr);
	if (r < 0) {
		fprintf(stderr, "throughput: cannot listen on %s: %s\n",
			lb_addr_format(&o->addr, text), strerror(-r));
	} else {
		fprintf(stderr, "ready: sink on %s\n", lb_addr_format(&o->addr, text));
		r = lb_loop_run(s.loop);
		print_summary(&s);
	}
	stop(&s);
	if (r < 0)
		return LB_TOOL_SYSTEM;
	return s.mismatches ? LB_TOOL_FAILED : LB_TOOL_OK;
}
