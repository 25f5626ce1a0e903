/* SPDX-License-Identifier: MIT */
/*
 * One event loop: epoll, timers, work for later. A loop belongs to one thread; only lb_loop_post()
 * and lb_loop_stop() may be called from others.
 *
 * A turn costs one wait of epoll and one look at the clock, whatever happens in it; nothing but
 * lb_loop_new() and lb_loop_post() allocates.
 *
 * Invariants
 *  I1  A turn is: wait -> events -> due timers -> "again" tasks queued before this turn -> deferred
 *      calls. Nothing queued in a turn can keep that same turn from ending.
 *  I2  After lb_watch_remove(w) returns, w's callback is not called again, also not for an event
 *      that was already fetched in this turn; neither when w was added anew in the meantime. The
 *      memory of w must stay valid until the deferred calls of the turn run (free it in one:
 *      lb_loop_defer).
 *  I3  Timers never fire early, counted from the time of the turn that started them
 *      (lb_loop_now_ns). They fire at most two ticks late (1 ms each: the due time and the wait are
 *      both rounded up), plus the length of a turn.
 */
#ifndef LB_LOOP_LOOP_H
#define LB_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/list.h"

#define LB_LOOP_NAP_NS 50000

struct lb_loop;
struct lb_watch;
struct lb_timer;
struct lb_task;

typedef void (*lb_watch_fn)(struct lb_watch *w, uint32_t events);
typedef void (*lb_timer_fn)(struct lb_timer *t);
typedef void (*lb_task_fn)(struct lb_task *t);

/* Embedded by its owner; zero is a valid "not watched" state as long as fd is -1. */
struct lb_watch {
	lb_watch_fn fn; /* NULL while not registered: the stale-event mark of I2 */
	int fd;         /* not owned */
	uint32_t events;
	uint64_t turn; /* in which it was added: what that turn had fetched before is not for it */
};

/* Embedded by its owner; lb_timer_init() before anything else. */
struct lb_timer {
	struct lb_list node;
	lb_timer_fn fn;
	uint64_t due_ms; /* lb_clock_ms() scale */
	bool armed;      /* false again when <fn> is called */
};

/* Embedded by its owner; zero is a valid "not queued" state. */
struct lb_task {
	struct lb_list node;
	lb_task_fn fn;
	bool queued; /* false again when <fn> is called */
};

/* 0 or -errno with *ret untouched. */
int lb_loop_new(struct lb_loop **ret);
/*
 * Runs what is still deferred, so that nothing leaks; drops posts that have not run. From the
 * loop's thread, not from within a turn. NULL is fine.
 */
void lb_loop_free(struct lb_loop *loop);

/*
 * Turns until lb_loop_stop(). A stop that came before makes it one turn. Posts made before the stop
 * by the same thread have run when this returns. 0, or -errno when epoll itself fails.
 */
int lb_loop_run(struct lb_loop *loop);
/* Any thread, also in a signal handler; idempotent. The turn under way ends first. */
void lb_loop_stop(struct lb_loop *loop);

/*
 * Milliseconds / nanoseconds, monotonic: the time of this turn, taken after its wait. Outside
 * lb_loop_run(): the clock.
 */
uint64_t lb_loop_now_ms(const struct lb_loop *loop);
uint64_t lb_loop_now_ns(const struct lb_loop *loop);
/*
 * How many want something of this turn, about: its events, and as many tasks as the turn before
 * had. For callbacks that can do more or less at once; the loop's thread.
 */
uint32_t lb_loop_load(const struct lb_loop *loop);

/* <events>: EPOLL*. 0 or -errno (w stays unregistered); -EEXIST when it is registered already. */
int lb_watch_add(struct lb_loop *loop, struct lb_watch *w, int fd, uint32_t events, lb_watch_fn fn);
/*
 * 0 or -errno. What is no longer asked for is not reported either, when it was already fetched in
 * this turn; EPOLLERR and EPOLLHUP always are. With EPOLLET a repeated mask reports anew.
 */
int lb_watch_modify(struct lb_loop *loop, struct lb_watch *w, uint32_t events);
/*
 * Stops callbacks (I2). With <keep_epoll> the kernel registration is left to the coming close(2) of
 * the descriptor, which saves a system call; the caller must close it before this turn ends, and
 * must hold its only copy. Forgets the descriptor (w->fd = -1). Harmless on a watch that is not
 * registered.
 */
void lb_watch_remove(struct lb_loop *loop, struct lb_watch *w, bool keep_epoll);

void lb_timer_init(struct lb_timer *t, lb_timer_fn fn);
/*
 * (Re)arms. The delay counts from the time of this turn. 0 fires in the next turn, which will not
 * sleep; delays beyond 4 hours are re-armed internally; no delay is too long. Timers that are due
 * in the same turn fire in the order of their due times.
 */
void lb_timer_start(struct lb_loop *loop, struct lb_timer *t, uint64_t delay_ms);
/* Harmless on a timer that is not armed. Also stops one that is due in this turn. */
void lb_timer_stop(struct lb_loop *loop, struct lb_timer *t);

/* Runs <t> once in the next turn, which will not sleep. Queued twice = once, as first queued. */
void lb_loop_again(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn);
/*
 * The same for what a timer is too coarse for: the next turn sleeps LB_LOOP_NAP_NS at most, and
 * less when something comes. A timer slack of 50 us may be added, prctl(2); 1 ms where
 * epoll_pwait2(2) is refused.
 */
void lb_loop_soon(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn);
/* Harmless on a task that is not queued; also takes back a deferred one. */
void lb_loop_again_cancel(struct lb_loop *loop, struct lb_task *t);
/*
 * Runs <t> at the end of this turn: the place to free what events of this turn may still name.
 * Deferred from a deferred call: at the end of the next turn, which will not sleep. A task that was
 * queued to run again is only deferred after this.
 */
void lb_loop_defer(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn);

/*
 * Any thread: runs fn(arg) in the loop's thread soon; posts of one thread keep their order. 0 or
 * -ENOMEM. Must not be called any more when lb_loop_free() is.
 */
int lb_loop_post(struct lb_loop *loop, void (*fn)(void *arg), void *arg);

#endif
