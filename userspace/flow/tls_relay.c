/* SPDX-License-Identifier: MIT */
/*
 * See tls_relay.h. Both legs are registered edge-triggered; each is read until it has nothing more,
 * also of what OpenSSL has read ahead, or the sink refuses bytes. A turn's work is bounded
 * (ROUNDS).
 *
 *   a leg's stream ends with   its payload    the other leg gets
 *   close_notify               is whole       close_notify, or FIN
 *   FIN without it             may be cut     RST, always: an attacker can send a FIN
 *   a broken record, RST       is lost        RST
 *
 * An end that is passed on over TLS is a close_notify alone: its peer may go on talking, and the
 * FIN comes when both directions have ended.
 *
 * Where the kernel seals (kTLS), payload is written as to a plain socket, and bulk of a plain
 * source crosses by splice(2) as in relay.c.
 *
 * Must never pass an end on before the bytes in front of it.
 */
#include "flow/tls_relay.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <openssl/err.h>

#include "backend/ktls.h"
#include "backend/tls_context.h"
#include "flow/throttle.h"

#define READ_BYTES (64u * 1024u)
#define RECORD     (16u * 1024u)
#define ROUNDS     8 /* reads of one direction in one turn */
#define SENT_MS    5 /* until it is asked again whether all has been sent */
/* As in relay.c. */
#define BULK_READS  2
#define BULK_MIN    (16u * 1024u)
#define BULK_CREDIT 6

enum moved {
	MOVED,         /* bytes crossed, there may be more */
	EMPTY,         /* the source has nothing now, or has ended */
	BLOCKED,       /* the sink refuses bytes now */
	THROTTLED,     /* there are bytes, but no budget for them now */
	SOURCE_FAILED, /* leg d */
	SINK_FAILED,   /* leg d ^ 1 */
	SOURCE_CUT,    /* leg d ended without its close_notify */
	OUT_OF_MEMORY,
};

static void note_written(struct lb_pair *p, struct lb_direction *dir, size_t n)
{
	dir->bytes += n;
	p->last_ns = lb_loop_now_ns(p->env->loop);
}

/* Before every call of OpenSSL's: its queue and errno tell of that call alone. */
static SSL *fresh(const struct lb_leg *leg)
{
	ERR_clear_error();
	errno = 0;
	return leg->ssl;
}

/* --- writing ---------------------------------------------------------------------------------- */

/*
 * Bytes that the leg took; 0: none now; -1: it failed. What TLS did not take must be offered again,
 * the same bytes first: it has sealed them already.
 */
static ssize_t written(struct lb_pair *p, ssize_t n)
{
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	p->error = errno;
	return -1;
}

static ssize_t write_plain(struct lb_pair *p, struct lb_leg *leg, const char *data, size_t len)
{
	return written(p, send(leg->watch.fd, data, len, MSG_NOSIGNAL));
}

static ssize_t write_tls(struct lb_pair *p, struct lb_leg *leg, const char *data, size_t len)
{
	size_t n = 0;
	int r = SSL_write_ex(fresh(leg), data, len, &n), error;

	if (r == 1)
		return (ssize_t)n;
	error = SSL_get_error(leg->ssl, r);
	if (error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ)
		return 0;
	p->error = error == SSL_ERROR_SYSCALL ? errno : 0;
	if (error == SSL_ERROR_SSL)
		p->detail = lb_tls_context_error(leg->ssl);
	return -1;
}

/* MOVED: all of it; *done says how much otherwise. */
static enum moved write_out(struct lb_pair *p, unsigned int d, const char *data, size_t len,
			    size_t *done)
{
	struct lb_leg *sink = &p->leg[d ^ 1];

	*done = 0;
	while (*done < len) {
		ssize_t n = sink->ssl && !sink->ktls
				    ? write_tls(p, sink, data + *done, len - *done)
				    : write_plain(p, sink, data + *done, len - *done);

		if (n < 0)
			return SINK_FAILED;
		if (n == 0) {
			sink->writable = false;
			return BLOCKED;
		}
		note_written(p, &p->dir[d], (size_t)n);
		*done += (size_t)n;
	}
	return MOVED;
}

static enum moved flush_pipe(struct lb_pair *p, unsigned int d)
{
	struct lb_leg *sink = &p->leg[d ^ 1];
	struct lb_direction *dir = &p->dir[d];

	while (dir->piped) {
		ssize_t n = written(p, splice(dir->pipe->in, NULL, sink->watch.fd, NULL, dir->piped,
					      SPLICE_F_MOVE | SPLICE_F_NONBLOCK));

		if (n < 0)
			return SINK_FAILED;
		if (n == 0) {
			sink->writable = false;
			return BLOCKED;
		}
		note_written(p, dir, (size_t)n);
		dir->piped -= (uint32_t)n;
	}
	return MOVED;
}

static enum moved flush(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	enum moved moved;
	size_t done;

	if (lb_carrier_holds_nothing(dir))
		return MOVED;
	if (!p->leg[d ^ 1].writable)
		return BLOCKED;
	if (dir->piped)
		return flush_pipe(p, d);
	moved = write_out(p, d, dir->held + dir->held_at, dir->held_end - dir->held_at, &done);
	dir->held_at += (uint32_t)done;
	if (dir->held_at == dir->held_end)
		lb_carrier_release(dir);
	return moved;
}

/* --- reading ---------------------------------------------------------------------------------- */

/* What a read that brought nothing means. */
static enum moved plain_ended(struct lb_pair *p, unsigned int d, ssize_t n)
{
	struct lb_leg *leg = &p->leg[d];

	if (n < 0 && errno == EINTR)
		return MOVED;
	leg->readable = false;
	if (n == 0)
		p->dir[d].eof = true;
	else if (errno != EAGAIN) {
		p->error = errno;
		return SOURCE_FAILED;
	}
	return EMPTY;
}

static enum moved read_plain(struct lb_pair *p, unsigned int d, size_t most, size_t *got)
{
	struct lb_leg *leg = &p->leg[d];
	ssize_t n = recv(leg->watch.fd, p->env->scratch, most, 0);

	*got = n > 0 ? (size_t)n : 0;
	if (n <= 0)
		return plain_ended(p, d, n);
	if (*got < READ_BYTES)
		p->dir[d].full_reads = 0;
	else if (p->dir[d].full_reads < BULK_CREDIT)
		p->dir[d].full_reads++;
	/* As in relay.c: the next byte makes a new edge. */
	if (*got < most && !leg->until_empty && !p->bypassed)
		leg->readable = false;
	return MOVED;
}

/* Bulk that nobody here has to see: it is plain, and the kernel will seal it. */
static bool may_splice(const struct lb_pair *p, unsigned int d, size_t room)
{
	return p->dir[d].full_reads >= BULK_READS && !p->leg[d].ssl && p->leg[d ^ 1].ktls &&
	       !p->bypassed && room == READ_BYTES;
}

/* The pipe is empty: flush() came first. So EAGAIN speaks of the socket, and it alone says so. */
static enum moved read_by_splice(struct lb_pair *p, unsigned int d, size_t most, size_t *got)
{
	struct lb_direction *dir = &p->dir[d];
	ssize_t n;

	if (!dir->pipe)
		dir->pipe = lb_pipe_get(&p->env->pipes);
	if (!dir->pipe)
		return read_plain(p, d, most, got);
	n = splice(p->leg[d].watch.fd, NULL, dir->pipe->out, NULL, most,
		   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	*got = n > 0 ? (size_t)n : 0;
	if (n <= 0)
		return plain_ended(p, d, n);
	dir->piped = (uint32_t)n;
	if (n < BULK_MIN)
		dir->full_reads--;
	else if (dir->full_reads < BULK_CREDIT)
		dir->full_reads++;
	return MOVED;
}

static enum moved source_failed(struct lb_pair *p, struct lb_leg *leg, int error)
{
	leg->readable = false;
	if (error == SSL_ERROR_SSL && lb_tls_context_is_truncated()) {
		ERR_clear_error();
		return SOURCE_CUT;
	}
	p->error = error == SSL_ERROR_SYSCALL ? errno : 0;
	if (error == SSL_ERROR_SSL) {
		p->detail = lb_tls_context_error(leg->ssl);
		leg->alerted = true;
	}
	return SOURCE_FAILED;
}

/* What a read that failed means. <control>: what heard.control was before it. */
static enum moved tls_ended(struct lb_pair *p, unsigned int d, int r, uint32_t control)
{
	struct lb_leg *leg = &p->leg[d];
	int error = SSL_get_error(leg->ssl, r);

	switch (error) {
	case SSL_ERROR_ZERO_RETURN:
		leg->readable = false;
		p->dir[d].eof = true;
		return EMPTY;
	case SSL_ERROR_WANT_READ:
		/* It ends so after a control message too, and then there may be more. */
		if (leg->heard.control != control)
			return MOVED;
		leg->readable = false;
		return EMPTY;
	case SSL_ERROR_WANT_WRITE:
		leg->writable = false;
		return EMPTY;
	default:
		return source_failed(p, leg, error);
	}
}

/* A call brings one record at most. */
static enum moved read_tls(struct lb_pair *p, unsigned int d, size_t most, size_t *got)
{
	struct lb_leg *leg = &p->leg[d];
	uint32_t control = leg->heard.control;
	int r = SSL_read_ex(fresh(leg), p->env->scratch, most, got);

	if (leg->heard.control > LB_TLS_CONTROL_MAX) {
		p->detail = "too many control messages";
		return SOURCE_FAILED;
	}
	/* OpenSSL would agree and go on with another key than the kernel has. */
	if (leg->ktls && leg->heard.wants_keys) {
		p->detail = "kTLS cannot update keys";
		return SOURCE_FAILED;
	}
	if (r == 1) {
		leg->heard.control = 0;
		return MOVED;
	}
	*got = 0;
	return tls_ended(p, d, r, control);
}

/*
 * Bytes of direction <d> that may be read now. 0: *moved says why not. What OpenSSL has read ahead
 * is not in the socket any more.
 */
static size_t room_of(struct lb_pair *p, unsigned int d, enum moved *moved)
{
	SSL *ssl = p->leg[d].ssl;
	ssize_t peeked = 1;
	size_t room;

	if (!p->dir[d].budget)
		return READ_BYTES;
	if (ssl && SSL_has_pending(ssl))
		room = lb_throttle_room_for(p, d,
					    SSL_pending(ssl) ? (uint32_t)SSL_pending(ssl) : RECORD);
	else
		room = lb_throttle_room(p, d, &peeked);
	if (room)
		return room < READ_BYTES ? room : READ_BYTES;
	*moved = THROTTLED;
	if (peeked > 0)
		return 0;
	/* No byte of payload will come of it, and it is TLS that knows what this end means. */
	if (ssl)
		return 1;
	*moved = plain_ended(p, d, peeked);
	return 0;
}

static enum moved read_some(struct lb_pair *p, unsigned int d, size_t room, size_t *got)
{
	if (p->leg[d].ssl)
		return read_tls(p, d, room, got);
	return may_splice(p, d, room) ? read_by_splice(p, d, room, got)
				      : read_plain(p, d, room, got);
}

/* What was read goes into the sink, or is held. */
static enum moved pass_on(struct lb_pair *p, unsigned int d, size_t len)
{
	enum moved moved = BLOCKED;
	size_t done = 0;

	if (p->dir[d].piped)
		return flush(p, d);
	if (p->leg[d ^ 1].writable)
		moved = write_out(p, d, p->env->scratch, len, &done);
	if (moved == BLOCKED &&
	    lb_carrier_hold(&p->dir[d], p->env->scratch + done, (uint32_t)(len - done)))
		return OUT_OF_MEMORY;
	return moved;
}

static void release_pipe(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];

	if (dir->pipe)
		lb_pipe_put(&p->env->pipes, dir->pipe, dir->piped);
	dir->pipe = NULL;
	dir->piped = 0;
}

/* MOVED: the turn's share is used up and there may be more. */
static enum moved pump(struct lb_pair *p, unsigned int d)
{
	const uint64_t most = p->dir[d].bytes + lb_carrier_share(p);
	enum moved moved = MOVED;

	for (int round = 0; round < ROUNDS && moved == MOVED && p->dir[d].bytes < most; round++) {
		size_t got = 0, room;

		moved = flush(p, d);
		if (moved == MOVED && (p->dir[d].eof || !p->leg[d].readable))
			moved = EMPTY;
		if (moved != MOVED)
			break;
		room = room_of(p, d, &moved);
		if (!room)
			break;
		moved = read_some(p, d, room, &got);
		if (!got)
			continue;
		lb_carrier_note_read(p, d);
		lb_throttle_charge(p, d, got);
		moved = pass_on(p, d, got);
		/* Turns are short because others want theirs. */
		if (moved == MOVED && lb_throttle_is_short(p, d))
			break;
	}
	/* Whoever cannot move now keeps no place in the queue. */
	if (moved != THROTTLED)
		lb_budget_return(p->dir[d].budget);
	if (p->dir[d].pipe && !p->dir[d].piped)
		release_pipe(p, d);
	return moved;
}

/* --- the end ---------------------------------------------------------------------------------- */

static enum lb_reason reason_of_failure(const struct lb_pair *p, unsigned int leg)
{
	if (!p->detail)
		return lb_carrier_reset_reason(leg);
	return leg == LB_LEG_CLIENT ? LB_REASON_TLS_FAILED : LB_REASON_BACKEND_TLS_FAILED;
}

/*
 * A peer that has got our close_notify often just goes. The flow has run its course then, but the
 * other leg must not believe that this one has said all it had to say.
 */
static void end_cut(struct lb_pair *p, unsigned int d)
{
	bool told = p->dir[d ^ 1].shut;

	p->end(p, told ? LB_REASON_DONE : LB_REASON_TLS_TRUNCATED, false);
}

/*
 * The same of a client that goes with a RST, as close(2) does it to a socket in which our
 * close_notify is still unread. A backend's reset is always one.
 */
static bool has_just_gone(const struct lb_pair *p, unsigned int leg)
{
	return leg == LB_LEG_CLIENT && p->leg[leg].ssl && p->dir[LB_LEG_BACKEND].shut && !p->detail;
}

static void end_failed(struct lb_pair *p, unsigned int leg)
{
	bool gone = has_just_gone(p, leg);

	if (gone)
		p->error = 0;
	p->end(p, gone ? LB_REASON_DONE : reason_of_failure(p, leg), false);
}

/* True when the pair has ended. */
static bool end_on_failure(struct lb_pair *p, unsigned int d, enum moved moved)
{
	if (moved == OUT_OF_MEMORY)
		p->end(p, LB_REASON_FULL, false);
	else if (moved == SOURCE_CUT)
		end_cut(p, d);
	else if (moved == SOURCE_FAILED || moved == SINK_FAILED)
		end_failed(p, moved == SOURCE_FAILED ? d : d ^ 1);
	else
		return false;
	return true;
}

/* 1: it has gone; 0: not yet; -1: the leg failed. */
static int say_goodbye(struct lb_pair *p, struct lb_leg *leg)
{
	int r = SSL_shutdown(fresh(leg)), error;

	if (r >= 0)
		return 1;
	error = SSL_get_error(leg->ssl, r);
	if (error == SSL_ERROR_WANT_WRITE) {
		leg->writable = false;
		return 0;
	}
	/* Reading its answer is the other direction's business. */
	if (error == SSL_ERROR_WANT_READ || SSL_get_shutdown(leg->ssl) & SSL_SENT_SHUTDOWN)
		return 1;
	p->error = error == SSL_ERROR_SYSCALL ? errno : 0;
	return -1;
}

/* True when the pair has ended. */
static bool finish(struct lb_pair *p, unsigned int d)
{
	struct lb_leg *sink = &p->leg[d ^ 1];
	int said = sink->ssl ? say_goodbye(p, sink) : 1;

	if (said < 0)
		return end_on_failure(p, d, SINK_FAILED);
	if (!said)
		return false;
	p->dir[d].shut = true;
	/* close(2) sends the second FIN. */
	if (!sink->ssl && !p->dir[d ^ 1].shut)
		(void)shutdown(sink->watch.fd, SHUT_WR);
	return false;
}

/* The kernel can send what it has sealed. */
static bool may_close(const struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++)
		if (p->leg[i].ktls && !lb_ktls_may_close(p->leg[i].watch.fd))
			return false;
	return true;
}

/* Both directions have ended, and been passed on. */
static void end_when_sent(struct lb_pair *p)
{
	if (may_close(p))
		p->end(p, LB_REASON_DONE, true);
	else
		lb_timer_start(p->env->loop, &p->poll, SENT_MS);
}

static void tls_event(struct lb_pair *p, unsigned int leg, uint32_t events)
{
	enum moved moved[2];

	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		p->leg[leg].readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI))
		p->leg[leg].until_empty = true;
	/* TLS may wait for one to do the other. */
	if (events & EPOLLOUT || (events & EPOLLIN && p->leg[leg].ssl))
		p->leg[leg].writable = true;
	/* Both directions before any failure is acted on: what one side said before the other one
	 * failed still crosses. */
	for (unsigned int d = 0; d < 2; d++)
		moved[d] = pump(p, d);
	for (unsigned int d = 0; d < 2; d++)
		if (end_on_failure(p, d, moved[d]))
			return;
	/* A source that is blocked behind its sink has not been asked for its error. */
	if (events & EPOLLERR) {
		if (has_just_gone(p, leg))
			end_failed(p, leg);
		else
			lb_carrier_leg_failed(p, leg);
		return;
	}
	for (unsigned int d = 0; d < 2; d++) {
		struct lb_direction *dir = &p->dir[d];

		if (dir->eof && !dir->shut && lb_carrier_holds_nothing(dir) && finish(p, d))
			return;
	}
	if (p->dir[0].shut && p->dir[1].shut) {
		end_when_sent(p);
		return;
	}
	if (p->dir[0].budget)
		lb_throttle_wait(p);
	if (moved[0] == MOVED || moved[1] == MOVED)
		lb_carrier_again(p);
}

/* --- reports ---------------------------------------------------------------------------------- */

static uint64_t tls_bytes(const struct lb_pair *p, unsigned int d)
{
	return p->dir[d].bytes;
}

static uint64_t tls_last_ns(const struct lb_pair *p)
{
	return p->last_ns;
}

static bool tls_clean(const struct lb_pair *p)
{
	return lb_carrier_holds_nothing(&p->dir[0]) && lb_carrier_holds_nothing(&p->dir[1]) &&
	       may_close(p);
}

/* A good end from our side says so. Those that cannot take it now do without. */
static void tls_quit(struct lb_pair *p, bool clean)
{
	for (unsigned int i = 0; i < 2; i++)
		if (clean && p->leg[i].ssl && !p->dir[i ^ 1].shut)
			(void)SSL_shutdown(fresh(&p->leg[i]));
}

static void tls_stop(struct lb_pair *p)
{
	for (unsigned int d = 0; d < 2; d++) {
		lb_carrier_release(&p->dir[d]);
		release_pipe(p, d);
	}
}

const struct lb_carrier lb_tls_relay = {
	.name = "relay",
	.id = LB_CARRIER_RELAY,
	.event = tls_event,
	.bytes = tls_bytes,
	.last_ns = tls_last_ns,
	.first_ns = lb_carrier_first_ns,
	.clean = tls_clean,
	.quit = tls_quit,
	.stop = tls_stop,
};

void lb_tls_relay_leave(struct lb_leg *leg)
{
	lb_tls_context_leave(leg->ssl);
	leg->ssl = NULL;
}
