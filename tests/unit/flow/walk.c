/* SPDX-License-Identifier: MIT */
#include "flow/walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "flow/session.h"

#define SESSIONS 6

static struct lb_flow_env env;
static struct lb_session sessions[SESSIONS + 2];
static uint64_t now;

uint64_t lb_loop_now_ns(const struct lb_loop *loop)
{
	return now;
}

static void add(unsigned int i)
{
	sessions[i].came_ns = ++now;
	lb_list_append(&env.sessions, &sessions[i].node);
}

static void end(unsigned int i)
{
	lb_walk_pass_over(&env, &sessions[i].node);
	lb_list_remove(&sessions[i].node);
}

static int setup(void **state)
{
	now = 0;
	lb_list_init(&env.sessions);
	lb_list_init(&env.walks);
	for (unsigned int i = 0; i < SESSIONS; i++)
		add(i);
	return 0;
}

static void meets(struct lb_walk *w, unsigned int i)
{
	assert_ptr_equal(lb_walk_next(&env, w), &sessions[i]);
}

static void each_is_met_once_the_oldest_first(void **state)
{
	struct lb_walk w;

	lb_walk_begin(&env, &w);
	for (unsigned int i = 0; i < SESSIONS; i++)
		meets(&w, i);
	assert_null(lb_walk_next(&env, &w));
	assert_null(lb_walk_next(&env, &w));
	lb_walk_end(&w);
}

static void one_that_ends_is_passed_over(void **state)
{
	struct lb_walk w;

	lb_walk_begin(&env, &w);
	meets(&w, 0);
	end(1); /* the next */
	end(0); /* the last that was met */
	end(2); /* the next again */
	meets(&w, 3);
	end(3);
	end(5);
	meets(&w, 4);
	end(4);
	assert_null(lb_walk_next(&env, &w));
	lb_walk_end(&w);
}

static void those_that_begin_later_are_not_met(void **state)
{
	struct lb_walk w;

	lb_walk_begin(&env, &w);
	add(SESSIONS);
	for (unsigned int i = 0; i < SESSIONS; i++)
		meets(&w, i);
	assert_null(lb_walk_next(&env, &w));
	end(SESSIONS);
	add(SESSIONS + 1);
	assert_null(lb_walk_next(&env, &w));
	lb_walk_end(&w);
}

static void walks_do_not_meet(void **state)
{
	struct lb_walk a, b;

	lb_walk_begin(&env, &a);
	meets(&a, 0);
	meets(&a, 1);
	lb_walk_begin(&env, &b);
	end(2);
	end(0);
	meets(&b, 1);
	meets(&b, 3);
	meets(&a, 3);
	lb_walk_end(&a);
	end(4);
	meets(&b, 5);
	lb_walk_end(&b);
}

static void without_sessions_there_is_nothing_to_meet(void **state)
{
	struct lb_walk w;

	for (unsigned int i = 0; i < SESSIONS; i++)
		end(i);
	lb_walk_begin(&env, &w);
	assert_null(lb_walk_next(&env, &w));
	lb_walk_end(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(each_is_met_once_the_oldest_first, setup),
		cmocka_unit_test_setup(one_that_ends_is_passed_over, setup),
		cmocka_unit_test_setup(those_that_begin_later_are_not_met, setup),
		cmocka_unit_test_setup(walks_do_not_meet, setup),
		cmocka_unit_test_setup(without_sessions_there_is_nothing_to_meet, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
