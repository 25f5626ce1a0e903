/* SPDX-License-Identifier: MIT */
/*
 * Decides in which order the things of a turn happen (I1). Must never allocate, read the clock
 * twice or make a system call besides the wait in a turn of its own accord.
 */
#include "loop/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "loop/wheel.h"

#define EVENTS_PER_TURN 256
#define NS_PER_MS       1000000ull

struct post {
	struct post *next;
	void (*fn)(void *arg);
	void *arg;
};

struct lb_loop {
	int epoll_fd;
	int wake_fd; /* eventfd: posts and stop */
	bool running;
	uint64_t turn; /* number of the current or last turn */
	uint32_t load; /* events of this turn and tasks of the one before */
	uint32_t ran;  /* tasks of this turn */
	uint64_t now_ns;
	struct lb_list again;     /* tasks for the next turn */
	struct lb_list soon;      /* the same, but it may nap first */
	struct lb_list this_turn; /* tasks that were queued before this turn */
	struct lb_list deferred;
	struct lb_watch wake;
	struct lb_wheel wheel;
	struct epoll_event events[EVENTS_PER_TURN];
	/* Written by other threads: kept off the cache lines above. */
	_Atomic(struct post *) posts __attribute__((aligned(64))); /* newest first */
	atomic_bool stop;
};

/* --- posts and stop: the part that other threads touch ---------------------------------------- */

static void wake(struct lb_loop *loop)
{
	/* Fails only when the counter is full, and then the loop has been woken already. */
	eventfd_write(loop->wake_fd, 1);
}

int lb_loop_post(struct lb_loop *loop, void (*fn)(void *arg), void *arg)
{
	struct post *post = malloc(sizeof(*post)), *head;

	if (!post)
		return -ENOMEM;
	post->fn = fn;
	post->arg = arg;
	head = atomic_load_explicit(&loop->posts, memory_order_relaxed);
	do {
		post->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&loop->posts, &head, post, memory_order_release, memory_order_relaxed));
	/* Whoever found the list empty wakes the loop, which takes the whole list when it comes. */
	if (!head)
		wake(loop);
	return 0;
}

void lb_loop_stop(struct lb_loop *loop)
{
	int saved_errno = errno;

	atomic_store_explicit(&loop->stop, true, memory_order_release);
	wake(loop);
	errno = saved_errno;
}

/* Takes all posts off the list, oldest first. */
static struct post *take_posts(struct lb_loop *loop)
{
	struct post *newest = atomic_exchange_explicit(&loop->posts, NULL, memory_order_acquire);
	struct post *oldest = NULL;

	while (newest) {
		struct post *next = newest->next;

		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	return oldest;
}

static void run_posts(struct lb_loop *loop)
{
	struct post *post = take_posts(loop);

	while (post) {
		struct post *next = post->next;

		post->fn(post->arg);
		free(post);
		post = next;
	}
}

static void drop_posts(struct lb_loop *loop)
{
	struct post *post = take_posts(loop);

	while (post) {
		struct post *next = post->next;

		free(post);
		post = next;
	}
}

/*
 * The eventfd is edge-triggered: each write reports once and nobody has to read it. The event is
 * fetched before the list is taken, so a post that comes later finds an empty list and writes anew.
 */
static void on_wake(struct lb_watch *w, uint32_t events)
{
	run_posts(lb_container_of(w, struct lb_loop, wake));
}

/* --- life ------------------------------------------------------------------------------------- */

int lb_loop_new(struct lb_loop **ret)
{
	LB_AUTO_FREE struct lb_loop *loop = NULL;
	LB_AUTO_CLOSE int epoll_fd = -1;
	LB_AUTO_CLOSE int wake_fd = -1;
	int err;

	loop = aligned_alloc(_Alignof(struct lb_loop), sizeof(*loop));
	if (!loop)
		return -ENOMEM;
	*loop = (struct lb_loop){0};
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (epoll_fd < 0 || wake_fd < 0)
		return -errno;

	loop->epoll_fd = epoll_fd;
	loop->wake_fd = wake_fd;
	loop->now_ns = lb_clock_ns();
	lb_list_init(&loop->again);
	lb_list_init(&loop->soon);
	lb_list_init(&loop->this_turn);
	lb_list_init(&loop->deferred);
	lb_wheel_init(&loop->wheel, loop->now_ns / NS_PER_MS);
	err = lb_watch_add(loop, &loop->wake, wake_fd, EPOLLIN | EPOLLET, on_wake);
	if (err)
		return err;

	LB_TAKE_FD(epoll_fd);
	LB_TAKE_FD(wake_fd);
	*ret = LB_TAKE_PTR(loop);
	return 0;
}

static void run_deferred(struct lb_loop *loop);

void lb_loop_free(struct lb_loop *loop)
{
	if (!loop)
		return;
	while (!lb_list_empty(&loop->deferred))
		run_deferred(loop);
	drop_posts(loop);
	close(loop->wake_fd);
	close(loop->epoll_fd);
	free(loop);
}

uint64_t lb_loop_now_ns(const struct lb_loop *loop)
{
	return loop->running ? loop->now_ns : lb_clock_ns();
}

uint64_t lb_loop_now_ms(const struct lb_loop *loop)
{
	return lb_loop_now_ns(loop) / NS_PER_MS;
}

uint32_t lb_loop_load(const struct lb_loop *loop)
{
	return loop->load;
}

/* --- watches ---------------------------------------------------------------------------------- */

int lb_watch_add(struct lb_loop *loop, struct lb_watch *w, int fd, uint32_t events, lb_watch_fn fn)
{
	struct epoll_event event = {.events = events, .data.ptr = w};

	if (w->fn)
		return -EEXIST;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event))
		return -errno;
	w->fn = fn;
	w->fd = fd;
	w->events = events;
	w->turn = loop->turn;
	return 0;
}

int lb_watch_modify(struct lb_loop *loop, struct lb_watch *w, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = w};

	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &event))
		return -errno;
	w->events = events;
	return 0;
}

void lb_watch_remove(struct lb_loop *loop, struct lb_watch *w, bool keep_epoll)
{
	if (!w->fn)
		return;
	if (!keep_epoll)
		epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	w->fn = NULL;
	w->fd = -1;
}

static void dispatch(struct lb_loop *loop, int count)
{
	for (int i = 0; i < count; i++) {
		struct lb_watch *w = loop->events[i].data.ptr;
		uint32_t events;

		/* I2: removed in this turn, or removed and added anew. */
		if (!w->fn || w->turn == loop->turn)
			continue;
		events = loop->events[i].events & (w->events | EPOLLERR | EPOLLHUP);
		if (events)
			w->fn(w, events);
	}
}

/* --- timers ----------------------------------------------------------------------------------- */

void lb_timer_init(struct lb_timer *t, lb_timer_fn fn)
{
	*t = (struct lb_timer){.fn = fn};
	lb_list_init(&t->node);
}

void lb_timer_start(struct lb_loop *loop, struct lb_timer *t, uint64_t delay_ms)
{
	uint64_t now_ms, due_ms = 0; /* long past: the wheel makes it the next turn */

	if (delay_ms) {
		/* I3: rounded up, for this turn may be at the very end of its millisecond. */
		now_ms = (lb_loop_now_ns(loop) + NS_PER_MS - 1) / NS_PER_MS;
		due_ms = delay_ms < UINT64_MAX - now_ms ? now_ms + delay_ms : UINT64_MAX;
	}
	lb_wheel_start(&loop->wheel, t, due_ms);
}

void lb_timer_stop(struct lb_loop *loop, struct lb_timer *t)
{
	lb_wheel_stop(&loop->wheel, t);
}

static void fire_timers(struct lb_loop *loop)
{
	struct lb_timer *t;

	/* Callbacks start timers in the wheel's slots, never among those to be popped: this ends.
	 */
	while ((t = lb_wheel_pop(&loop->wheel)))
		t->fn(t);
}

/* --- tasks ------------------------------------------------------------------------------------ */

static void enqueue(struct lb_list *queue, struct lb_task *t, lb_task_fn fn)
{
	t->fn = fn;
	t->queued = true;
	lb_list_append(queue, &t->node);
}

static void dequeue(struct lb_task *t)
{
	lb_list_remove(&t->node);
	t->queued = false;
}

void lb_loop_again(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn)
{
	if (!t->queued)
		enqueue(&loop->again, t, fn);
}

void lb_loop_soon(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn)
{
	if (!t->queued)
		enqueue(&loop->soon, t, fn);
}

void lb_loop_again_cancel(struct lb_loop *loop, struct lb_task *t)
{
	if (t->queued)
		dequeue(t);
}

void lb_loop_defer(struct lb_loop *loop, struct lb_task *t, lb_task_fn fn)
{
	if (t->queued)
		dequeue(t);
	enqueue(&loop->deferred, t, fn);
}

/* To the end of a queue to which its own tasks cannot add. Returns their number. */
static uint32_t run_tasks(struct lb_list *queue)
{
	uint32_t n = 0;

	for (; !lb_list_empty(queue); n++) {
		struct lb_task *t = lb_container_of(queue->next, struct lb_task, node);

		dequeue(t);
		t->fn(t);
	}
	return n;
}

static void run_deferred(struct lb_loop *loop)
{
	struct lb_list now;

	lb_list_init(&now);
	lb_list_splice(&now, &loop->deferred);
	(void)run_tasks(&now);
}

/* --- the turn --------------------------------------------------------------------------------- */

/* How long to wait, for epoll_wait(2). */
static int wait_ms(const struct lb_loop *loop)
{
	uint64_t next_ms, ms;

	if (!lb_list_empty(&loop->again) || !lb_list_empty(&loop->deferred))
		return 0;
	next_ms = lb_wheel_next_ms(&loop->wheel);
	if (next_ms == LB_WHEEL_NEVER)
		return -1;
	if (next_ms * NS_PER_MS <= loop->now_ns)
		return 0;
	/* Rounded up: waking a fraction of a millisecond early would mean to spin until it is over.
	 */
	ms = (next_ms * NS_PER_MS - loop->now_ns + NS_PER_MS - 1) / NS_PER_MS;
	return ms < INT_MAX ? (int)ms : INT_MAX;
}

/* As epoll_wait(2). */
static int wait_for_events(struct lb_loop *loop)
{
	const struct timespec nap = {.tv_nsec = LB_LOOP_NAP_NS};
	int ms = wait_ms(loop), count;

	if (ms && !lb_list_empty(&loop->soon)) {
		count = epoll_pwait2(loop->epoll_fd, loop->events, EVENTS_PER_TURN, &nap, NULL);
		/* Since Linux 5.11, and unknown to some filters of system calls. */
		if (count >= 0 || (errno != ENOSYS && errno != EPERM))
			return count;
		ms = 1;
	}
	return epoll_wait(loop->epoll_fd, loop->events, EVENTS_PER_TURN, ms);
}

static int run_turn(struct lb_loop *loop)
{
	int count = wait_for_events(loop);

	if (count < 0) {
		if (errno != EINTR)
			return -errno;
		count = 0;
	}
	loop->turn++;
	loop->load = (uint32_t)count + loop->ran;
	loop->now_ns = lb_clock_ns();
	/* Here and not after the events, so that those can still stop or restart a due timer. */
	lb_wheel_advance(&loop->wheel, loop->now_ns / NS_PER_MS);
	lb_list_splice(&loop->this_turn, &loop->again);
	lb_list_splice(&loop->this_turn, &loop->soon);

	dispatch(loop, count);
	fire_timers(loop);
	loop->ran = run_tasks(&loop->this_turn);
	run_deferred(loop);
	return 0;
}

int lb_loop_run(struct lb_loop *loop)
{
	int err;

	loop->now_ns = lb_clock_ns();
	loop->running = true;
	do {
		err = run_turn(loop);
	} while (!err && !atomic_load_explicit(&loop->stop, memory_order_acquire));
	atomic_store_explicit(&loop->stop, false, memory_order_relaxed);
	/* A post may have come between the wait and the stop that was made after it. */
	run_posts(loop);
	run_deferred(loop);
	loop->running = false;
	return err;
}
