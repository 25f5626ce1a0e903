/* SPDX-License-Identifier: MIT */
#include "control/backend_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/pool.h"

static void a_state_is_up_or_all_that_speaks_against_it(void **state)
{
	char text[LB_BACKEND_STATE_MAX];

	assert_string_equal(lb_backend_state_format(0, text), "up");
	assert_string_equal(lb_backend_state_format(LB_BACKEND_DOWN, text), "down");
	assert_string_equal(lb_backend_state_format(LB_BACKEND_DOWN | LB_BACKEND_DRAINS, text),
			    "draining+down");
	assert_string_equal(lb_backend_state_format(UINT8_MAX, text),
			    "draining+disabled+down+ejected");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_state_is_up_or_all_that_speaks_against_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
