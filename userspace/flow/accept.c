/* SPDX-License-Identifier: MIT */
/* See accept.h. Must never accept what cannot be served, nor spin when it cannot accept. */
#include "flow/accept.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "kernel/listening.h"

#define BACKLOG     4096 /* the kernel takes the minimum with net.core.somaxconn */
#define ACCEPTS_MAX 64   /* in one turn: established flows get their share */
#define RETRY_MS    100

static int bind_and_listen(int fd, const struct lb_addr *addr, bool reuseport)
{
	const int one = 1;

	/* Inherited by every accepted connection: saves a system call for each. */
	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)))
		return -errno;
	if (reuseport && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		return -errno;
	if (addr->sa.sa_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)))
		return -errno;
	if (bind(fd, &addr->sa, lb_addr_len(addr)))
		return -errno;
	if (reuseport && listen(fd, BACKLOG))
		return -errno;
	return 0;
}

/*
 * Another process of ours would share the port in silence: a socket without SO_REUSEPORT cannot be
 * bound beside it. Nor beside a connection that lost its SO_REUSEADDR when a daemon was killed
 * (graft_socket.c: leaving repair takes it away); that one hurts nobody. 0 or -errno.
 */
static int look_for_others(const struct lb_addr *addr)
{
	LB_AUTO_CLOSE int probe = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool listens = true;
	int err;

	if (probe < 0)
		return -errno;
	err = bind_and_listen(probe, addr, false);
	if (err == -EADDRINUSE && !lb_listening_look(addr, &listens) && !listens)
		return 0;
	return err;
}

int lb_accept_open(const struct lb_addr *addr, bool exclusive)
{
	LB_AUTO_CLOSE int fd = -1;
	int err;

	fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (exclusive) {
		err = look_for_others(addr);
		if (err)
			return err;
	}
	err = bind_and_listen(fd, addr, true);
	return err ? err : LB_TAKE_FD(fd);
}

/* One that is not V6ONLY, which cannot be changed any more, and bound to [::]. */
static bool takes_both_families(int fd)
{
	struct lb_addr addr = {0};
	socklen_t len = sizeof(addr), size = sizeof(int);
	int only = 0;

	return !getsockname(fd, &addr.sa, &len) && addr.sa.sa_family == AF_INET6 &&
	       lb_addr_is_any(&addr) &&
	       (getsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, &size) || !only);
}

int lb_accept_adopt(int fd)
{
	const int one = 1;
	int flags = fcntl(fd, F_GETFL);

	if (takes_both_families(fd))
		return -EAFNOSUPPORT;
	/* Late, but the other workers' sockets are bound beside it all the same: the kernel looks
	 * at what a socket says now, and begins the group when the second one comes
	 * (6.1: inet_csk_bind_conflict, reuseport_add_sock). */
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) || fcntl(fd, F_SETFD, FD_CLOEXEC) ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)))
		return -errno;
	return 0;
}

static void pause_accepting(struct lb_acceptor *a, const char *cause)
{
	struct lb_loop *loop = a->env->carrier.loop;

	if (!a->paused) {
		a->paused = true;
		(void)lb_watch_modify(loop, &a->watch, 0);
		if (!__atomic_fetch_add(&a->env->limits->paused, 1, __ATOMIC_RELAXED))
			lb_warn("accepting paused: %s; clients wait in the backlog", cause);
	}
	lb_timer_start(loop, &a->retry, RETRY_MS);
}

static bool is_at_limit(const struct lb_flow_limits *limits)
{
	return __atomic_load_n(&limits->sessions, __ATOMIC_RELAXED) >= limits->sessions_max;
}

static void on_connection(struct lb_watch *w, uint32_t events)
{
	struct lb_acceptor *a = lb_container_of(w, struct lb_acceptor, watch);

	for (int i = 0; i < ACCEPTS_MAX; i++) {
		struct lb_addr client;
		socklen_t len = sizeof(client);
		int fd;

		if (is_at_limit(a->env->limits)) {
			pause_accepting(a, "as many sessions as descriptors allow");
			return;
		}
		fd = accept4(w->fd, &client.sa, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd >= 0)
			lb_session_new(a->env, a->rule, fd, &client);
		else if (errno == EAGAIN)
			return;
		else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
			 errno == ENOMEM) {
			pause_accepting(a, strerror(errno));
			return;
		}
		/* Else this one connection failed before we saw it (ECONNABORTED ..): accept(2). */
	}
}

static void resume(struct lb_acceptor *a)
{
	a->paused = false;
	(void)lb_watch_modify(a->env->carrier.loop, &a->watch, EPOLLIN);
	if (!__atomic_sub_fetch(&a->env->limits->paused, 1, __ATOMIC_RELAXED))
		lb_info("accepting again");
}

static void on_retry(struct lb_timer *t)
{
	struct lb_acceptor *a = lb_container_of(t, struct lb_acceptor, retry);

	if (is_at_limit(a->env->limits)) {
		lb_timer_start(a->env->carrier.loop, t, RETRY_MS);
		return;
	}
	resume(a);
}

int lb_accept_start(struct lb_acceptor *a, struct lb_flow_env *env, const struct lb_rule *rule,
		    int fd)
{
	*a = (struct lb_acceptor){.env = env, .rule = rule, .watch.fd = -1};
	lb_timer_init(&a->retry, on_retry);
	return lb_watch_add(env->carrier.loop, &a->watch, fd, EPOLLIN, on_connection);
}

void lb_accept_drain(struct lb_acceptor *a)
{
	if (a->paused && !is_at_limit(a->env->limits))
		resume(a);
	for (int i = 0; i < BACKLOG / ACCEPTS_MAX && a->watch.fd >= 0 && !a->paused; i++)
		on_connection(&a->watch, EPOLLIN);
}

void lb_accept_stop(struct lb_acceptor *a)
{
	int fd = a->watch.fd;

	if (fd < 0)
		return;
	lb_timer_stop(a->env->carrier.loop, &a->retry);
	if (a->paused)
		__atomic_fetch_sub(&a->env->limits->paused, 1, __ATOMIC_RELAXED);
	/* Another daemon may have the socket too: then close(2) would not end its watch. */
	lb_watch_remove(a->env->carrier.loop, &a->watch, false);
	close(fd);
}
