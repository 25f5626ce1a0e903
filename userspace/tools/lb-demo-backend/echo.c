/* SPDX-License-Identifier: MIT */
/*
 * Echo: every byte goes back in order. A peer that does not read is not read from (no more than one
 * chunk waits for it), and a half-close is answered after the last byte has gone back.
 *
 * Must never hold a buffer for a connection that has nothing waiting: thousands of them are idle.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "tools/common/tool.h"
#include "tools/lb-demo-backend/demo.h"

#define CHUNK_BYTES     (64u * 1024u)
#define ACCEPT_BATCH    64
#define ACCEPT_PAUSE_MS 100

struct lb_demo_echo {
	struct lb_loop *loop;
	struct lb_watch watch;
	struct lb_timer pause; /* armed while no descriptor is free for another connection */
	struct lb_list conns;
};

/*
 *  READING --(peer takes less than we have)--> WRITING --(all written)--> READING
 *     |                                           |
 *     +-- end of stream: close                    +-- error: close
 */
struct conn {
	struct lb_watch watch;
	struct lb_task free;
	struct lb_list node;
	struct lb_demo_echo *echo;
	uint8_t *waiting; /* WRITING: owned copy of what the peer did not take yet */
	size_t at, len;   /* unwritten: waiting[at .. len) */
};

/* One thread, and nothing is kept in it between two events. */
static uint8_t chunk[CHUNK_BYTES];

static void conn_free(struct lb_task *t)
{
	struct conn *c = lb_container_of(t, struct conn, free);

	free(c->waiting);
	free(c);
}

static void conn_close(struct conn *c)
{
	lb_tool_close(c->echo->loop, &c->watch);
	lb_list_remove(&c->node);
	/* An event of this turn may still name it. */
	lb_loop_defer(c->echo->loop, &c->free, conn_free);
}

/* How many bytes the socket took, 0 when it is full, or -errno. */
static ssize_t send_some(int fd, const uint8_t *buf, size_t len)
{
	ssize_t n = send(fd, buf, len, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	return n;
}

static int start_writing(struct conn *c, const uint8_t *rest, size_t len)
{
	uint8_t *copy = malloc(len);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, rest, len);
	c->waiting = copy;
	c->at = 0;
	c->len = len;
	return lb_watch_modify(c->echo->loop, &c->watch, EPOLLOUT);
}

/* 0, or negative when the connection is over. */
static int read_and_send(struct conn *c)
{
	ssize_t got, sent;

	got = recv(c->watch.fd, chunk, sizeof(chunk), MSG_DONTWAIT);
	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (got == 0)
		return -ENODATA;
	sent = send_some(c->watch.fd, chunk, (size_t)got);
	if (sent < 0)
		return (int)sent;
	if (sent < got)
		return start_writing(c, chunk + sent, (size_t)(got - sent));
	return 0;
}

static int write_waiting(struct conn *c)
{
	ssize_t sent = send_some(c->watch.fd, c->waiting + c->at, c->len - c->at);

	if (sent < 0)
		return (int)sent;
	c->at += (size_t)sent;
	if (c->at < c->len)
		return 0;
	free(c->waiting);
	c->waiting = NULL;
	return lb_watch_modify(c->echo->loop, &c->watch, EPOLLIN);
}

static void on_conn(struct lb_watch *w, uint32_t events)
{
	struct conn *c = lb_container_of(w, struct conn, watch);

	/*
	 * EPOLLERR and EPOLLHUP need no look of their own: the call below fails. While WRITING the
	 * end of the peer's stream stays unread, so it is answered after the last byte.
	 */
	if ((c->waiting ? write_waiting(c) : read_and_send(c)) < 0)
		conn_close(c);
}

static int conn_new(struct lb_demo_echo *e, int fd)
{
	struct conn *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return -ENOMEM;
	c->echo = e;
	r = lb_watch_add(e->loop, &c->watch, fd, EPOLLIN, on_conn);
	if (r < 0) {
		free(c);
		return r;
	}
	lb_list_append(&e->conns, &c->node);
	return 0;
}

static void on_listen(struct lb_watch *w, uint32_t events)
{
	struct lb_demo_echo *e = lb_container_of(w, struct lb_demo_echo, watch);

	for (int i = 0; i < ACCEPT_BATCH; i++) {
		int fd = lb_tool_accept(w->fd);

		if (fd >= 0) {
			if (conn_new(e, fd) < 0)
				close(fd);
			continue;
		}
		if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS) {
			/* The listener stays readable: look away, or this loop spins. */
			(void)lb_watch_modify(e->loop, w, 0);
			lb_timer_start(e->loop, &e->pause, ACCEPT_PAUSE_MS);
		}
		if (fd != -ECONNABORTED)
			return;
	}
}

static void on_pause_over(struct lb_timer *t)
{
	struct lb_demo_echo *e = lb_container_of(t, struct lb_demo_echo, pause);

	(void)lb_watch_modify(e->loop, &e->watch, EPOLLIN);
}

int lb_demo_echo_new(struct lb_demo_echo **ret, struct lb_loop *loop, const struct lb_addr *addr)
{
	LB_AUTO_FREE struct lb_demo_echo *e = calloc(1, sizeof(*e));
	LB_AUTO_CLOSE int fd = -1;
	int r;

	if (!e)
		return -ENOMEM;
	e->loop = loop;
	lb_list_init(&e->conns);
	lb_timer_init(&e->pause, on_pause_over);
	fd = lb_tool_listen(addr);
	if (fd < 0)
		return fd;
	r = lb_watch_add(loop, &e->watch, fd, EPOLLIN, on_listen);
	if (r < 0)
		return r;
	(void)LB_TAKE_FD(fd);
	*ret = LB_TAKE_PTR(e);
	return 0;
}

void lb_demo_echo_free(struct lb_demo_echo *e)
{
	if (!e)
		return;
	lb_timer_stop(e->loop, &e->pause);
	lb_tool_close(e->loop, &e->watch);
	while (!lb_list_empty(&e->conns)) {
		struct conn *c = lb_container_of(e->conns.next, struct conn, node);

		/* The loop has stopped, no event can name it any more. */
		lb_tool_close(e->loop, &c->watch);
		lb_list_remove(&c->node);
		conn_free(&c->free);
	}
	free(e);
}
