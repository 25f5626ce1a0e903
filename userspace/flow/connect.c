/* SPDX-License-Identifier: MIT */
/*
 * The select and connect stages: asks select.c for a backend, connects, and on failure asks for
 * another one until the rule's tries are used up. The client notices nothing but the time; its
 * early bytes wait in its socket. Must never read from the client.
 */
#include "flow/connect.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "base/hash.h"
#include "flow/keepalive.h"
#include "flow/segments.h"
#include "flow/tls_relay.h"

/* Local ports tried before the kernel is asked for one. */
#define PORT_TRIES 3

static uint8_t tries_max(const struct lb_session *s)
{
	uint32_t tries = s->rule->config->retries + 1;

	return tries < LB_TRIES_MAX ? (uint8_t)tries : LB_TRIES_MAX;
}

/*
 * The client's address, as source_hash knows it: ports do not matter, nor whether this node listens
 * on 0.0.0.0 and the other one on [::].
 */
static uint64_t source_of(const struct lb_addr *client)
{
	struct lb_addr own = *client;

	lb_addr_unmap(&own);
	if (own.sa.sa_family == AF_INET6)
		return lb_hash(&own.in6.sin6_addr, sizeof(own.in6.sin6_addr));
	return lb_hash(&own.in4.sin_addr, sizeof(own.in4.sin_addr));
}

static struct lb_select_ask ask_of(const struct lb_session *s)
{
	return (struct lb_select_ask){
		.source = source_of(&s->client),
		.tried = s->tried,
		.tried_count = s->tries,
	};
}

/* <b> has been taken for this session. */
static void backend_set(struct lb_session *s, struct lb_backend *b)
{
	s->backend = b;
	s->tried[s->tries++] = b->id;
	s->try_ns = lb_loop_now_ns(s->env->carrier.loop);
	__atomic_fetch_add(&b->counts.connections, 1, __ATOMIC_RELAXED);
	if (b->same_host)
		lb_carrier_bypass(&s->pair);
}

/* <own_fault>: of this host. */
static void backend_drop(struct lb_session *s, bool own_fault)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_BACKEND];
	int fd = leg->watch.fd;

	lb_count(&s->env->counters[s->rule->index].connect_failures, 1);
	__atomic_fetch_add(&s->backend->counts.connect_failures, 1, __ATOMIC_RELAXED);
	if (!own_fault)
		lb_rule_failed(s->route, s->backend);
	lb_select_release(s->route->select, s->backend);
	s->backend = NULL;
	lb_tls_relay_leave(leg);
	leg->lead_out = 0;
	leg->alerted = leg->readable = leg->until_empty = false;
	if (fd < 0)
		return;
	lb_watch_remove(s->env->carrier.loop, &leg->watch, true);
	close(fd);
}

/* A socket on its way to s->backend, from local port <port> (0: the kernel's choice); or -errno. */
static int connect_from(const struct lb_session *s, uint16_t port)
{
	const struct lb_addr *addr = &s->backend->addr;
	struct lb_addr own = {.sa.sa_family = addr->sa.sa_family};
	LB_AUTO_CLOSE int fd = -1;
	const int one = 1;

	fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
		return -errno;
	lb_keepalive_set(fd, &s->rule->config->timeouts);
	if (port) {
		lb_segments_limit_backend(fd, s->pair.leg[LB_LEG_CLIENT].watch.fd);
		/* The same port serves other backends at the same time. */
		if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
			return -errno;
		lb_addr_set_port(&own, port);
		if (bind(fd, &own.sa, lb_addr_len(&own)))
			return -errno;
	}
	if (connect(fd, &addr->sa, lb_addr_len(addr)) && errno != EINPROGRESS)
		return -errno;
	return LB_TAKE_FD(fd);
}

/*
 * A flow that may be grafted takes a port that no grafted flow has. Where a few, here and there,
 * are in use by sockets, the kernel finds one faster; that flow is then not grafted.
 */
static int connect_from_any(struct lb_session *s)
{
	struct lb_pair *p = &s->pair;

	p->ports = NULL;
	for (int i = 0; i < PORT_TRIES && p->graft == LB_PAIR_GRAFT_OPEN; i++) {
		uint16_t port = lb_ports_next(s->backend->ports);
		int fd = port ? connect_from(s, port) : -EADDRNOTAVAIL;

		if (fd >= 0)
			p->ports = s->backend->ports;
		if (fd != -EADDRINUSE && fd != -EADDRNOTAVAIL)
			return fd;
		if (port)
			lb_ports_skip(s->backend->ports);
	}
	return connect_from(s, 0);
}

/* Begins to connect to s->backend. 0 when an event or the timer will tell; -errno. */
static int start_connect(struct lb_session *s)
{
	struct lb_loop *loop = s->env->carrier.loop;
	struct lb_leg *leg = &s->pair.leg[LB_LEG_BACKEND];
	LB_AUTO_CLOSE int fd = connect_from_any(s);
	int err;

	if (fd < 0)
		return LB_TAKE_FD(fd);
	err = lb_watch_add(loop, &leg->watch, fd, LB_LEG_EVENTS, s->pair.on_event);
	if (err)
		return err;
	(void)LB_TAKE_FD(fd); /* the watch names it now */
	lb_timer_start(loop, &s->timer, s->rule->config->timeouts.connect_ms);
	return 0;
}

/* Descriptors, memory or ports of ours: another backend would not help. */
static bool is_own_shortage(int err)
{
	return err == -EMFILE || err == -ENFILE || err == -ENOMEM || err == -ENOBUFS;
}

/* All that it may have are full. */
static enum lb_step wait_for_room(struct lb_session *s)
{
	const struct lb_queue_config *queue = &s->rule->config->queue;

	s->reason = LB_REASON_BACKEND_LIMIT;
	if (!queue->max)
		return LB_STEP_CLOSE;
	s->waiter.ask = ask_of(s);
	s->waiter.door = &s->env->door;
	if (lb_select_wait(s->route->select, &s->waiter, queue->max)) {
		s->reason = LB_REASON_QUEUE_FULL;
		return LB_STEP_CLOSE;
	}
	s->waiting = true;
	lb_timer_start(s->env->carrier.loop, &s->timer, queue->timeout_ms);
	return LB_STEP_WAIT;
}

/* s->backend is set. LB_STEP_NEXT: it will not do, the next one is to be tried. */
static enum lb_step try_backend(struct lb_session *s)
{
	int err = start_connect(s);

	if (!err)
		return LB_STEP_WAIT;
	/* Without a local port for this backend another one may do; it is not its fault. */
	backend_drop(s, is_own_shortage(err) || err == -EADDRNOTAVAIL);
	s->reason = LB_REASON_CONNECT_FAILED;
	if (!is_own_shortage(err))
		return LB_STEP_NEXT;
	s->reason = LB_REASON_FULL;
	return LB_STEP_CLOSE;
}

/* The next backend; s->reason must say what to answer when there is none left to try. */
static enum lb_step try_next(struct lb_session *s)
{
	enum lb_step step = LB_STEP_NEXT;

	while (step == LB_STEP_NEXT && s->tries < tries_max(s)) {
		const struct lb_select_ask ask = ask_of(s);
		struct lb_backend *b = lb_select_take(s->route->select, &ask);

		if (!b && lb_select_is_full(s->route->select, &ask))
			return wait_for_room(s);
		if (!b)
			return LB_STEP_CLOSE;
		backend_set(s, b);
		step = try_backend(s);
	}
	return step == LB_STEP_NEXT ? LB_STEP_CLOSE : step;
}

/* The waiting is over; <otherwise>: when no backend was granted. */
static enum lb_step granted(struct lb_session *s, enum lb_step otherwise)
{
	struct lb_backend *b = lb_select_leave(s->route->select, &s->waiter);
	enum lb_step step;

	s->waiting = false;
	if (!b)
		return otherwise;
	backend_set(s, b);
	step = try_backend(s);
	return step == LB_STEP_NEXT ? try_next(s) : step;
}

enum lb_step lb_connect_granted(struct lb_session *s)
{
	return granted(s, LB_STEP_CLOSE);
}

void lb_connect_leave(struct lb_session *s)
{
	struct lb_backend *b;

	if (!s->waiting)
		return;
	s->waiting = false;
	b = lb_select_leave(s->route->select, &s->waiter);
	if (b)
		lb_select_release(s->route->select, b);
}

enum lb_step lb_connect_enter(struct lb_session *s)
{
	s->reason = LB_REASON_NO_BACKEND;
	return try_next(s);
}

enum lb_step lb_connect_retry(struct lb_session *s)
{
	lb_timer_stop(s->env->carrier.loop, &s->timer);
	s->connected_ns = 0;
	backend_drop(s, false);
	return try_next(s);
}

enum lb_step lb_connect_event(struct lb_session *s, unsigned int leg, uint32_t events)
{
	struct lb_leg *backend = &s->pair.leg[LB_LEG_BACKEND];

	if (leg == LB_LEG_CLIENT)
		return lb_session_client_waits(s, events);
	if (events & EPOLLERR) {
		backend_drop(s, false);
		s->reason = LB_REASON_CONNECT_FAILED;
		return try_next(s);
	}
	if (!(events & EPOLLOUT))
		return LB_STEP_WAIT;
	lb_timer_stop(s->env->carrier.loop, &s->timer);
	s->connected_ns = lb_loop_now_ns(s->env->carrier.loop);
	lb_account_count_connect(&s->env->counters[s->rule->index], s->backend,
				 (s->connected_ns - s->try_ns) / 1000);
	/* It may have spoken, or hung up, at once. */
	backend->readable = events & (EPOLLIN | EPOLLRDHUP);
	backend->until_empty = events & (EPOLLRDHUP | EPOLLHUP | EPOLLPRI);
	return LB_STEP_NEXT;
}

/* Neither while it waits nor while it connects. */
enum lb_step lb_connect_timeout(struct lb_session *s)
{
	if (s->waiting) {
		/* Granted at the last moment, it goes on. */
		s->reason = LB_REASON_QUEUE_TIMEOUT;
		return granted(s, LB_STEP_CLOSE);
	}
	backend_drop(s, false);
	s->reason = LB_REASON_CONNECT_TIMEOUT;
	return try_next(s);
}
