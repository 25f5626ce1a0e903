/* SPDX-License-Identifier: MIT */
#include "flow/sockmap_slots.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "flow/carrier.h"

static void each_slot_seats_one_pair_and_is_found_by_both_its_indexes(void **state)
{
	struct lb_sockmap_slots *slots = NULL;
	static struct lb_pair pairs[3];
	uint32_t index[3];

	assert_int_equal(lb_sockmap_slots_new(&slots, 3), 0);
	assert_int_equal(lb_sockmap_slots_count(slots), 3);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(lb_sockmap_slots_take(slots, 7, &pairs[i], &index[i]), 0);
		assert_int_equal(index[i], 2 * i);
		assert_ptr_equal(lb_sockmap_slots_pair(slots, 7, index[i]), &pairs[i]);
		assert_ptr_equal(lb_sockmap_slots_pair(slots, 7, index[i] + 1), &pairs[i]);
	}
	assert_int_equal(lb_sockmap_slots_used(slots), 3);
	assert_int_equal(lb_sockmap_slots_take(slots, 7, &pairs[0], &index[0]), -ENOSPC);
	lb_sockmap_slots_put(slots, index[1]);
	assert_null(lb_sockmap_slots_pair(slots, 7, index[1]));
	assert_int_equal(lb_sockmap_slots_used(slots), 2);
	assert_int_equal(lb_sockmap_slots_take(slots, 7, &pairs[0], &index[0]), 0);
	assert_int_equal(index[0], index[1]);
	lb_sockmap_slots_free(&slots);
	lb_sockmap_slots_free(&slots);
}

static void one_worker_may_have_all_and_sees_nobody_elses(void **state)
{
	struct lb_sockmap_slots *slots = NULL;
	static struct lb_pair pairs[3];
	uint32_t index[3];

	assert_int_equal(lb_sockmap_slots_new(&slots, 3), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(lb_sockmap_slots_take(slots, 1, &pairs[i], &index[i]), 0);
	assert_null(lb_sockmap_slots_pair(slots, 0, index[2]));
	lb_sockmap_slots_put(slots, index[2]);
	assert_int_equal(lb_sockmap_slots_take(slots, 0, &pairs[2], &index[2]), 0);
	assert_ptr_equal(lb_sockmap_slots_pair(slots, 0, index[2]), &pairs[2]);
	assert_null(lb_sockmap_slots_pair(slots, 1, index[2]));
	assert_null(lb_sockmap_slots_pair(slots, 1, 6));
	lb_sockmap_slots_free(&slots);
}

#define TURNS 20000u

struct taker {
	struct lb_sockmap_slots *slots;
	uint32_t worker, wrong;
};

/* Whatever it has, the other one has not. */
static void *take_and_put(void *arg)
{
	static struct lb_pair pairs[2];
	struct taker *t = arg;
	uint32_t index;

	for (uint32_t i = 0; i < TURNS; i++) {
		if (lb_sockmap_slots_take(t->slots, t->worker, &pairs[t->worker], &index)) {
			t->wrong++; /* there is one for each */
			continue;
		}
		t->wrong += lb_sockmap_slots_pair(t->slots, t->worker, index) != &pairs[t->worker];
		t->wrong += lb_sockmap_slots_pair(t->slots, t->worker ^ 1, index) != NULL;
		lb_sockmap_slots_put(t->slots, index);
	}
	return NULL;
}

static void workers_that_take_at_once_get_different_ones(void **state)
{
	struct lb_sockmap_slots *slots = NULL;
	struct taker takers[2];
	pthread_t threads[2];

	assert_int_equal(lb_sockmap_slots_new(&slots, 2), 0);
	for (uint32_t i = 0; i < 2; i++) {
		takers[i] = (struct taker){.slots = slots, .worker = i};
		assert_int_equal(pthread_create(&threads[i], NULL, take_and_put, &takers[i]), 0);
	}
	for (uint32_t i = 0; i < 2; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(takers[i].wrong, 0);
	}
	assert_int_equal(lb_sockmap_slots_used(slots), 0);
	lb_sockmap_slots_free(&slots);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_slot_seats_one_pair_and_is_found_by_both_its_indexes),
		cmocka_unit_test(one_worker_may_have_all_and_sees_nobody_elses),
		cmocka_unit_test(workers_that_take_at_once_get_different_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
