/* SPDX-License-Identifier: MIT */
/*
 * See resolve.h. A channel of c-ares lives for one look-up: it has read its files just before, and
 * what a look-up holds goes with it. Must never believe an address that means "this host" or
 * "nobody": filters answer with 0.0.0.0, and connecting to that reaches our own listeners.
 */
#include "backend/resolve.h"

#include <ares.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Servers are asked twice, the second time twice as long: it fits into the time there is. */
#define TRIES        2
#define TRIES_LENGTH 4

/* A socket of the channel. */
struct wire {
	struct lb_list node;
	struct lb_resolve *resolve;
	struct lb_watch watch;
	struct lb_task release;
};

struct lb_resolve {
	struct lb_resolve_ask ask;
	ares_channel channel;
	struct lb_list wires;
	struct lb_timer retry;    /* when c-ares wants to look at its clock */
	struct lb_timer deadline; /* of the whole */
	struct lb_task finish;
	bool late;
	int status; /* of c-ares */
	struct lb_addr addrs[LB_RESOLVE_MAX];
	uint32_t count;
	uint32_t ttl_s;
};

int lb_resolve_init(void)
{
	return ares_library_init(ARES_LIB_INIT_ALL) ? -ENOMEM : 0;
}

/* --- sockets ---------------------------------------------------------------------------------- */

static void wire_release(struct lb_task *t)
{
	free(lb_container_of(t, struct wire, release));
}

static void wire_close(struct wire *w)
{
	struct lb_loop *loop = w->resolve->ask.loop;

	lb_watch_remove(loop, &w->watch, false);
	lb_list_remove(&w->node);
	/* Events of this turn may still name it. */
	lb_loop_defer(loop, &w->release, wire_release);
}

static void arm_retry(struct lb_resolve *r)
{
	struct timeval max = {.tv_sec = 3600}, left;
	const struct timeval *tv = ares_timeout(r->channel, &max, &left);

	lb_timer_start(r->ask.loop, &r->retry,
		       (uint64_t)tv->tv_sec * 1000 + (uint64_t)tv->tv_usec / 1000 + 1);
}

static void on_wire(struct lb_watch *watch, uint32_t events)
{
	struct lb_resolve *r = lb_container_of(watch, struct wire, watch)->resolve;
	const uint32_t in = EPOLLIN | EPOLLHUP | EPOLLERR;
	int fd = watch->fd;

	ares_process_fd(r->channel, events & in ? fd : ARES_SOCKET_BAD,
			events & EPOLLOUT ? fd : ARES_SOCKET_BAD);
	arm_retry(r);
}

static void on_retry(struct lb_timer *t)
{
	struct lb_resolve *r = lb_container_of(t, struct lb_resolve, retry);

	ares_process_fd(r->channel, ARES_SOCKET_BAD, ARES_SOCKET_BAD);
	arm_retry(r);
}

static struct wire *find_wire(struct lb_resolve *r, int fd)
{
	lb_list_for_each (node, &r->wires) {
		struct wire *w = lb_container_of(node, struct wire, node);

		if (w->watch.fd == fd)
			return w;
	}
	return NULL;
}

/* A wire that cannot be watched is a server that does not answer: the deadline sees to it. */
static void wire_open(struct lb_resolve *r, int fd, uint32_t events)
{
	LB_AUTO_FREE struct wire *w = calloc(1, sizeof(*w));

	if (!w)
		return;
	w->resolve = r;
	w->watch.fd = -1;
	if (lb_watch_add(r->ask.loop, &w->watch, fd, events, on_wire))
		return;
	lb_list_append(&r->wires, &w->node);
	(void)LB_TAKE_PTR(w);
}

/* What c-ares waits for on <fd>; nothing: it is about to close it. */
static void on_socket_state(void *arg, ares_socket_t fd, int readable, int writable)
{
	struct lb_resolve *r = arg;
	uint32_t events = (readable ? EPOLLIN : 0u) | (writable ? EPOLLOUT : 0u);
	struct wire *w = find_wire(r, fd);

	if (!w && events)
		wire_open(r, fd, events);
	else if (w && events)
		(void)lb_watch_modify(r->ask.loop, &w->watch, events);
	else if (w)
		wire_close(w);
}

/* --- the answer ------------------------------------------------------------------------------- */

static bool is_usable(const struct lb_addr *a)
{
	return (a->sa.sa_family == AF_INET || a->sa.sa_family == AF_INET6) && !lb_addr_is_any(a);
}

static void keep(struct lb_resolve *r, const struct ares_addrinfo_node *node)
{
	struct lb_addr addr = {0};

	if (r->count == LB_RESOLVE_MAX || node->ai_addrlen > sizeof(addr))
		return;
	memcpy(&addr, node->ai_addr, node->ai_addrlen);
	if (!is_usable(&addr))
		return;
	lb_addr_set_port(&addr, r->ask.port);
	for (uint32_t i = 0; i < r->count; i++)
		if (lb_addr_equal(&r->addrs[i], &addr))
			return;
	r->addrs[r->count++] = addr;
	/* The shortest one counts for all. */
	if (node->ai_ttl > 0 && (!r->ttl_s || (uint32_t)node->ai_ttl < r->ttl_s))
		r->ttl_s = (uint32_t)node->ai_ttl;
}

/* The channel must not be freed from within its own call. */
static void on_finish(struct lb_task *t)
{
	struct lb_resolve *r = lb_container_of(t, struct lb_resolve, finish);
	const struct lb_resolve_ask ask = r->ask;
	struct lb_resolve_answer answer = {.addrs = r->addrs, .count = r->count, .ttl_s = r->ttl_s};
	char cause[64];

	if (r->late)
		snprintf(cause, sizeof(cause), "no answer in %llu ms",
			 (unsigned long long)ask.config.timeout_ms);
	else if (r->status)
		snprintf(cause, sizeof(cause), "%s", ares_strerror(r->status));
	else
		snprintf(cause, sizeof(cause), "the answer has no usable address");
	if (!r->count)
		answer.cause = cause;
	ask.done(ask.arg, &answer);
	lb_resolve_cancel(&r);
}

static void on_answer(void *arg, int status, int timeouts, struct ares_addrinfo *result)
{
	struct lb_resolve *r = arg;

	if (status == ARES_EDESTRUCTION)
		return;
	lb_timer_stop(r->ask.loop, &r->deadline);
	r->status = status;
	for (struct ares_addrinfo_node *n = result ? result->nodes : NULL; n; n = n->ai_next)
		keep(r, n);
	if (result)
		ares_freeaddrinfo(result);
	lb_loop_again(r->ask.loop, &r->finish, on_finish);
}

static void on_deadline(struct lb_timer *t)
{
	struct lb_resolve *r = lb_container_of(t, struct lb_resolve, deadline);

	r->late = true;
	ares_cancel(r->channel);
}

/* --- life ------------------------------------------------------------------------------------- */

static int family_of(const struct lb_resolve_config *config)
{
	if (config->family == LB_RESOLVE_FAMILY_ANY)
		return AF_UNSPEC;
	return config->family == LB_RESOLVE_FAMILY_IPV4 ? AF_INET : AF_INET6;
}

static int error_of(int status)
{
	return status == ARES_ENOMEM ? -ENOMEM : -EIO;
}

int lb_resolve_start(struct lb_resolve **ret, const struct lb_resolve_ask *ask)
{
	const int mask = ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB;
	const struct ares_addrinfo_hints hints = {.ai_family = family_of(&ask->config),
						  .ai_socktype = SOCK_STREAM};
	struct lb_resolve *r = calloc(1, sizeof(*r));
	struct ares_options options = {
		.timeout = (int)(ask->config.timeout_ms / TRIES_LENGTH),
		.tries = TRIES,
		.sock_state_cb = on_socket_state,
		.sock_state_cb_data = r,
	};
	int status;

	if (!r)
		return -ENOMEM;
	r->ask = *ask;
	lb_list_init(&r->wires);
	lb_timer_init(&r->retry, on_retry);
	lb_timer_init(&r->deadline, on_deadline);
	status = ares_init_options(&r->channel, &options, mask);
	if (status) {
		free(r);
		return error_of(status);
	}
	lb_timer_start(ask->loop, &r->deadline, ask->config.timeout_ms);
	ares_getaddrinfo(r->channel, ask->host, NULL, &hints, on_answer, r);
	arm_retry(r);
	*ret = r;
	return 0;
}

void lb_resolve_cancel(struct lb_resolve **pr)
{
	struct lb_resolve *r = *pr;
	struct lb_loop *loop;

	if (!r)
		return;
	*pr = NULL;
	loop = r->ask.loop;
	lb_timer_stop(loop, &r->retry);
	lb_timer_stop(loop, &r->deadline);
	/* With its sockets, of which it tells. */
	ares_destroy(r->channel);
	lb_loop_again_cancel(loop, &r->finish);
	while (!lb_list_empty(&r->wires))
		wire_close(lb_container_of(r->wires.next, struct wire, node));
	free(r);
}
