/* SPDX-License-Identifier: MIT */
/* What other threads and signals may do to a loop. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/time.h>

#include <cmocka.h>

#include "loop/loop.h"
#include "unit/loop/bench.h"

#define POSTERS     4
#define POSTS       5000
#define POSTS_TOTAL (POSTERS * POSTS)

struct poster {
	struct crowd *crowd;
	pthread_t thread;
	int next; /* the number its next post must have when it runs */
};

struct parcel {
	struct poster *from;
	int number;
};

struct crowd {
	struct lb_loop *loop;
	struct poster posters[POSTERS];
	struct parcel parcels[POSTERS][POSTS];
	int ran, out_of_order;
};

static void receive(void *arg)
{
	struct parcel *p = arg;
	struct crowd *crowd = p->from->crowd;

	crowd->out_of_order += p->number != p->from->next;
	p->from->next = p->number + 1;
	if (++crowd->ran == POSTS_TOTAL)
		lb_loop_stop(crowd->loop);
}

static void *post_all(void *arg)
{
	struct poster *from = arg;
	struct parcel *parcels = from->crowd->parcels[from - from->crowd->posters];

	for (int i = 0; i < POSTS; i++) {
		parcels[i] = (struct parcel){from, i};
		if (lb_loop_post(from->crowd->loop, receive, &parcels[i]))
			return arg;
	}
	return NULL;
}

static void post_from_many_threads_runs_each_once_and_in_order(void **state)
{
	static struct crowd crowd;
	struct bench *b = *state;

	crowd.loop = b->loop;
	for (int i = 0; i < POSTERS; i++) {
		crowd.posters[i].crowd = &crowd;
		assert_int_equal(
			pthread_create(&crowd.posters[i].thread, NULL, post_all, &crowd.posters[i]),
			0);
	}
	assert_int_equal(lb_loop_run(b->loop), 0);
	for (int i = 0; i < POSTERS; i++) {
		void *failed;

		pthread_join(crowd.posters[i].thread, &failed);
		assert_null(failed);
		assert_int_equal(crowd.posters[i].next, POSTS);
	}
	assert_int_equal(crowd.ran, POSTS_TOTAL);
	assert_int_equal(crowd.out_of_order, 0);
}

static void note_p(void *arg)
{
	note(arg, 'p');
}

static void post_and_stop(struct thing *t)
{
	lb_loop_post(t->b->loop, note_p, t->b);
	lb_loop_stop(t->b->loop);
}

static void post_in_the_last_turn_has_run_when_run_returns(void **state)
{
	struct bench *b = *state;

	b->things[0].then = post_and_stop;
	lb_loop_again(b->loop, &b->things[0].task, on_task);
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "ap");
}

static void *post_and_stop_from_thread(void *arg)
{
	struct bench *b = arg;

	post_and_stop(&b->things[0]);
	return NULL;
}

static void post_before_a_stop_has_run_when_run_returns(void **state)
{
	struct bench *b = *state;

	for (size_t i = 1; i <= 100; i++) {
		pthread_t thread;

		assert_int_equal(pthread_create(&thread, NULL, post_and_stop_from_thread, b), 0);
		assert_int_equal(lb_loop_run(b->loop), 0);
		pthread_join(thread, NULL);
		assert_int_equal(b->notes_len, i);
	}
}

static void stop_before_run_is_not_lost_and_counts_once(void **state)
{
	struct bench *b = *state;

	lb_loop_stop(b->loop);
	lb_loop_stop(b->loop);
	assert_int_equal(lb_loop_run(b->loop), 0);
	lb_timer_start(b->loop, &b->things[0].timer, 1);
	b->things[0].then = stop;
	assert_int_equal(lb_loop_run(b->loop), 0);
	assert_string_equal(b->notes, "a");
}

static void free_drops_posts_that_have_not_run(void **state)
{
	struct bench *b = *state;

	assert_int_equal(lb_loop_post(b->loop, note_p, b), 0);
	assert_int_equal(lb_loop_post(b->loop, note_p, b), 0);
	lb_loop_free(b->loop);
	b->loop = NULL;
	assert_string_equal(b->notes, "");
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	signals++;
}

static void signal_does_not_end_the_run(void **state)
{
	const struct itimerval every_ms = {{0, 1000}, {0, 1000}}, never = {0};
	struct sigaction action = {.sa_handler = on_signal}, before;
	struct bench *b = *state;

	sigaction(SIGALRM, &action, &before);
	setitimer(ITIMER_REAL, &every_ms, NULL);
	lb_timer_start(b->loop, &b->things[0].timer, 10);
	b->things[0].then = stop;
	assert_int_equal(lb_loop_run(b->loop), 0);
	setitimer(ITIMER_REAL, &never, NULL);
	sigaction(SIGALRM, &before, NULL);
	assert_string_equal(b->notes, "a");
	assert_true(signals > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		bench_test(post_from_many_threads_runs_each_once_and_in_order),
		bench_test(post_in_the_last_turn_has_run_when_run_returns),
		bench_test(post_before_a_stop_has_run_when_run_returns),
		bench_test(stop_before_run_is_not_lost_and_counts_once),
		bench_test(free_drops_posts_that_have_not_run),
		bench_test(signal_does_not_end_the_run),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
