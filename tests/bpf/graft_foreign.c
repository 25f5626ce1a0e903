/* SPDX-License-Identifier: MIT */
/* graft_foreign, graft_unload: tables of another version, and the end of all of them. */
#include "graft.h"

/* --- another version -------------------------------------------------------------------------- */

static void tables_of_another_version_are_set_aside_and_go_on(void **state)
{
	struct lb_graft_table_report report;
	struct lb_graft_table *t;

	room_required();
	leave_foreign_tables();
	t = open_as(&opts, &report);
	assert_int_equal(report.foreign_abi, OTHER_ABI);
	assert_false(report.adopted);
	assert_true(exists(PINS "/abi77/lb_graft_meta"));
	assert_true(exists(PINS "/abi77/tc_graft"));
	assert_int_equal(t->load.meta->abi, LB_GRAFT_ABI);
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	assert_int_equal(filters("lo").ours, 2);
	lb_graft_table_close(t, true);
	assert_true(exists(PINS "/abi77/lb_graft_meta"));
	assert_int_equal(filters("lo").ours, 2);

	/* The next daemon of our version finds both. */
	t = open_as(&opts, &report);
	assert_true(report.adopted);
	assert_int_equal(report.foreign_abi, 0);
	assert_int_equal(t->foreign_count, 1);
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

static void a_version_that_comes_back_finds_its_own_tables(void **state)
{
	struct lb_graft_tuple tuple = kept_tuple();
	struct lb_graft_table_report report;
	struct lb_graft_table_opts o = opts;
	struct lb_graft_table *t;
	uint32_t index = 0;
	char aside[64];

	room_required();
	snprintf(aside, sizeof(aside), PINS "/abi%u", LB_GRAFT_ABI);
	t = open_or_fail();
	assert_int_equal(lb_graft_table_add(t, &tuple, 4), 0);
	lb_graft_table_close(t, true);
	/* The other version has set ours aside, and left its own. */
	assert_int_equal(mkdir(aside, 0700), 0);
	move_pins(PINS, aside);
	o.instance = "elsewhere";
	lb_graft_table_close(open_as(&o, &report), true);
	move_pins(LB_PIN_ROOT "/layer4-lb-elsewhere", PINS);
	assert_int_equal(rmdir(LB_PIN_ROOT "/layer4-lb-elsewhere"), 0);
	pretend_abi(OTHER_ABI);

	t = open_as(&opts, &report);
	assert_true(report.adopted);
	assert_int_equal(report.foreign_abi, OTHER_ABI);
	assert_int_equal(lb_graft_table_find(t, &tuple, &index), 0);
	assert_int_equal(index, 4);
	assert_false(exists(aside));
	assert_true(exists(PINS "/abi77/lb_graft_meta"));
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

static void add_forwarded(uint64_t n)
{
	int cpus = libbpf_num_possible_cpus();
	LB_AUTO_FREE uint64_t *values = calloc((size_t)cpus, sizeof(*values));
	LB_AUTO_CLOSE int fd = bpf_obj_get(PINS "/abi77/lb_graft_count");
	__u32 key = 0;

	assert_int_equal(bpf_map_lookup_elem(fd, &key, values), 0);
	values[cpus - 1] += n;
	assert_int_equal(bpf_map_update_elem(fd, &key, values, 0), 0);
}

static void tables_of_another_version_go_after_a_quiet_quarter_of_an_hour(void **state)
{
	uint64_t now = lb_clock_ms() + MINUTE;
	struct lb_graft_table_report report;
	struct lb_graft_table *t;

	room_required();
	leave_foreign_tables();
	t = open_as(&opts, &report);
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	lb_graft_foreign_check(t, now);
	for (unsigned int i = 0; i < 14; i++)
		lb_graft_foreign_check(t, now += MINUTE);
	add_forwarded(1);
	for (unsigned int i = 0; i < 15; i++)
		lb_graft_foreign_check(t, now += MINUTE);
	assert_true(exists(PINS "/abi77/lb_graft_meta"));
	assert_int_equal(filters("lo").ours, 2);
	/* Not yet a minute later. */
	lb_graft_foreign_check(t, now + MINUTE / 2);
	assert_true(exists(PINS "/abi77"));
	lb_graft_foreign_check(t, now + MINUTE);
	assert_false(exists(PINS "/abi77"));
	assert_int_equal(filters("lo").ours, 1);
	assert_int_equal(filters("lo").handle, t->handle);
	assert_true(exists(PINS "/lb_graft_meta"));
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

static void while_tables_wait_the_descriptor_asks_to_be_followed(void **state)
{
	struct lb_graft_table_report report;
	struct lb_graft_table *t;

	room_required();
	t = open_as(&opts, &report);
	assert_int_equal(t->timer_fd, -1);
	lb_graft_table_close(t, false);
	leave_foreign_tables();
	t = open_as(&opts, &report);
	assert_true(t->timer_fd >= 0);
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

static void unload_leaves_nothing_of_any_version(void **state)
{
	struct lb_graft_table *t;

	room_required();
	leave_foreign_tables();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	lb_graft_table_close(t, true);
	assert_int_equal(filters("lo").ours, 2);
	assert_int_equal(lb_graft_table_unload(INSTANCE), 0);
	expect_nothing_left();
	assert_int_equal(lb_graft_table_unload(INSTANCE), 0);
}

static void unload_touches_no_planted_pin(void **state)
{
	room_required();
	lb_graft_table_close(open_or_fail(), true);
	assert_int_equal(symlink("lb_grafts", PINS "/lb_graft_x"), 0);
	assert_int_equal(lb_graft_table_unload(INSTANCE), -EPERM);
	assert_true(exists(PINS "/lb_graft_meta"));
	assert_int_equal(unlink(PINS "/lb_graft_x"), 0);
	assert_int_equal(lb_graft_table_unload(INSTANCE), 0);
	expect_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tables_of_another_version_are_set_aside_and_go_on),
		cmocka_unit_test(a_version_that_comes_back_finds_its_own_tables),
		cmocka_unit_test(tables_of_another_version_go_after_a_quiet_quarter_of_an_hour),
		cmocka_unit_test(while_tables_wait_the_descriptor_asks_to_be_followed),
		cmocka_unit_test(unload_leaves_nothing_of_any_version),
		cmocka_unit_test(unload_touches_no_planted_pin),
	};

	return cmocka_run_group_tests(tests, room_enter, NULL);
}
