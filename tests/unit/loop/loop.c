/* SPDX-License-Identifier: MIT */
/* One thread: the order of a turn (I1), watches (I2), timers (I3). */
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "unit/loop/bench.h"

/* --- I1: the turn ----------------------------------------------------------------------------- */

/* The event queues all else that a turn has; only what was queued before the turn is run in it. */
static void queue_everything(struct thing *t)
{
	struct bench *b = t->b;

	lb_watch_remove(b->loop, &t->watch, false);
	lb_timer_start(b->loop, &b->things[2].timer, 0);
	lb_loop_again(b->loop, &b->things[3].task, on_task);
	lb_loop_stop(b->loop);
}

static void turn_runs_events_timers_again_tasks_and_deferred_in_this_order(void **state)
{
	struct bench *b = *state;
	struct thing *event = &b->things[0], *again = &b->things[1], *timer = &b->things[2],
		     *deferred = &b->things[3];

	lb_loop_defer(b->loop, &deferred->task, on_task);
	lb_loop_again(b->loop, &again->task, on_task);
	lb_timer_start(b->loop, &timer->timer, 0);
	watch_ready(event);
	event->then = stop;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "acbd");
}

static void what_an_event_queues_waits_for_the_next_turn(void **state)
{
	struct bench *b = *state;

	watch_ready(&b->things[0]);
	b->things[0].then = queue_everything;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "a");
	lb_loop_stop(b->loop);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "acd");
}

static void run_again(struct thing *t)
{
	lb_loop_again(t->b->loop, &t->task, on_task);
}

static uint32_t load;

static void note_load(struct thing *t)
{
	load = lb_loop_load(t->b->loop);
	lb_loop_stop(t->b->loop);
}

static void the_load_is_the_events_now_and_the_tasks_before(void **state)
{
	struct bench *b = *state;

	for (unsigned int i = 0; i < 3; i++)
		lb_loop_again(b->loop, &b->things[i].task, on_task);
	lb_loop_stop(b->loop);
	assert_int_equal(lb_loop_run(b->loop), 0);
	watch_ready(&b->things[3]);
	b->things[3].then = note_load;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_int_equal(load, 4);
}

static void again_task_does_not_keep_the_turn_alive(void **state)
{
	struct bench *b = *state;

	b->things[0].then = run_again;
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	for (int turns = 1; turns <= 3; turns++) {
		lb_loop_stop(b->loop);
		assert_int_equal(lb_loop_run(b->loop), 0);
		assert_int_equal(b->notes_len, turns);
	}
}

static void restart_at_once(struct thing *t)
{
	lb_timer_start(t->b->loop, &t->timer, 0);
}

static void timer_of_delay_0_does_not_keep_the_turn_alive(void **state)
{
	struct bench *b = *state;

	b->things[0].then = restart_at_once;
	lb_timer_start(b->loop, &b->things[0].timer, 0);
	for (int turns = 1; turns <= 3; turns++) {
		lb_loop_stop(b->loop);
		assert_int_equal(lb_loop_run(b->loop), 0);
		assert_int_equal(b->notes_len, turns);
	}
}

static void defer_again(struct thing *t)
{
	lb_loop_defer(t->b->loop, &t->task, on_task);
	if (t->b->notes_len == 3) {
		lb_loop_again_cancel(t->b->loop, &t->task);
		lb_loop_stop(t->b->loop);
	}
}

/* Without a sleep: there is nothing else in the loop that would end one. */
static void deferred_call_that_defers_runs_once_a_turn_without_sleep(void **state)
{
	struct bench *b = *state;

	b->things[0].then = defer_again;
	lb_loop_defer(b->loop, &b->things[0].task, on_task);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "aaa");
}

static void stop_at_the_third(struct thing *t)
{
	if (t->b->notes_len >= 5)
		lb_loop_stop(t->b->loop);
}

static void defer_until_notes_are_many(struct thing *t)
{
	if (t->b->notes_len < 20)
		lb_loop_defer(t->b->loop, &t->task, on_task);
}

static void deferred_call_does_not_keep_the_turn_alive(void **state)
{
	struct bench *b = *state;

	watch_ready(&b->things[0]);
	b->things[0].then = stop_at_the_third;
	b->things[1].then = defer_until_notes_are_many;
	lb_loop_defer(b->loop, &b->things[1].task, on_task);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_memory_equal(b->notes, "ababab", 6);
}

static void again_wakes_the_next_turn_without_sleep(void **state)
{
	struct bench *b = *state;

	b->things[0].then = stop;
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "a");
}

static void soon_naps_when_nothing_comes(void **state)
{
	struct bench *b = *state;
	uint64_t began_ns = lb_clock_ns();

	b->things[0].then = stop;
	lb_timer_start(b->loop, &b->things[1].timer, 3600000);
	lb_loop_soon(b->loop, &b->things[0].task, on_task);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "a");
	assert_in_range(lb_clock_ns() - began_ns, LB_LOOP_NAP_NS, 60000000000ull);
}

static void soon_runs_with_what_comes_earlier(void **state)
{
	struct bench *b = *state;

	lb_loop_soon(b->loop, &b->things[0].task, on_task);
	watch_ready(&b->things[1]);
	b->things[1].then = stop;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "ba");
}

static void soon_is_queued_once_and_taken_back_as_again_is(void **state)
{
	struct bench *b = *state;

	lb_loop_soon(b->loop, &b->things[0].task, on_task);
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	lb_loop_soon(b->loop, &b->things[1].task, on_task);
	lb_loop_again_cancel(b->loop, &b->things[1].task);
	for (int turns = 0; turns < 2; turns++) {
		lb_loop_stop(b->loop);
		assert_int_equal(lb_loop_run(b->loop), 0);
	}
	assert_string_equal(b->notes, "a");
}

/* As under a filter of system calls that is older than the call. For the rest of the process. */
static void refuse_epoll_pwait2(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = {LB_ARRAY_SIZE(filter), filter};
	struct epoll_event event;
	const struct timespec none = {0};

	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
	assert_int_equal(epoll_pwait2(-1, &event, 1, &none, NULL), -1);
	assert_int_equal(errno, EPERM);
}

static void soon_does_without_epoll_pwait2(void **state)
{
	refuse_epoll_pwait2();
	soon_naps_when_nothing_comes(state);
}

static void task_queued_twice_runs_once(void **state)
{
	struct bench *b = *state;

	lb_loop_again(b->loop, &b->things[0].task, on_task);
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	lb_loop_defer(b->loop, &b->things[1].task, on_task);
	lb_loop_defer(b->loop, &b->things[1].task, on_task);
	lb_loop_stop(b->loop);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "ab");
}

static void cancelled_task_does_not_run(void **state)
{
	struct bench *b = *state;

	lb_loop_again_cancel(b->loop, &b->things[0].task);
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	lb_loop_again_cancel(b->loop, &b->things[0].task);
	lb_loop_stop(b->loop);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "");
}

/* A session that ends while it is queued to run again: only its end may still happen. */
static void deferred_task_is_no_longer_run_again(void **state)
{
	struct bench *b = *state;

	lb_loop_again(b->loop, &b->things[0].task, on_task);
	lb_loop_defer(b->loop, &b->things[0].task, on_task);
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	for (int turns = 0; turns < 2; turns++) {
		lb_loop_stop(b->loop);
		assert_int_equal(lb_loop_run(b->loop), 0);
		assert_string_equal(b->notes, "a");
	}
}

static void free_runs_what_is_deferred(void **state)
{
	struct bench *b = *state;

	lb_loop_defer(b->loop, &b->things[0].task, on_task);
	lb_loop_free(b->loop);
	b->loop = NULL;
	assert_string_equal(b->notes, "a");
	lb_loop_free(NULL);
}

/* --- I2: watches ------------------------------------------------------------------------------ */

static struct thing *other(struct thing *t)
{
	return &t->b->things[t->name == 'a' ? 1 : 0];
}

static void remove_other_and_stop(struct thing *t)
{
	int fd = other(t)->watch.fd;

	lb_watch_remove(t->b->loop, &other(t)->watch, false);
	close(fd);
	lb_loop_stop(t->b->loop);
}

static void forget_other_and_stop(struct thing *t)
{
	int fd = other(t)->watch.fd;

	lb_watch_remove(t->b->loop, &other(t)->watch, true);
	close(fd);
	lb_loop_stop(t->b->loop);
}

static void removed_watch_is_not_called_for_an_event_already_fetched(void **state)
{
	struct bench *b = *state;
	void (*const ways[])(struct thing *) = {remove_other_and_stop, forget_other_and_stop};

	for (size_t i = 0; i < LB_ARRAY_SIZE(ways); i++) {
		watch_ready(&b->things[0]);
		watch_ready(&b->things[1]);
		b->things[0].then = b->things[1].then = ways[i];
		assert_int_equal(lb_loop_run(b->loop), 0);
		assert_int_equal(b->notes_len, 1); /* one of them, whichever was fetched first */
		/* The one that was called is still there, the other is not. */
		assert_true((b->things[0].watch.fd < 0) != (b->things[1].watch.fd < 0));
		lb_loop_stop(b->loop);
		assert_int_equal(lb_loop_run(b->loop), 0);
		assert_int_equal(b->notes_len, 2);
		assert_int_equal(b->notes[0], b->notes[1]);

		teardown_bench(state);
		setup_bench(state);
	}
}

static void swap_other(struct thing *t)
{
	int fd = other(t)->watch.fd;

	lb_watch_remove(t->b->loop, &other(t)->watch, true);
	close(fd);
	fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(lb_watch_add(t->b->loop, &other(t)->watch, fd, EPOLLIN, on_event), 0);
	other(t)->then = stop;
	t->then = stop;
	lb_loop_stop(t->b->loop);
}

/* As a connect to the next backend does with the watch of the failed one. */
static void watch_added_anew_is_not_called_for_an_event_of_its_old_descriptor(void **state)
{
	struct bench *b = *state;
	struct thing *first, *second;

	watch_ready(&b->things[0]);
	watch_ready(&b->things[1]);
	b->things[0].then = b->things[1].then = swap_other;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_int_equal(b->notes_len, 1);

	first = &b->things[b->notes[0] - 'a'];
	second = other(first);
	lb_watch_modify(b->loop, &first->watch, 0);
	eventfd_write(second->watch.fd, 1);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_int_equal(b->notes_len, 2);
	assert_int_equal(b->notes[1], second->name);
}

static void mute_other_and_stop(struct thing *t)
{
	lb_watch_modify(t->b->loop, &other(t)->watch, EPOLLOUT);
	other(t)->then = NULL;
	lb_loop_stop(t->b->loop);
}

static void event_no_longer_asked_for_is_not_reported(void **state)
{
	struct bench *b = *state;

	watch_ready(&b->things[0]);
	watch_ready(&b->things[1]);
	b->things[0].then = b->things[1].then = mute_other_and_stop;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_int_equal(b->notes_len, 1);
	/* The other one is writable, and that it does report from the next turn on. */
	lb_loop_stop(b->loop);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_int_equal(other(&b->things[b->notes[0] - 'a'])->events, EPOLLOUT);
}

static void hangup_is_reported_whatever_was_asked_for(void **state)
{
	struct bench *b = *state;
	struct thing *t = &b->things[0];
	int fds[2];

	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	t->then = stop;
	assert_int_equal(lb_watch_add(b->loop, &t->watch, fds[0], 0, on_event), 0);
	close(fds[1]);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_int_equal(t->events, EPOLLHUP);
}

static void watch_that_cannot_be_added_stays_unregistered(void **state)
{
	struct bench *b = *state;
	struct lb_watch w = {.fd = -1};

	assert_int_equal(lb_watch_add(b->loop, &w, -1, EPOLLIN, on_event), -EBADF);
	assert_null(w.fn);
	assert_int_equal(w.fd, -1);
	lb_watch_remove(b->loop, &w, false);

	watch_ready(&b->things[0]);
	assert_int_equal(lb_watch_add(b->loop, &b->things[0].watch, b->things[0].watch.fd, EPOLLIN,
				      on_event),
			 -EEXIST);
}

/* --- I3: timers ------------------------------------------------------------------------------- */

/* In a loop that never sleeps, for a wait of whole milliseconds would hide the last fraction. */
static void timer_never_fires_early(void **state)
{
	struct bench *b = *state;

	watch_ready(&b->things[1]);
	b->things[0].then = stop;
	for (uint64_t delay_ms = 1; delay_ms <= 5; delay_ms++) {
		uint64_t started_ns = lb_clock_ns();

		lb_timer_start(b->loop, &b->things[0].timer, delay_ms);
		assert_int_equal(lb_loop_run(b->loop), 0);
		assert_in_range(lb_clock_ns() - started_ns, delay_ms * 1000000, UINT64_MAX);
	}
}

static void stop_timer_of_b(struct thing *t)
{
	lb_timer_stop(t->b->loop, &t->b->things[1].timer);
	lb_loop_stop(t->b->loop);
}

static void event_can_stop_a_timer_that_is_due_in_the_same_turn(void **state)
{
	struct bench *b = *state;

	watch_ready(&b->things[0]);
	b->things[0].then = stop_timer_of_b;
	lb_timer_start(b->loop, &b->things[1].timer, 0);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "a");
}

static void timers_fire_in_the_order_of_their_due_times(void **state)
{
	struct bench *b = *state;

	/* Time goes on between these. */
	lb_timer_start(b->loop, &b->things[0].timer, 90);
	lb_timer_start(b->loop, &b->things[1].timer, 30);
	lb_timer_start(b->loop, &b->things[2].timer, 60);
	b->things[0].then = stop;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "bca");
}

static void no_delay_is_too_long(void **state)
{
	struct bench *b = *state;

	lb_timer_start(b->loop, &b->things[0].timer, UINT64_MAX);
	lb_timer_start(b->loop, &b->things[1].timer, UINT64_MAX / 2);
	lb_timer_start(b->loop, &b->things[2].timer, 1);
	b->things[2].then = stop;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "c");
	assert_true(b->things[0].timer.armed);
}

static void check_now(struct thing *t)
{
	uint64_t now_ns = lb_loop_now_ns(t->b->loop), clock_ns = lb_clock_ns();

	/* Time stands still within a turn. */
	while (lb_clock_ns() < clock_ns + 1000000)
		;
	assert_true(lb_loop_now_ns(t->b->loop) == now_ns);
	assert_true(lb_loop_now_ms(t->b->loop) == now_ns / 1000000);
	assert_true(now_ns <= clock_ns);
	lb_loop_stop(t->b->loop);
}

static void now_stands_still_in_a_turn_and_moves_outside(void **state)
{
	struct bench *b = *state;
	uint64_t before_ns = lb_clock_ns();

	b->things[0].then = check_now;
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_in_range(lb_loop_now_ns(b->loop), before_ns + 1000000, UINT64_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		bench_test(turn_runs_events_timers_again_tasks_and_deferred_in_this_order),
		bench_test(what_an_event_queues_waits_for_the_next_turn),
		bench_test(the_load_is_the_events_now_and_the_tasks_before),
		bench_test(again_task_does_not_keep_the_turn_alive),
		bench_test(timer_of_delay_0_does_not_keep_the_turn_alive),
		bench_test(deferred_call_that_defers_runs_once_a_turn_without_sleep),
		bench_test(deferred_call_does_not_keep_the_turn_alive),
		bench_test(again_wakes_the_next_turn_without_sleep),
		bench_test(soon_naps_when_nothing_comes),
		bench_test(soon_runs_with_what_comes_earlier),
		bench_test(soon_is_queued_once_and_taken_back_as_again_is),
		bench_test(task_queued_twice_runs_once),
		bench_test(cancelled_task_does_not_run),
		bench_test(deferred_task_is_no_longer_run_again),
		bench_test(free_runs_what_is_deferred),
		bench_test(removed_watch_is_not_called_for_an_event_already_fetched),
		bench_test(watch_added_anew_is_not_called_for_an_event_of_its_old_descriptor),
		bench_test(event_no_longer_asked_for_is_not_reported),
		bench_test(hangup_is_reported_whatever_was_asked_for),
		bench_test(watch_that_cannot_be_added_stays_unregistered),
		bench_test(timer_never_fires_early),
		bench_test(event_can_stop_a_timer_that_is_due_in_the_same_turn),
		bench_test(timers_fire_in_the_order_of_their_due_times),
		bench_test(no_delay_is_too_long),
		bench_test(now_stands_still_in_a_turn_and_moves_outside),
		bench_test(soon_does_without_epoll_pwait2), /* the last one */
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
