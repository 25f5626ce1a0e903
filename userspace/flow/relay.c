/* SPDX-License-Identifier: MIT */
/*
 * The relay carrier: the daemon moves the bytes. Small messages cross with one recv(2) and one
 * send(2) through the worker's scratch buffer; a stream that keeps filling it crosses by splice(2)
 * through a pooled pipe. An idle pair holds neither buffer nor pipe.
 *
 * Both legs are registered edge-triggered once and for all, so every stop has a reason that comes
 * back as an edge: the source was read until empty, or the sink refused bytes. A turn's work is
 * bounded (ROUNDS); what is left queues itself again.
 *
 * Must never pass a FIN on before the bytes in front of it, nor turn a reset into a FIN.
 */
#include "flow/relay.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "flow/graft.h"
#include "flow/graft_narrow.h"
#include "flow/throttle.h"

#define RECV_BYTES   (64u * 1024u)
#define SPLICE_BYTES (1024u * 1024u) /* the pipe's slots are the real limit */
#define ROUNDS       4               /* reads of one direction in one turn */
#define BULK_READS   2               /* full reads in a row before splice pays */
#define BULK_MIN     (16u * 1024u)   /* a splice below this counts against it */
#define BULK_CREDIT  6               /* full_reads never grows beyond this */

enum moved {
	MOVED,         /* bytes crossed, there may be more */
	EMPTY,         /* the source has nothing now, or has ended */
	BLOCKED,       /* the sink refuses bytes now */
	THROTTLED,     /* there are bytes, but no budget for them now */
	SOURCE_FAILED, /* leg d */
	SINK_FAILED,   /* leg d ^ 1 */
	OUT_OF_MEMORY,
};

static void note_written(struct lb_pair *p, struct lb_direction *dir, size_t n)
{
	dir->bytes += n;
	p->last_ns = lb_loop_now_ns(p->env->loop);
}

static enum moved sink_refused(struct lb_pair *p, struct lb_leg *sink)
{
	if (errno != EAGAIN && errno != EINTR) {
		p->error = errno;
		return SINK_FAILED;
	}
	sink->writable = false;
	return BLOCKED;
}

/* MOVED: nothing is held any more. */
static enum moved flush(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	struct lb_leg *sink = &p->leg[d ^ 1];
	ssize_t n;

	if ((dir->held || dir->piped) && !sink->writable)
		return BLOCKED;
	while (dir->held) {
		n = send(sink->watch.fd, dir->held + dir->held_at, dir->held_end - dir->held_at,
			 MSG_NOSIGNAL);
		if (n < 0)
			return sink_refused(p, sink);
		note_written(p, dir, (size_t)n);
		dir->held_at += (uint32_t)n;
		if (dir->held_at == dir->held_end)
			lb_carrier_release(dir);
	}
	while (dir->piped) {
		n = splice(dir->pipe->in, NULL, sink->watch.fd, NULL, dir->piped,
			   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
		if (n < 0)
			return sink_refused(p, sink);
		note_written(p, dir, (size_t)n);
		dir->piped -= (uint32_t)n;
	}
	return MOVED;
}

/* What a read that brought nothing means. */
static enum moved source_ended(struct lb_pair *p, unsigned int d, ssize_t n)
{
	if (n < 0 && errno == EINTR)
		return MOVED;
	p->leg[d].readable = false;
	if (n == 0)
		p->dir[d].eof = true;
	else if (errno != EAGAIN) {
		p->error = errno;
		return SOURCE_FAILED;
	}
	return EMPTY;
}

/* At most <most> bytes. */
static enum moved move_by_copy(struct lb_pair *p, unsigned int d, size_t most)
{
	struct lb_leg *source = &p->leg[d], *sink = &p->leg[d ^ 1];
	struct lb_direction *dir = &p->dir[d];
	char *scratch = p->env->scratch;
	ssize_t n, sent, asked = most < RECV_BYTES ? (ssize_t)most : (ssize_t)RECV_BYTES;

	n = recv(source->watch.fd, scratch, (size_t)asked, 0);
	if (n <= 0)
		return source_ended(p, d, n);
	p->reads++;
	lb_carrier_note_read(p, d);
	lb_throttle_charge(p, d, (size_t)n);
	if (n < asked)
		dir->full_reads = 0;
	else if (n == RECV_BYTES)
		dir->full_reads++;
	/* A short read of a stream means "empty" (epoll(7)); the next byte makes a new edge. Not so
	 * where bytes skip TCP: what TCP brought waits in a queue of its own. */
	if (n < asked && !source->until_empty && !p->bypassed)
		source->readable = false;
	sent = sink->writable ? send(sink->watch.fd, scratch, (size_t)n, MSG_NOSIGNAL) : 0;
	if (sent < 0) {
		if (sink_refused(p, sink) == SINK_FAILED)
			return SINK_FAILED;
		sent = 0;
	}
	if (sent)
		note_written(p, dir, (size_t)sent);
	if (sent < n) {
		sink->writable = false;
		if (lb_carrier_hold(dir, scratch + sent, (uint32_t)(n - sent)))
			return OUT_OF_MEMORY;
		return BLOCKED;
	}
	return MOVED;
}

static enum moved move_by_splice(struct lb_pair *p, unsigned int d, size_t most)
{
	struct lb_direction *dir = &p->dir[d];
	ssize_t n;

	if (!dir->pipe)
		dir->pipe = lb_pipe_get(&p->env->pipes);
	if (!dir->pipe) {
		dir->full_reads = 0;
		return move_by_copy(p, d, most);
	}
	/* The pipe is empty here (flush came first), so EAGAIN speaks of the socket. A short
	 * splice may mean a full pipe: only EAGAIN means "empty". */
	n = splice(p->leg[d].watch.fd, NULL, dir->pipe->out, NULL,
		   most < SPLICE_BYTES ? most : SPLICE_BYTES, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (n <= 0)
		return source_ended(p, d, n);
	p->reads++;
	lb_carrier_note_read(p, d);
	lb_throttle_charge(p, d, (size_t)n);
	dir->piped = (uint32_t)n;
	if (n < BULK_MIN)
		dir->full_reads--;
	else if (dir->full_reads < BULK_CREDIT)
		dir->full_reads++;
	return flush(p, d);
}

/* The next bytes of the source, at most <most>. */
static enum moved move(struct lb_pair *p, unsigned int d, size_t most)
{
	ssize_t peeked;
	size_t room = lb_throttle_room(p, d, &peeked);

	if (!room)
		return peeked > 0 ? THROTTLED : source_ended(p, d, peeked);
	if (room > most)
		room = most; /* the rest of what was reserved is given back */
	if (p->dir[d].full_reads >= BULK_READS && !p->bypassed && most == SIZE_MAX &&
	    room >= RECV_BYTES)
		return move_by_splice(p, d, room);
	return move_by_copy(p, d, room);
}

/* MOVED: the turn's share is used up and there may be more. */
static enum moved pump(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	const uint64_t most = dir->bytes + lb_carrier_share(p);
	enum moved moved = MOVED;

	for (int round = 0; round < ROUNDS && moved == MOVED && dir->bytes < most; round++) {
		size_t room;

		moved = flush(p, d);
		if (moved != MOVED)
			break;
		room = lb_graft_room(p, d);
		if (dir->eof || !p->leg[d].readable || !room)
			moved = EMPTY;
		else
			moved = move(p, d, room);
		/* Turns are short because others want theirs. */
		if (moved == MOVED && p->leg[d].readable && lb_throttle_is_short(p, d))
			break;
	}
	/* Whoever cannot move now keeps no place in the queue. */
	if (moved != THROTTLED)
		lb_budget_return(dir->budget);
	if (dir->pipe && !dir->piped) {
		lb_pipe_put(&p->env->pipes, dir->pipe, 0);
		dir->pipe = NULL;
	}
	return moved;
}

/* Nothing readable, nothing held, no end in sight: here another carrier may take over. */
static bool is_quiet(const struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++)
		if (p->leg[i].readable || p->leg[i].until_empty || p->dir[i].eof ||
		    !lb_carrier_holds_nothing(&p->dir[i]))
			return false;
	return true;
}

/* True when the pair has ended. */
static bool end_on_failure(struct lb_pair *p, unsigned int d, enum moved moved)
{
	if (moved == OUT_OF_MEMORY)
		p->end(p, LB_REASON_FULL, false);
	else if (moved == SOURCE_FAILED || moved == SINK_FAILED)
		p->end(p, lb_carrier_reset_reason(moved == SOURCE_FAILED ? d : d ^ 1), false);
	else
		return false;
	return true;
}

static void relay_event(struct lb_pair *p, unsigned int leg, uint32_t events)
{
	enum moved moved[2];

	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		p->leg[leg].readable = true;
	if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLPRI))
		p->leg[leg].until_empty = true;
	if (events & EPOLLOUT)
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
		lb_carrier_leg_failed(p, leg);
		return;
	}
	for (unsigned int d = 0; d < 2; d++) {
		struct lb_direction *dir = &p->dir[d];

		if (dir->eof && !dir->shut && lb_carrier_holds_nothing(dir) &&
		    lb_carrier_finish(p, d))
			return;
	}
	if (lb_graft_consider(p))
		return;
	if (p->dir[0].budget)
		lb_throttle_wait(p);
	if (moved[0] == MOVED || moved[1] == MOVED)
		lb_carrier_again(p);
	else if (is_quiet(p))
		(void)lb_carrier_promote(p);
}

int lb_relay_gather(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	uint32_t held = dir->held_end - dir->held_at, got = 0;
	char *all;

	if (!dir->piped)
		return 0;
	all = malloc(held + dir->piped);
	if (!all)
		return -ENOMEM;
	if (held)
		memcpy(all, dir->held + dir->held_at, held);
	while (got < dir->piped) {
		ssize_t n = read(dir->pipe->in, all + held + got, dir->piped - got);

		/* What was put into it comes out of it: nothing else can be an answer. */
		if (n <= 0 && !(n < 0 && errno == EINTR))
			break;
		got += n > 0 ? (uint32_t)n : 0;
	}
	lb_carrier_release(dir);
	dir->held = all;
	dir->held_end = held + got;
	dir->piped -= got;
	if (dir->piped)
		return -EIO;
	lb_pipe_put(&p->env->pipes, dir->pipe, 0);
	dir->pipe = NULL;
	return 0;
}

static uint64_t relay_bytes(const struct lb_pair *p, unsigned int d)
{
	return p->dir[d].bytes;
}

static uint64_t relay_last_ns(const struct lb_pair *p)
{
	return p->last_ns;
}

static bool relay_clean(const struct lb_pair *p)
{
	return lb_carrier_holds_nothing(&p->dir[0]) && lb_carrier_holds_nothing(&p->dir[1]);
}

static void relay_stop(struct lb_pair *p)
{
	for (unsigned int d = 0; d < 2; d++) {
		struct lb_direction *dir = &p->dir[d];

		lb_carrier_release(dir);
		if (dir->pipe)
			lb_pipe_put(&p->env->pipes, dir->pipe, dir->piped);
		dir->pipe = NULL;
		dir->piped = 0;
	}
}

const struct lb_carrier lb_relay = {
	.name = "relay",
	.id = LB_CARRIER_RELAY,
	.event = relay_event,
	.bytes = relay_bytes,
	.last_ns = relay_last_ns,
	.first_ns = lb_carrier_first_ns,
	.clean = relay_clean,
	.stop = relay_stop,
};
