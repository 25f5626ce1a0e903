/* SPDX-License-Identifier: MIT */
/*
 * Two daemons in one process, each with a loop, a rule and a pool of its own, and flows of real TCP
 * connections over loopback that go from one to the other as bytes and descriptors:
 *
 *	client ~~~> leg 0 [session] leg 1 ~~~> server
 */
#ifndef TESTS_UNIT_FLOW_HANDOVER_H
#define TESTS_UNIT_FLOW_HANDOVER_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "flow/client_connection_limit.h"
#include "flow/handover.h"
#include "flow/session.h"

#define TURNS_MAX 20000000

struct daemon {
	struct lb_flow_env env;
	struct lb_flow_limits limits;
	struct lb_counters counters[1];
	struct lb_rule_config config;
	struct lb_rule rule;
	struct lb_task tick;
	bool (*until)(struct daemon *d);
	int turns;
	unsigned int lines;
	char line[LB_FLOW_LINE_MAX];
};

/* The two ends of a flow. */
struct ends {
	int client, server;
};

static struct daemon old, new;
static int front = -1, back = -1; /* listeners: the daemons', the backend's */
static char backend_name[LB_ADDR_STR_MAX];

static inline void keep_line(struct lb_flow_env *env, const char *line, size_t len)
{
	struct daemon *d = lb_container_of(env, struct daemon, env);

	d->lines++;
	memcpy(d->line, line, len);
	d->line[len] = '\0';
}

static inline void on_tick(struct lb_task *t)
{
	struct daemon *d = lb_container_of(t, struct daemon, tick);

	if (d->until(d) || ++d->turns > TURNS_MAX)
		lb_loop_stop(d->env.carrier.loop);
	else
		lb_loop_again(d->env.carrier.loop, t, on_tick);
}

/* Turns the daemon's loop until <until> is true; fails the test when it never is. */
static inline void run(struct daemon *d, bool (*until)(struct daemon *d))
{
	d->until = until;
	d->turns = 0;
	lb_loop_again(d->env.carrier.loop, &d->tick, on_tick);
	assert_int_equal(lb_loop_run(d->env.carrier.loop), 0);
	assert_true(d->turns <= TURNS_MAX);
}

static inline int listener(void)
{
	struct lb_addr addr = {
		.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, &addr.sa, lb_addr_len(&addr)), 0);
	assert_int_equal(listen(fd, 1024), 0);
	return fd;
}

static inline struct lb_addr address_of(int fd)
{
	struct lb_addr addr;
	socklen_t len = sizeof(addr);

	assert_int_equal(getsockname(fd, &addr.sa, &len), 0);
	return addr;
}

static inline void add_backend(struct daemon *d, const char *name, const struct lb_addr *addr)
{
	struct lb_backend_config config = {.addr = (char *)name, .host = (char *)name, .weight = 1};
	struct lb_pool_entry *entry;
	struct lb_backend *b;

	assert_int_equal(lb_pool_new_entry(d->rule.pool, &config, &entry), 0);
	lb_pool_list_entry(entry);
	assert_int_equal(lb_pool_new_backend(entry, &d->config, addr, false, &b), 0);
	assert_int_equal(lb_select_change(d->rule.select, &b, 1, d->config.balance), 0);
	lb_pool_put(&b);
}

static inline void daemon_open(struct daemon *d)
{
	struct lb_carrier_env *env = &d->env.carrier;

	memset(d, 0, sizeof(*d));
	env->kernel_why = env->graft_why = LB_WHY_NO_CAP;
	env->scratch = malloc(LB_SCRATCH_BYTES);
	assert_non_null(env->scratch);
	assert_int_equal(lb_loop_new(&env->loop), 0);
	lb_list_init(&d->env.sessions);
	lb_list_init(&d->env.walks);
	lb_slab_init(&d->env.slab, sizeof(struct lb_session));
	lb_slab_init(&d->env.shares, sizeof(struct lb_bandwidth_share));
	d->env.limits = &d->limits;
	d->env.counters = d->counters;
	d->env.log_line = keep_line;
	d->config.name = (char *)"web";
	d->config.timeouts.connect_ms = d->config.timeouts.handshake_ms = 5000;
	d->rule = (struct lb_rule){.config = &d->config, .id = 1};
	assert_int_equal(lb_pool_new(&d->rule.pool), 0);
	assert_int_equal(lb_select_new(&d->rule.select, d->rule.pool, d->config.balance), 0);
	assert_int_equal(lb_client_connection_limit_new(&d->rule.client_connection_limit, 1000), 0);
}

static inline void daemon_close(struct daemon *d)
{
	lb_session_close_all(&d->env, LB_FLOWS_ALL, LB_REASON_DRAINED);
	assert_true(lb_list_empty(&d->env.sessions));
	assert_int_equal(d->limits.sessions, 0);
	assert_int_equal(d->counters[0].active, 0);
	assert_int_equal(lb_client_connection_limit_clients(d->rule.client_connection_limit), 0);
	lb_client_connection_limit_free(&d->rule.client_connection_limit);
	lb_select_free(&d->rule.select);
	assert_true(lb_list_empty(&d->rule.pool->left));
	lb_pool_free(&d->rule.pool);
	lb_loop_free(d->env.carrier.loop);
	lb_pipe_pool_fini(&d->env.carrier.pipes);
	lb_slab_fini(&d->env.slab);
	lb_slab_fini(&d->env.shares);
	free(d->env.carrier.scratch);
}

static inline int setup(void **state)
{
	struct lb_addr addr;

	front = listener();
	back = listener();
	addr = address_of(back);
	lb_addr_format(&addr, backend_name);
	daemon_open(&old);
	daemon_open(&new);
	add_backend(&old, backend_name, &addr);
	add_backend(&new, backend_name, &addr);
	return 0;
}

static inline int teardown(void **state)
{
	daemon_close(&old);
	daemon_close(&new);
	close(front);
	close(back);
	return 0;
}

static inline struct lb_session *session_of(const struct daemon *d)
{
	assert_false(lb_list_empty(&d->env.sessions));
	return lb_container_of(d->env.sessions.prev, struct lb_session, node);
}

static inline bool is_carrying(struct daemon *d)
{
	return session_of(d)->carrying;
}

static inline bool has_none(struct daemon *d)
{
	return lb_list_empty(&d->env.sessions);
}

static inline int nonblocking(int fd)
{
	assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
	return fd;
}

/* A flow that <d> has begun to carry. */
static inline struct ends open_flow(struct daemon *d)
{
	struct lb_addr addr = address_of(front);
	struct ends e = {.client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
	int fd;

	assert_true(e.client >= 0);
	assert_int_equal(connect(e.client, &addr.sa, lb_addr_len(&addr)), 0);
	nonblocking(e.client);
	fd = accept4(front, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	addr = address_of(e.client);
	lb_session_new(&d->env, &d->rule, fd, &addr);
	run(d, is_carrying);
	e.server = nonblocking(accept4(back, NULL, NULL, SOCK_CLOEXEC));
	assert_true(e.server >= 0);
	return e;
}

static inline void close_ends(struct ends *e)
{
	lb_cleanup_close(&e->client);
	lb_cleanup_close(&e->server);
	e->client = e->server = -1;
}

/* As a carrier of bytes and descriptors delivers it: nothing of the original is left. */
static inline struct lb_handover *carry_over(struct lb_handover *h)
{
	size_t size = lb_handover_size(h);
	LB_AUTO_FREE uint8_t *buf = malloc(size);
	struct lb_handover *got = NULL;

	assert_non_null(buf);
	lb_handover_encode(h, buf);
	assert_int_equal(lb_handover_peek(buf, size), size);
	assert_int_equal(lb_handover_decode(buf, size, &got), 0);
	for (unsigned int i = 0; i < 2; i++)
		got->leg[i].fd = dup(h->leg[i].fd);
	lb_handover_forget(&h);
	return got;
}

static inline struct lb_handover *freeze(struct daemon *d)
{
	struct lb_handover *h = NULL;

	assert_int_equal(lb_handover_freeze(session_of(d), &h), 0);
	assert_true(has_none(d));
	return carry_over(h);
}

static inline void thaw(struct daemon *d, struct lb_handover *h)
{
	const struct lb_rule *rule = lb_handover_rule(&d->rule, 1, h);

	assert_ptr_equal(rule, &d->rule);
	assert_int_equal(lb_handover_thaw(&d->env, rule, &h), 0);
	assert_null(h);
}

static inline struct lb_backend *backend_of(struct daemon *d)
{
	return d->rule.pool->backends[0];
}

/* --- streams ---------------------------------------------------------------------------------- */

static inline char byte_at(size_t offset)
{
	return (char)(offset * 31 + offset / 251);
}

/* A pump moves so much at most: a flow takes many. */
#define PUMP_ROUNDS 4

/* What one end sends and the other one checks. */
struct stream {
	int from, to;
	size_t to_send, sent, received;
	bool reads, ended; /* <to> has read an end */
};

static inline bool pump(struct stream *s)
{
	static char buf[100000];
	ssize_t n = -1;

	for (int round = 0; round < PUMP_ROUNDS && s->sent < s->to_send; round++) {
		size_t len = s->to_send - s->sent;

		if (len > sizeof(buf))
			len = sizeof(buf);
		for (size_t i = 0; i < len; i++)
			buf[i] = byte_at(s->sent + i);
		n = send(s->from, buf, len, MSG_NOSIGNAL);
		if (n <= 0)
			break;
		s->sent += (size_t)n;
	}
	for (int round = 0; round < PUMP_ROUNDS && s->reads; round++) {
		n = recv(s->to, buf, sizeof(buf), 0);
		s->ended |= n == 0;
		for (ssize_t i = 0; i < n; i++, s->received++)
			if (buf[i] != byte_at(s->received))
				fail_msg("byte %zu differs", s->received);
		if (n <= 0)
			break;
	}
	return s->received == s->to_send;
}

static struct ends e;
static struct stream up, down;

/* Of both ends, from the beginning. */
static inline void streams(size_t bytes_up, size_t bytes_down)
{
	up = (struct stream){.from = e.client, .to = e.server, .to_send = bytes_up, .reads = true};
	down = (struct stream){
		.from = e.server, .to = e.client, .to_send = bytes_down, .reads = true};
}

static inline bool all_arrived(struct daemon *d)
{
	bool arrived = pump(&up);

	return pump(&down) && arrived;
}

static inline bool is_stalled(struct daemon *d)
{
	static uint64_t last = UINT64_MAX;
	static int same;
	const struct lb_pair *p = &session_of(d)->pair;
	uint64_t moved = p->carrier->bytes(p, 0);

	(void)all_arrived(d);
	same = last == moved ? same + 1 : 0;
	last = moved;
	return same > 200;
}

/* The client sends until nothing moves any more, for the server does not read. */
static inline void stall(struct daemon *d)
{
	streams(64 << 20, 0);
	up.reads = false;
	run(d, is_stalled);
	assert_true(up.sent < up.to_send);
	up.to_send = up.sent;
	up.reads = true;
}

static inline bool both_ended(struct daemon *d)
{
	(void)all_arrived(d);
	return up.ended && down.ended;
}

static inline bool up_ended(struct daemon *d)
{
	(void)all_arrived(d);
	return up.ended;
}

static inline bool down_ended(struct daemon *d)
{
	(void)all_arrived(d);
	return down.ended;
}

/* Both sides say that they are done, and each hears it. */
static inline void end_well(struct daemon *d)
{
	shutdown(e.client, SHUT_WR);
	shutdown(e.server, SHUT_WR);
	run(d, both_ended);
	assert_true(has_none(d));
	assert_int_equal(d->counters[0].ends[LB_REASON_DONE], 1);
	close_ends(&e);
}

#endif
