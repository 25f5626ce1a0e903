/* SPDX-License-Identifier: MIT */
/* See probe.h. Must never read more in one turn than READS_MAX buffers: a backend may talk on. */
#include "backend/probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/err.h>

#include "base/cleanup.h"

#define READ_BYTES 4096
#define READS_MAX  8

static void on_event(struct lb_watch *w, uint32_t events);

void lb_probe_stop(struct lb_probe *p)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	int fd = p->watch.fd;

	lb_timer_stop(p->loop, &p->timer);
	lb_tls_context_leave(p->ssl);
	p->ssl = NULL;
	if (fd < 0)
		return;
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	lb_watch_remove(p->loop, &p->watch, true);
	close(fd);
}

static void end(struct lb_probe *p, const char *cause)
{
	lb_probe_stop(p);
	p->done(p, cause ? LB_PROBE_BAD : LB_PROBE_GOOD, cause);
}

static void end_with_error(struct lb_probe *p, int err)
{
	char cause[96];

	snprintf(cause, sizeof(cause), "%s: %s", p->connected ? "connection lost" : "connect",
		 strerror(err));
	end(p, cause);
}

static void judge(struct lb_probe *p, enum lb_verdict verdict)
{
	if (verdict == LB_VERDICT_GOOD)
		end(p, NULL);
	else if (verdict == LB_VERDICT_BAD)
		end(p, p->answer.cause);
}

/* Bytes that went; 0: none now; -1: it goes no further. */
static ssize_t put(struct lb_probe *p, const char *data, size_t len)
{
	size_t n = 0;
	ssize_t sent;
	int r;

	if (!p->shaken) {
		sent = send(p->watch.fd, data, len, MSG_NOSIGNAL);
		return sent < 0 && errno == EAGAIN ? 0 : sent;
	}
	ERR_clear_error();
	r = SSL_write_ex(p->ssl, data, len, &n);
	return r == 1 || SSL_get_error(p->ssl, r) == SSL_ERROR_WANT_WRITE ? (ssize_t)n : -1;
}

/* True when the first <len> bytes of all there is to say are said. */
static bool say(struct lb_probe *p, size_t len)
{
	while (p->sent < len) {
		ssize_t n = put(p, p->request + p->sent, len - p->sent);

		if (n == 0)
			return false;
		if (n < 0) {
			/* It may have answered before it closed: that is heard first. */
			p->sent = len;
			return true;
		}
		p->sent += (size_t)n;
	}
	return true;
}

static void end_with_tls_error(struct lb_probe *p, const char *text)
{
	char cause[96];

	snprintf(cause, sizeof(cause), "TLS: %s", text);
	end(p, cause);
}

/* Bytes that came; 0: the end; -1: none now; -2: it failed, and that was told. */
static ssize_t get(struct lb_probe *p, char *buf, size_t size)
{
	size_t n = 0;
	ssize_t got;
	int r, error;

	if (!p->shaken) {
		got = recv(p->watch.fd, buf, size, 0);
		if (got >= 0 || errno == EAGAIN || errno == EINTR)
			return got;
		end_with_error(p, errno);
		return -2;
	}
	ERR_clear_error();
	errno = 0;
	r = SSL_read_ex(p->ssl, buf, size, &n);
	error = r == 1 ? SSL_ERROR_NONE : SSL_get_error(p->ssl, r);
	switch (error) {
	case SSL_ERROR_NONE:
		return (ssize_t)n;
	case SSL_ERROR_WANT_READ:
	case SSL_ERROR_WANT_WRITE:
		return -1;
	case SSL_ERROR_ZERO_RETURN:
		return 0;
	case SSL_ERROR_SYSCALL:
		end_with_error(p, errno ? errno : ECONNRESET);
		return -2;
	default:
		/* An answer that is cut counts as far as it went. */
		if (lb_tls_context_is_truncated())
			return 0;
		end_with_tls_error(p, lb_tls_context_error(p->ssl));
		return -2;
	}
}

static void listen_to(struct lb_probe *p)
{
	char buf[READ_BYTES];

	for (int i = 0; i < READS_MAX && p->watch.fd >= 0; i++) {
		ssize_t n = get(p, buf, sizeof(buf));

		if (n < 0)
			return;
		if (n == 0)
			judge(p, lb_answer_end(&p->answer));
		else
			judge(p, lb_answer_feed(&p->answer, buf, (size_t)n));
	}
}

/* True when it is over, or none is wanted. */
static bool shake(struct lb_probe *p)
{
	int r, error;

	if (!p->tls || p->shaken)
		return true;
	if (!p->ssl)
		p->ssl = lb_backend_tls_open(p->tls, p->watch.fd, p->backend);
	if (!p->ssl) {
		end_with_error(p, ENOMEM);
		return false;
	}
	ERR_clear_error();
	r = SSL_do_handshake(p->ssl);
	p->shaken = r == 1;
	if (p->shaken)
		return true;
	error = SSL_get_error(p->ssl, r);
	if (error == SSL_ERROR_WANT_READ)
		(void)lb_watch_modify(p->loop, &p->watch, EPOLLIN);
	else if (error == SSL_ERROR_WANT_WRITE)
		(void)lb_watch_modify(p->loop, &p->watch, EPOLLIN | EPOLLOUT);
	else
		end_with_tls_error(p, lb_tls_context_error(p->ssl));
	return false;
}

/* It is all said: is anything waited for? */
static void said(struct lb_probe *p)
{
	p->silent = true;
	(void)lb_watch_modify(p->loop, &p->watch, EPOLLIN);
	/* Nothing may be waited for: then it is good already. */
	judge(p, lb_answer_feed(&p->answer, NULL, 0));
}

static void on_connected(struct lb_probe *p)
{
	int err = 0;
	socklen_t len = sizeof(err);

	if (getsockopt(p->watch.fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = errno;
	if (err)
		end_with_error(p, err);
	else
		p->connected = true;
}

static void on_event(struct lb_watch *w, uint32_t events)
{
	struct lb_probe *p = lb_container_of(w, struct lb_probe, watch);

	if (!p->connected)
		on_connected(p);
	if (w->fd < 0)
		return;
	if (!p->silent) {
		if (!say(p, p->clear_len) || !shake(p))
			return;
		if (!say(p, p->request_len)) {
			(void)lb_watch_modify(p->loop, w, EPOLLIN | EPOLLOUT);
			return;
		}
		said(p);
	}
	/* TLS may have read more than it told of. */
	if (w->fd >= 0 && (p->ssl || events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		listen_to(p);
}

static void on_timeout(struct lb_timer *t)
{
	struct lb_probe *p = lb_container_of(t, struct lb_probe, timer);
	char cause[96];

	snprintf(cause, sizeof(cause), "no %s in %llu ms",
		 p->watch.fd >= 0 && p->connected ? "answer" : "connection",
		 (unsigned long long)p->config->timeout_ms);
	end(p, cause);
}

static bool is_own_shortage(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS ||
	       err == EADDRNOTAVAIL;
}

/* What went wrong at once is told in the next turn, as everything else. */
static void on_failed(struct lb_timer *t)
{
	struct lb_probe *p = lb_container_of(t, struct lb_probe, timer);

	t->fn = on_timeout;
	if (is_own_shortage(p->error))
		p->done(p, LB_PROBE_SKIPPED, strerror(p->error));
	else
		end_with_error(p, p->error);
}

void lb_probe_init(struct lb_probe *p)
{
	p->watch.fd = -1;
	lb_timer_init(&p->timer, on_timeout);
}

static int open_connection(struct lb_probe *p)
{
	LB_AUTO_CLOSE int fd = -1;
	int err;

	fd = socket(p->addr.sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, &p->addr.sa, lb_addr_len(&p->addr)) && errno != EINPROGRESS)
		return -errno;
	err = lb_watch_add(p->loop, &p->watch, fd, EPOLLIN | EPOLLOUT, on_event);
	if (!err)
		(void)LB_TAKE_FD(fd);
	return err;
}

void lb_probe_start(struct lb_probe *p)
{
	int err;

	p->sent = 0;
	p->connected = p->shaken = p->silent = false;
	lb_answer_init(&p->answer, p->config);
	err = open_connection(p);
	if (!err) {
		lb_timer_start(p->loop, &p->timer, p->config->timeout_ms);
		return;
	}
	p->error = -err;
	p->timer.fn = on_failed;
	lb_timer_start(p->loop, &p->timer, 0);
}
