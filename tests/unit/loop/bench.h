/* SPDX-License-Identifier: MIT */
/* What the tests of the loop share. Included after cmocka.h. */
#ifndef LB_TESTS_LOOP_BENCH_H
#define LB_TESTS_LOOP_BENCH_H

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "loop/loop.h"

/*
 * One test: a loop, and things to hang into it that note their names when they are called. <notes>
 * then tells what happened in which order.
 */
struct bench;

struct thing {
	struct bench *b;
	char name;
	struct lb_watch watch;
	struct lb_timer timer;
	struct lb_task task;
	uint32_t events;               /* of the last call of the watch */
	void (*then)(struct thing *t); /* more to do when called */
};

struct bench {
	struct lb_loop *loop;
	struct thing things[4]; /* named a, b, c, d */
	char notes[256];
	size_t notes_len;
};

static inline void note(struct bench *b, char what)
{
	if (b->notes_len < sizeof(b->notes) - 1)
		b->notes[b->notes_len++] = what;
}

static inline void called(struct thing *t)
{
	note(t->b, t->name);
	if (t->then)
		t->then(t);
}

static inline void on_event(struct lb_watch *w, uint32_t events)
{
	struct thing *t = lb_container_of(w, struct thing, watch);

	t->events = events;
	called(t);
}

static inline void on_timer(struct lb_timer *timer)
{
	called(lb_container_of(timer, struct thing, timer));
}

static inline void on_task(struct lb_task *task)
{
	called(lb_container_of(task, struct thing, task));
}

static inline void stop(struct thing *t)
{
	lb_loop_stop(t->b->loop);
}

/* A level-triggered watch on an eventfd that is readable from the start. */
static inline void watch_ready(struct thing *t)
{
	int fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(lb_watch_add(t->b->loop, &t->watch, fd, EPOLLIN, on_event), 0);
}

static inline int setup_bench(void **state)
{
	static struct bench b;

	memset(&b, 0, sizeof(b));
	if (lb_loop_new(&b.loop))
		return -1;
	for (size_t i = 0; i < LB_ARRAY_SIZE(b.things); i++) {
		b.things[i].b = &b;
		b.things[i].name = (char)('a' + i);
		b.things[i].watch.fd = -1;
		lb_timer_init(&b.things[i].timer, on_timer);
	}
	*state = &b;
	return 0;
}

static inline int teardown_bench(void **state)
{
	struct bench *b = *state;

	for (size_t i = 0; i < LB_ARRAY_SIZE(b->things); i++) {
		int fd = b->things[i].watch.fd;

		lb_watch_remove(b->loop, &b->things[i].watch, false);
		if (fd >= 0)
			close(fd);
	}
	lb_loop_free(b->loop);
	return 0;
}

#define bench_test(f) cmocka_unit_test_setup_teardown(f, setup_bench, teardown_bench)

#endif
