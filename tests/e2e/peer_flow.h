/* SPDX-License-Identifier: MIT */
/*
 * One connection of the test peer: what it was told to do (the plan), what happened (the rest),
 * and the ways of moving bytes. Every wait ends at the deadline; nothing here blocks in the kernel.
 */
#ifndef PEER_FLOW_H
#define PEER_FLOW_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <poll.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "peer_pattern.h"

enum peer_order { ORDER_BOTH, ORDER_SEND, ORDER_RECV, ORDER_PINGPONG };
enum peer_end { END_FIN, END_CLOSE, END_RST, END_KEEP };
enum peer_tx { TX_SEND, TX_SENDFILE, TX_SPLICE };
enum peer_rx { RX_RECV, RX_SPLICE, RX_PEEK, RX_LOWAT, RX_NEVER };
enum peer_expect { EXPECT_FIN, EXPECT_RST, EXPECT_ANY };

#define PEER_UNKNOWN UINT64_MAX

struct peer_plan {
	const char *host, *from;
	uint64_t port, count, parallel, seed;
	uint64_t send, recv, chunk;
	uint64_t pause_every, pause_ms; /* sender */
	uint64_t stall_every, stall_ms; /* receiver */
	uint64_t rst_after;             /* reset after so many received bytes */
	uint64_t go;                    /* wait for SIGUSR1 before the first byte */
	uint64_t patient, end_delay_ms; /* what our end waits for */
	uint64_t hold;                  /* stay open until standard input closes */
	uint64_t deadline_ms, quiet_ms, accept_delay_ms, backlog;
	uint64_t rcvbuf, sndbuf, pace, mptcp;
	unsigned order, end, tx, rx, expect;
	bool server;
	uint64_t deadline; /* absolute */
};

struct peer_flow {
	const struct peer_plan *plan;
	uint64_t index, tx_seed;
	int fd;
	_Atomic uint64_t sent, received;
	uint64_t rx_seed; /* the bytes of word 0 seen so far */
	uint64_t bad_at;  /* first wrong byte, PEER_UNKNOWN when there is none */
	_Atomic(const char *) tx_end, rx_end;
	atomic_bool own_rst;
	sem_t news; /* from the receiving thread: all has come, or no more will */
	uint64_t connect_ms;
	int tx_pipe[2], rx_pipe[2], file;
	size_t tx_piped;
	unsigned char *tx_buf, *rx_buf;
};

static inline uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static inline int left_ms(const struct peer_plan *plan)
{
	uint64_t now = now_ms(), left = plan->deadline > now ? plan->deadline - now : 0;

	return left < INT_MAX ? (int)left : INT_MAX;
}

static inline void pause_ms(const struct peer_plan *plan, uint64_t ms)
{
	uint64_t left = (uint64_t)left_ms(plan);

	poll(NULL, 0, (int)(ms < left ? ms : left));
}

/* 0 when <events> (or an error to be found by the next call) stand, -ETIMEDOUT otherwise. */
static inline int flow_wait(struct peer_flow *f, short events)
{
	struct pollfd p = {.fd = f->fd, .events = events};
	int left = left_ms(f->plan), quiet = (int)f->plan->quiet_ms;

	return poll(&p, 1, quiet < left ? quiet : left) > 0 ? 0 : -ETIMEDOUT;
}

/* Until there is news, or the deadline. */
static inline void flow_await_news(struct peer_flow *f)
{
	uint64_t at = f->plan->deadline;
	struct timespec ts = {.tv_sec = (time_t)(at / 1000),
			      .tv_nsec = (long)(at % 1000) * 1000000};

	sem_clockwait(&f->news, CLOCK_MONOTONIC, &ts);
}

/* SO_LINGER 0 and a disconnect: a RST at once, also while another thread uses the socket. */
static inline void flow_reset(struct peer_flow *f)
{
	struct linger l = {.l_onoff = 1, .l_linger = 0};
	struct sockaddr none = {.sa_family = AF_UNSPEC};

	f->own_rst = true;
	setsockopt(f->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	if (connect(f->fd, &none, sizeof(none)))
		shutdown(f->fd, SHUT_RDWR);
}

/* The word for an error that ended one direction. */
static inline const char *flow_error(const struct peer_flow *f, ssize_t err)
{
	if (f->own_rst)
		return "own_rst";
	if (err == -ECONNRESET || err == -EPIPE)
		return "rst";
	if (err == -ETIMEDOUT)
		return "timeout";
	return strerrorname_np((int)-err);
}

/*
 * Hands up to n bytes of our stream to the kernel. Bytes accepted, or -errno. What a partial send
 * left over is made again by the next call; only bytes in the pipe are remembered.
 */
static inline ssize_t flow_push(struct peer_flow *f, size_t n)
{
	off_t at = (off_t)f->sent;
	ssize_t r;

	switch (f->plan->tx) {
	case TX_SENDFILE:
		r = sendfile(f->fd, f->file, &at, n);
		break;
	case TX_SPLICE:
		if (!f->tx_piped) {
			pattern_fill(f->tx_buf, f->tx_seed, f->sent, n);
			r = write(f->tx_pipe[1], f->tx_buf, n);
			if (r <= 0)
				return r ? -errno : -EIO;
			f->tx_piped = (size_t)r;
		}
		r = splice(f->tx_pipe[0], NULL, f->fd, NULL, f->tx_piped, SPLICE_F_NONBLOCK);
		if (r > 0)
			f->tx_piped -= (size_t)r;
		break;
	default:
		pattern_fill(f->tx_buf, f->tx_seed, f->sent, n);
		r = send(f->fd, f->tx_buf, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	return r < 0 ? -errno : r;
}

/* Takes up to n received bytes into rx_buf. Bytes, 0 at the end of the stream, or -errno. */
static inline ssize_t flow_pull(struct peer_flow *f, size_t n)
{
	ssize_t r, got;

	switch (f->plan->rx) {
	case RX_SPLICE:
		r = splice(f->fd, NULL, f->rx_pipe[1], NULL, n, SPLICE_F_NONBLOCK);
		if (r > 0)
			r = read(f->rx_pipe[0], f->rx_buf, (size_t)r);
		break;
	case RX_PEEK:
		/* What was peeked must be what is read. */
		r = recv(f->fd, f->rx_buf, n, MSG_PEEK | MSG_DONTWAIT);
		if (r <= 0)
			break;
		if (pattern_match(f->rx_buf, f->rx_seed, f->received, (size_t)r) != (size_t)r &&
		    f->received >= 8)
			return -EBADMSG;
		got = recv(f->fd, f->rx_buf, (size_t)r, MSG_DONTWAIT);
		if (got != r)
			return -EBADMSG;
		break;
	default:
		r = recv(f->fd, f->rx_buf, n, MSG_DONTWAIT);
	}
	return r < 0 ? -errno : r;
}

static inline void flow_rx_ends(struct peer_flow *f, const char *word)
{
	f->rx_end = word;
	sem_post(&f->news);
}

/* Learns the seed from the first eight bytes and checks everything after them. */
static inline void flow_check(struct peer_flow *f, size_t n)
{
	size_t skip = 0;

	for (; skip < n && f->received + skip < 8; skip++)
		f->rx_seed |= (uint64_t)f->rx_buf[skip] << 8 * (f->received + skip);
	if (f->bad_at == PEER_UNKNOWN) {
		size_t good = skip + pattern_match(f->rx_buf + skip, f->rx_seed, f->received + skip,
						   n - skip);
		if (good != n)
			f->bad_at = f->received + good;
	}
	f->received += n;
	if (f->received >= f->plan->recv)
		sem_post(&f->news);
}

/* Sends until <target> bytes of the stream are out. 0, or -errno with tx_end set. */
static inline int flow_send_upto(struct peer_flow *f, uint64_t target)
{
	const struct peer_plan *p = f->plan;

	while (f->sent < target) {
		uint64_t n = target - f->sent < p->chunk ? target - f->sent : p->chunk;
		ssize_t r;

		if (p->pause_every && n > p->pause_every - f->sent % p->pause_every)
			n = p->pause_every - f->sent % p->pause_every;
		r = flow_push(f, n);
		if (r == -EAGAIN)
			r = flow_wait(f, POLLOUT);
		else if (r > 0)
			f->sent += (uint64_t)r;
		if (r < 0) {
			f->tx_end = flow_error(f, r);
			return (int)r;
		}
		if (r > 0 && p->pause_every && f->sent % p->pause_every == 0)
			pause_ms(p, p->pause_ms);
	}
	return 0;
}

/* Wakes only for a whole chunk, or for what is left of the stream. */
static inline void flow_lowat(struct peer_flow *f)
{
	uint64_t left = f->plan->recv - f->received;
	int n = (int)(left && left < f->plan->chunk ? left : f->plan->chunk);

	if (f->plan->rx == RX_LOWAT)
		setsockopt(f->fd, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof(n));
}

/* Receives until <target> bytes came. 0, or -errno (-ENODATA: end of stream) with rx_end set. */
static inline int flow_recv_upto(struct peer_flow *f, uint64_t target)
{
	const struct peer_plan *p = f->plan;

	while (f->received < target) {
		uint64_t n = target - f->received < p->chunk ? target - f->received : p->chunk;
		ssize_t r;

		if (p->stall_every && n > p->stall_every - f->received % p->stall_every)
			n = p->stall_every - f->received % p->stall_every;
		r = flow_pull(f, n);
		if (r == 0) {
			flow_rx_ends(f, "fin");
			return -ENODATA;
		}
		if (r == -EAGAIN) {
			flow_lowat(f);
			r = flow_wait(f, POLLIN);
		} else if (r > 0) {
			flow_check(f, (size_t)r);
			if (p->stall_every && f->received % p->stall_every == 0)
				pause_ms(p, p->stall_ms);
		}
		if (r < 0) {
			flow_rx_ends(f, flow_error(f, r));
			return (int)r;
		}
	}
	return 0;
}

/* Buffers, pipes and the file a plan needs. 0 or -errno; flow_fini() either way. */
static inline int flow_init(struct peer_flow *f)
{
	const struct peer_plan *p = f->plan;
	uint64_t at;

	f->tx_buf = malloc(p->chunk);
	f->rx_buf = malloc(p->chunk);
	if (!f->tx_buf || !f->rx_buf)
		return -ENOMEM;
	if (p->tx == TX_SPLICE && pipe2(f->tx_pipe, O_NONBLOCK | O_CLOEXEC))
		return -errno;
	if (p->rx == RX_SPLICE && pipe2(f->rx_pipe, O_NONBLOCK | O_CLOEXEC))
		return -errno;
	if (p->tx != TX_SENDFILE)
		return 0;
	f->file = memfd_create("pattern", MFD_CLOEXEC);
	if (f->file < 0)
		return -errno;
	for (at = 0; at < p->send; at += p->chunk) {
		size_t n = p->send - at < p->chunk ? p->send - at : p->chunk;

		pattern_fill(f->tx_buf, f->tx_seed, at, n);
		if (pwrite(f->file, f->tx_buf, n, (off_t)at) != (ssize_t)n)
			return -EIO;
	}
	return 0;
}

static inline void flow_fini(struct peer_flow *f)
{
	int fds[] = {f->fd, f->file, f->tx_pipe[0], f->tx_pipe[1], f->rx_pipe[0], f->rx_pipe[1]};
	size_t i;

	for (i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	sem_destroy(&f->news);
	free(f->tx_buf);
	free(f->rx_buf);
	f->tx_buf = f->rx_buf = NULL;
	f->fd = -1;
}

#endif
