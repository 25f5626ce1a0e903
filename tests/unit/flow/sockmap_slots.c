/* SPDX-License-Identifier: MIT */
#include "flow/sockmap_slots.h"

#include <errno.h>
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

	/* The second worker's share of three each. */
	assert_int_equal(lb_sockmap_slots_new(&slots, 3, 3), 0);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(lb_sockmap_slots_take(slots, &pairs[i], &index[i]), 0);
		assert_int_equal(index[i], 2 * (3 + i));
		assert_ptr_equal(lb_sockmap_slots_pair(slots, index[i]), &pairs[i]);
		assert_ptr_equal(lb_sockmap_slots_pair(slots, index[i] + 1), &pairs[i]);
	}
	assert_int_equal(lb_sockmap_slots_take(slots, &pairs[0], &index[0]), -ENOSPC);
	lb_sockmap_slots_put(slots, index[1]);
	assert_null(lb_sockmap_slots_pair(slots, index[1]));
	assert_int_equal(lb_sockmap_slots_take(slots, &pairs[0], &index[0]), 0);
	assert_int_equal(index[0], index[1]);
	lb_sockmap_slots_free(&slots);
}

static void other_workers_indexes_are_nobodys(void **state)
{
	struct lb_sockmap_slots *slots = NULL;

	assert_int_equal(lb_sockmap_slots_new(&slots, 3, 3), 0);
	assert_null(lb_sockmap_slots_pair(slots, 0));
	assert_null(lb_sockmap_slots_pair(slots, 5));
	assert_null(lb_sockmap_slots_pair(slots, 12));
	lb_sockmap_slots_free(&slots);
	lb_sockmap_slots_free(&slots);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_slot_seats_one_pair_and_is_found_by_both_its_indexes),
		cmocka_unit_test(other_workers_indexes_are_nobodys),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
