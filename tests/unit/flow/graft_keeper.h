/* SPDX-License-Identifier: MIT */
/*
 * What the keeper's tests stand on: a table in memory instead of the kernel's, a loop whose clock
 * and timers the tests move, sockets whose resets are recorded. Included after cmocka.h.
 */
#ifndef LB_TESTS_FLOW_GRAFT_KEEPER_H
#define LB_TESTS_FLOW_GRAFT_KEEPER_H

#include <errno.h>
#include <string.h>

#include <lb/graft.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "flow/graft_keeper.h"
#include "flow/graft_socket.h"
#include "flow/grafts.h"

#define PAIRS      8u
#define SECOND     1000000000ull
#define RESETS_MAX 16

struct fixture {
	struct lb_flow_env env;
	struct lb_flow_limits limits;
	struct lb_counters counters[1];
	struct lb_rule_config config;
	struct lb_backend_config backend_config;
	struct lb_backend backend, *set[1];
	struct lb_pool pool;
	struct lb_rule rule;
	struct lb_ports_shelf *shelf;
	struct lb_ports *ports;
	struct lb_grafts *grafts;
	struct lb_graft_keeper *keeper;
	struct lb_graft table[PAIRS];
	bool hooked[PAIRS * 2];
	uint32_t events[PAIRS * 2];
	unsigned int events_count;
	struct {
		struct lb_addr to;
		uint32_t seq;
	} resets[RESETS_MAX];
	unsigned int resets_count;
	char line[LB_FLOW_LINE_MAX];
	unsigned int lines;
	/* The loop. */
	uint64_t now_ns;
	struct lb_timer *timers[8];
	struct lb_watch *ring;
};

static struct fixture fx;

/* --- fakes: loop ------------------------------------------------------------------------------ */

uint32_t lb_loop_load(const struct lb_loop *loop)
{
	return 0;
}

uint64_t lb_loop_now_ns(const struct lb_loop *loop)
{
	return fx.now_ns;
}

void lb_timer_init(struct lb_timer *t, lb_timer_fn fn)
{
	*t = (struct lb_timer){.fn = fn};
}

void lb_timer_start(struct lb_loop *loop, struct lb_timer *t, uint64_t delay_ms)
{
	t->due_ms = fx.now_ns / 1000000 + delay_ms;
	t->armed = true;
	for (size_t i = 0; i < LB_ARRAY_SIZE(fx.timers); i++) {
		if (fx.timers[i] && fx.timers[i] != t)
			continue;
		fx.timers[i] = t;
		return;
	}
	fail();
}

void lb_timer_stop(struct lb_loop *loop, struct lb_timer *t)
{
	t->armed = false;
}

int lb_watch_add(struct lb_loop *loop, struct lb_watch *w, int fd, uint32_t events, lb_watch_fn fn)
{
	w->fn = fn;
	w->fd = fd;
	if (fd == 100)
		fx.ring = w;
	return 0;
}

int lb_watch_modify(struct lb_loop *loop, struct lb_watch *w, uint32_t events)
{
	return 0;
}

void lb_watch_remove(struct lb_loop *loop, struct lb_watch *w, bool keep_epoll)
{
	w->fd = -1;
}

void lb_loop_again(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn)
{
}

void lb_loop_soon(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn)
{
}

void lb_loop_again_cancel(struct lb_loop *loop, struct lb_task *t)
{
}

/* --- fakes: table, sockets -------------------------------------------------------------------- */

uint32_t lb_graft_table_pairs(const struct lb_graft_table *t)
{
	return PAIRS;
}

struct lb_graft *lb_graft_table_pair(struct lb_graft_table *t, uint32_t pair)
{
	return &fx.table[pair];
}

int lb_graft_table_add(struct lb_graft_table *t, const struct lb_graft_tuple *tuple, uint32_t index)
{
	return -ENOSPC;
}

void lb_graft_table_remove(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			   uint32_t index)
{
	fx.hooked[index] = false;
}

int lb_graft_table_find(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			uint32_t *index)
{
	return -ENOENT;
}

int lb_graft_table_ring_fd(struct lb_graft_table *t)
{
	return 100;
}

bool lb_graft_table_consume(struct lb_graft_table *t,
			    void (*fn)(void *arg, const struct lb_graft_event *e), void *arg)
{
	for (unsigned int i = 0; i < fx.events_count; i++)
		fn(arg, &(struct lb_graft_event){.pair = fx.events[i]});
	fx.events_count = 0;
	return false;
}

int lb_graft_table_netlink_fd(struct lb_graft_table *t)
{
	return 101;
}

bool lb_graft_table_follow(struct lb_graft_table *t)
{
	return false;
}

int lb_graft_table_route(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			 struct lb_graft_route *ret)
{
	return -EHOSTUNREACH;
}

int lb_graft_socket_info(int fd, struct tcp_info *info)
{
	return -EBADF;
}

int lb_graft_socket_windows(int fd, uint32_t *own, uint32_t *peers)
{
	return -EBADF;
}

uint64_t lb_graft_socket_received(const struct tcp_info *info, bool eof)
{
	return 0;
}

int lb_graft_socket_position(int fd, uint64_t written, struct lb_graft_position *ret)
{
	return -EBADF;
}

void lb_graft_socket_probe(int fd)
{
}

void lb_graft_socket_vanish(int fd)
{
}

int lb_graft_socket_reset(const struct lb_addr *from, const struct lb_addr *to, uint32_t seq,
			  uint32_t ack)
{
	assert_true(fx.resets_count < RESETS_MAX);
	fx.resets[fx.resets_count].to = *to;
	fx.resets[fx.resets_count++].seq = seq;
	return 0;
}

int lb_graft_socket_nudge(const struct lb_addr *from, const struct lb_addr *to, uint32_t seq,
			  uint32_t ack)
{
	fail();
	return 0;
}

#endif
