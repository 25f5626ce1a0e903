/* SPDX-License-Identifier: MIT */
/*
 * One event loop: epoll, timers, work for later. A loop belongs to one thread; only lb_loop_post()
 * and lb_loop_stop() may be called from others.
 *
 * Invariants
 *  I1  A turn is: wait -> events -> due timers -> "again" tasks queued before this turn -> deferred
 *      calls. Nothing queued in a turn can keep that same turn from ending.
 *  I2  After lb_watch_remove(w) returns, w's callback is not called again, also not for an event
 *      that was already fetched in this turn. The memory of w must stay valid until the deferred
 *      calls of the turn run (free it in one: lb_loop_defer).
 *  I3  Timers never fire early; they fire at most one tick (1 ms) plus the length of a turn late.
 */
#ifndef LB_LOOP_LOOP_H
#define LB_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/list.h"

struct lb_loop;
struct lb_watch;
struct lb_timer;
struct lb_task;

typedef void (*lb_watch_fn)(struct lb_watch *w, uint32_t events);
typedef void (*lb_timer_fn)(struct lb_timer *t);
typedef void (*lb_task_fn)(struct lb_task *t);

/* Embedded by its owner; zero is a valid "not watched" state as long as fd is -1. */
struct lb_watch {
	lb_watch_fn fn; /* NULL while not registered: this is the stale-event mark of I2 */
	int fd;	      /* not owned */
};

struct lb_timer {
	struct lb_list node;
	lb_timer_fn fn;
	uint64_t due_ms; /* lb_clock_ms() scale */
	bool armed;
};

struct lb_task {
	struct lb_list node;
	lb_task_fn fn;
	bool queued;
};

/* 0 or -errno with *ret untouched. Free with lb_loop_free() (NULL is fine) from the loop's thread. */
int lb_loop_new(struct lb_loop **ret);
void lb_loop_free(struct lb_loop *loop);

/* Runs until lb_loop_stop(). Returns 0, or -errno when epoll itself fails. */
int lb_loop_run(struct lb_loop *loop);
/* Any thread, also from a signal handler's thread; idempotent. */
void lb_loop_stop(struct lb_loop *loop);

/* Time at the start of this turn, refreshed after the wait. Milliseconds / nanoseconds, monotonic. */
uint64_t lb_loop_now_ms(const struct lb_loop *loop);
uint64_t lb_loop_now_ns(const struct lb_loop *loop);

/* events: EPOLL*. 0 or -errno (w stays unregistered). */
int lb_watch_add(struct lb_loop *loop, struct lb_watch *w, int fd, uint32_t events, lb_watch_fn fn);
int lb_watch_modify(struct lb_loop *loop, struct lb_watch *w, uint32_t events);
/*
 * Stops callbacks (I2). With <keep_epoll> the kernel registration is left to the coming close(2) of
 * the descriptor, which saves a system call; the caller must close it, and must hold its only copy.
 */
void lb_watch_remove(struct lb_loop *loop, struct lb_watch *w, bool keep_epoll);

void lb_timer_init(struct lb_timer *t, lb_timer_fn fn);
/* (Re)arms. A delay of 0 fires in the next turn. Delays beyond 4 hours are re-armed internally. */
void lb_timer_start(struct lb_loop *loop, struct lb_timer *t, uint64_t delay_ms);
/* Harmless on a timer that is not armed. */
void lb_timer_stop(struct lb_loop *loop, struct lb_timer *t);

/* Runs <t> once in the next turn, which will not sleep. Queued twice = once. */
void lb_loop_again(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn);
void lb_loop_again_cancel(struct lb_loop *loop, struct lb_task *t);
/* Runs <t> at the end of this turn: the place to free what events of this turn may still name. */
void lb_loop_defer(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn);

/* Any thread: runs fn(arg) in the loop's thread soon. 0 or -ENOMEM. */
int lb_loop_post(struct lb_loop *loop, void (*fn)(void *arg), void *arg);

#endif
