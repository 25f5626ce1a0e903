/* SPDX-License-Identifier: MIT */
/*
 * graft_table: what is left of the tables when a daemon goes, and what the next one makes of it.
 */
#include <sys/resource.h>

#include "graft.h"

/* --- making ----------------------------------------------------------------------------------- */

static void new_tables_are_pinned_described_and_empty(void **state)
{
	struct lb_graft_table_report report;
	struct lb_graft_tuple tuple = tuple4("10.0.0.1", "10.0.0.2", 1, 2);
	struct lb_graft_table *t;
	uint32_t index;

	room_required();
	t = open_as(&opts, &report);
	assert_string_equal(report.pins, PINS);
	assert_string_equal(report.pin_note, "");
	assert_false(report.adopted);
	assert_int_equal(report.foreign_abi, 0);
	assert_int_equal(lb_graft_table_pairs(t), PAIRS);
	assert_int_equal(t->load.meta->abi, LB_GRAFT_ABI);
	assert_int_equal(t->load.meta->pairs, PAIRS);
	assert_int_equal(t->load.meta->mark[0] & 3, 2);
	assert_int_equal(lb_graft_table_find(t, &tuple, &index), -ENOENT);
	for (uint32_t i = 0; i < PAIRS; i++)
		assert_int_equal(lb_graft_table_pair(t, i)->stage, LB_GRAFT_FREE);
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

static void the_mark_is_another_one_every_time(void **state)
{
	struct lb_graft_table *t;
	uint8_t mark[6];

	room_required();
	t = open_or_fail();
	memcpy(mark, t->load.meta->mark, sizeof(mark));
	lb_graft_table_close(t, false);
	t = open_or_fail();
	assert_memory_not_equal(mark, t->load.meta->mark, sizeof(mark));
	lb_graft_table_close(t, false);
}

static void a_clean_close_leaves_no_object_behind(void **state)
{
	int fds, mappings;
	struct lb_graft_table *t;

	room_required();
	fds = room_count_fds();
	mappings = room_count_mappings();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	assert_true(room_count_fds() > fds);
	assert_true(room_count_mappings() > mappings);
	lb_graft_table_close(t, false);
	assert_int_equal(room_count_fds(), fds);
	assert_int_equal(room_count_mappings(), mappings);
	expect_nothing_left();
}

static void bad_options_are_refused(void **state)
{
	struct lb_graft_table_opts bad = opts;

	room_required();
	bad.pairs = 0;
	expect_refused(&bad, -EINVAL, LB_WHY_LOAD, "");
	bad.pairs = LB_GRAFT_PAIRS_MAX + 1;
	expect_refused(&bad, -EINVAL, LB_WHY_LOAD, "");
	bad = opts;
	bad.instance = "../" INSTANCE;
	expect_refused(&bad, -EINVAL, LB_WHY_PINS, "instance name");
}

static void nothing_new_is_made_unless_asked_for(void **state)
{
	struct lb_graft_table_opts shy = opts;
	struct lb_graft_table_report report;
	struct lb_graft_table *t;

	room_required();
	shy.create = false;
	expect_refused(&shy, -ENOENT, LB_WHY_CONFIGURED, "no tables");
	assert_false(exists(PINS));
	lb_graft_table_close(open_or_fail(), true);
	t = open_as(&shy, &report);
	assert_true(report.adopted);
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

/* --- the tables ------------------------------------------------------------------------------- */

static void a_key_leads_to_one_graft_and_only_that_one_removes_it(void **state)
{
	struct lb_graft_tuple tuples[] = {
		tuple4("10.0.0.1", "10.0.0.2", 1000, 80),
		tuple6("2001:db8::5", "2001:db8::6", 1000, 80),
	};
	struct lb_graft_table *t;
	uint32_t index = 99;

	room_required();
	t = open_or_fail();
	for (size_t i = 0; i < LB_ARRAY_SIZE(tuples); i++) {
		assert_int_equal(lb_graft_table_add(t, &tuples[i], 5), 0);
		assert_int_equal(lb_graft_table_add(t, &tuples[i], 6), -EEXIST);
		lb_graft_table_remove(t, &tuples[i], 6);
		assert_int_equal(lb_graft_table_find(t, &tuples[i], &index), 0);
		assert_int_equal(index, 5);
		lb_graft_table_remove(t, &tuples[i], 5);
		assert_int_equal(lb_graft_table_find(t, &tuples[i], &index), -ENOENT);
	}
	lb_graft_table_close(t, false);
}

static void a_full_table_says_so(void **state)
{
	struct lb_graft_table *t;
	int r = 0;

	room_required();
	t = open_or_fail();
	for (uint16_t i = 0; i <= PAIRS * 2 && !r; i++) {
		struct lb_graft_tuple tuple = tuple4("10.0.0.1", "10.0.0.2", i, 80);

		r = lb_graft_table_add(t, &tuple, i);
		assert_int_equal(r, i < PAIRS * 2 ? 0 : -ENOSPC);
	}
	assert_int_equal(r, -ENOSPC);
	lb_graft_table_close(t, false);
}

static void ignore_event(void *arg, const struct lb_graft_event *e)
{
}

static void lost_events_are_told_once(void **state)
{
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_true(lb_graft_table_ring_fd(t) >= 0);
	assert_false(lb_graft_table_consume(t, ignore_event, NULL));
	t->load.meta->lost++;
	assert_true(lb_graft_table_consume(t, ignore_event, NULL));
	assert_false(lb_graft_table_consume(t, ignore_event, NULL));
	lb_graft_table_close(t, false);
}

static void counters_are_summed_over_the_cpus(void **state)
{
	int cpus = libbpf_num_possible_cpus();
	LB_AUTO_FREE uint64_t *values = calloc((size_t)cpus, sizeof(*values));
	__u32 key = LB_GRAFT_COUNT_COPIED;
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	for (int i = 0; i < cpus; i++)
		values[i] = 10;
	assert_int_equal(bpf_map_update_elem(t->load.fds[LB_GRAFT_MAP_COUNT], &key, values, 0), 0);
	assert_int_equal(lb_graft_table_count(t, LB_GRAFT_COUNT_COPIED), 10u * (unsigned int)cpus);
	assert_int_equal(lb_graft_table_count(t, LB_GRAFT_COUNT_FORWARDED), 0);
	lb_graft_table_close(t, false);
}

/* --- adoption --------------------------------------------------------------------------------- */

static bool die_with_a_graft(void)
{
	struct lb_graft_tuple tuple = kept_tuple();
	struct lb_graft_table_report report;
	struct lb_graft_table *t = NULL;

	if (lb_graft_table_open(&t, &opts, &report) || lb_graft_table_attach(t, NULL, 0))
		return false;
	lb_graft_table_pair(t, 3)->stage = LB_GRAFT_FULL;
	lb_graft_table_pair(t, 3)->leg[1].bytes = 12345;
	return !lb_graft_table_add(t, &tuple, 7);
}

static void grafts_of_a_killed_daemon_go_on_with_the_program_of_the_next(void **state)
{
	struct lb_graft_tuple tuple = kept_tuple();
	struct lb_graft_table_report report;
	uint32_t index = 0, old_program;
	struct lb_graft_table *t;

	room_required();
	assert_true(room_in_child(die_with_a_graft));
	assert_int_equal(filters("lo").ours, 1);
	old_program = pinned_program();
	t = open_as(&opts, &report);
	assert_true(report.adopted);
	assert_string_equal(report.pins, PINS);
	assert_int_equal(lb_graft_table_find(t, &tuple, &index), 0);
	assert_int_equal(index, 7);
	assert_int_equal(lb_graft_table_pair(t, 3)->stage, LB_GRAFT_FULL);
	assert_int_equal(lb_graft_table_pair(t, 3)->leg[1].bytes, 12345);

	assert_int_equal(program_at(t, "lo"), old_program);
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	assert_int_equal(filters("lo").ours, 1);
	assert_int_not_equal(program_at(t, "lo"), old_program);
	assert_int_equal(program_at(t, "lo"), program_of(t->load.prog_fd));
	assert_int_equal(pinned_program(), program_of(t->load.prog_fd));
	assert_false(exists(PINS "/tc_graft_new"));
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

static void adopted_tables_keep_their_size_and_their_mark(void **state)
{
	struct lb_graft_table_opts bigger = opts;
	struct lb_graft_table_report report;
	struct lb_graft_table *t;
	uint8_t mark[6];

	room_required();
	t = open_or_fail();
	memcpy(mark, t->load.meta->mark, sizeof(mark));
	lb_graft_table_close(t, true);
	bigger.pairs = PAIRS * 4;
	t = open_as(&bigger, &report);
	assert_true(report.adopted);
	assert_int_equal(lb_graft_table_pairs(t), PAIRS);
	assert_memory_equal(mark, t->load.meta->mark, sizeof(mark));
	lb_graft_table_close(t, false);
}

static void keeping_leaves_pins_filters_and_grafts(void **state)
{
	struct lb_graft_tuple tuple = kept_tuple();
	struct lb_graft_table *t;
	uint32_t index = 0;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, NULL, 0), 0);
	assert_int_equal(lb_graft_table_add(t, &tuple, 2), 0);
	lb_graft_table_close(t, true);
	assert_true(exists(PINS "/lb_graft_meta"));
	assert_int_equal(filters("lo").ours, 1);
	t = open_or_fail();
	assert_int_equal(lb_graft_table_find(t, &tuple, &index), 0);
	assert_int_equal(index, 2);
	lb_graft_table_attach(t, NULL, 0);
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

/* Its configuration named another interface; packets of its grafts come in there. */
static void where_the_earlier_daemon_was_attached_the_next_one_is_too(void **state)
{
	static char *const lbx[] = {"lbx"}, *const lo[] = {"lo"};
	struct lb_graft_table *t;

	room_required();
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, lbx, 1), 0);
	lb_graft_table_close(t, true);
	t = open_or_fail();
	assert_int_equal(lb_graft_table_attach(t, lo, 1), 0);
	expect_attached(t, "lo, lbx");
	assert_int_equal(program_at(t, "lbx"), program_of(t->load.prog_fd));
	lb_graft_table_close(t, false);
	assert_int_equal(filters("lbx").ours, 0);
	expect_nothing_left();
}

static void a_set_that_was_never_completed_is_replaced(void **state)
{
	struct lb_graft_table_report report;
	struct lb_graft_table *t;

	room_required();
	lb_graft_table_close(open_or_fail(), true);
	assert_int_equal(unlink(PINS "/lb_graft_meta"), 0);
	t = open_as(&opts, &report);
	assert_false(report.adopted);
	assert_true(exists(PINS "/lb_graft_meta"));
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

/* --- pins that are not what they should be ---------------------------------------------------- */

static void planted_pins_are_refused_and_nothing_touched(void **state)
{
	uint32_t program;

	room_required();
	lb_graft_table_close(open_or_fail(), true);
	program = pinned_program();
	assert_int_equal(rename(PINS "/lb_graft_v4", PINS "/saved"), 0);
	assert_int_equal(symlink("lb_graft_v6", PINS "/lb_graft_v4"), 0);
	expect_refused(&opts, -EPERM, LB_WHY_PINS, "lb_graft_v4 is no pin");
	assert_true(exists(PINS "/lb_graft_v4"));
	assert_int_equal(unlink(PINS "/lb_graft_v4"), 0);
	expect_refused(&opts, -EPERM, LB_WHY_PINS, "lb_graft_v4 is missing");
	assert_int_equal(rename(PINS "/saved", PINS "/lb_graft_v4"), 0);
	assert_int_equal(chown(PINS "/lb_graft_v4", 65534, 65534), 0);
	expect_refused(&opts, -EPERM, LB_WHY_PINS, "belongs to user 65534");
	assert_int_equal(chown(PINS "/lb_graft_v4", 0, 0), 0);
	assert_int_equal(pinned_program(), program);
	lb_graft_table_close(open_or_fail(), false);
	expect_nothing_left();
}

static void a_planted_directory_is_refused(void **state)
{
	room_required();
	assert_int_equal(symlink("/tmp", PINS), 0);
	expect_refused(&opts, -EPERM, LB_WHY_PINS, "no directory");
	assert_int_equal(unlink(PINS), 0);
	assert_int_equal(mkdir(PINS, 0755), 0);
	expect_refused(&opts, -EPERM, LB_WHY_PINS, "open to group or others");
	assert_int_equal(rmdir(PINS), 0);
}

static void a_map_of_another_shape_is_refused(void **state)
{
	LB_AUTO_CLOSE int small = -1;
	struct lb_graft_table *t;

	room_required();
	small = bpf_map_create(BPF_MAP_TYPE_HASH, "lb_graft_v4", sizeof(struct lb_graft_v4), 4,
			       PAIRS, NULL);
	assert_true(small >= 0);
	lb_graft_table_close(open_or_fail(), true);
	assert_int_equal(rename(PINS "/lb_graft_v4", PINS "/saved"), 0);
	assert_int_equal(bpf_obj_pin(small, PINS "/lb_graft_v4"), 0);
	expect_refused(&opts, -EPERM, LB_WHY_PINS, "lb_graft_v4 is not one");
	assert_int_equal(unlink(PINS "/lb_graft_v4"), 0);
	assert_int_equal(rename(PINS "/saved", PINS "/lb_graft_v4"), 0);
	t = open_or_fail();
	assert_int_equal(rename(PINS "/lb_graft_meta", PINS "/saved"), 0);
	assert_int_equal(bpf_obj_pin(t->load.prog_fd, PINS "/lb_graft_meta"), 0);
	expect_refused(&opts, -EPERM, LB_WHY_PINS, "not what its name says");
	assert_int_equal(unlink(PINS "/lb_graft_meta"), 0);
	assert_int_equal(rename(PINS "/saved", PINS "/lb_graft_meta"), 0);
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

/* --- failures on the way ---------------------------------------------------------------------- */

static void limit_fds(rlim_t soft)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = soft;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* Opens with ever more descriptors until it works; <unchanged> judges what failures left. */
static void expect_unchanged_wherever_descriptors_run_out(void (*unchanged)(void), bool adopted)
{
	struct lb_graft_table_report report = {};
	int fds = room_count_fds(), mappings = room_count_mappings();
	struct lb_graft_table *t = NULL;
	struct rlimit before;
	rlim_t spare = 0;
	int r = -1;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	for (; r && spare < 100; spare++) {
		LB_AUTO_CLOSE int lowest = dup(0);

		assert_true(lowest >= 0);
		limit_fds((rlim_t)lowest + 1 + spare);
		r = lb_graft_table_open(&t, &opts, &report);
		limit_fds(before.rlim_cur);
		close(LB_TAKE_FD(lowest));
		if (!r)
			break;
		assert_string_not_equal(report.detail, "");
		assert_int_equal(room_count_fds(), fds);
		assert_int_equal(room_count_mappings(), mappings);
		unchanged();
	}
	assert_int_equal(r, 0);
	assert_true(spare > 10);
	assert_string_equal(report.pins, PINS);
	assert_int_equal(report.adopted, adopted);
	lb_graft_table_close(t, false);
	expect_nothing_left();
}

static uint32_t expected_program;

static void nothing_is_there(void)
{
	assert_false(exists(PINS));
}

static void the_old_set_is_there(void)
{
	assert_int_equal(pinned_program(), expected_program);
	assert_true(exists(PINS "/lb_graft_meta"));
	assert_false(exists(PINS "/tc_graft_new"));
	assert_false(exists(PINS "/abi77"));
}

static void wherever_descriptors_run_out_nothing_is_left(void **state)
{
	room_required();
	expect_unchanged_wherever_descriptors_run_out(nothing_is_there, false);
}

static void wherever_descriptors_run_out_the_earlier_set_stays(void **state)
{
	room_required();
	lb_graft_table_close(open_or_fail(), true);
	expected_program = pinned_program();
	expect_unchanged_wherever_descriptors_run_out(the_old_set_is_there, true);
}

static void wherever_descriptors_run_out_another_version_stays(void **state)
{
	room_required();
	leave_foreign_tables();
	expected_program = pinned_program();
	expect_unchanged_wherever_descriptors_run_out(the_old_set_is_there, false);
}

/* --- beside sockmap --------------------------------------------------------------------------- */

static struct lb_pin sockmap_pins(int fd)
{
	const struct lb_load_object object = {.name = "lb_socks", .fd = fd};
	struct lb_pin pin = {};
	char note[192] = "";

	assert_int_equal(lb_pin_open(&pin, LB_PIN_ROOT, NAME, &object, 1, note, sizeof(note)), 0);
	assert_true(pin.open);
	return pin;
}

static void sockmap_and_graft_share_the_directory_in_any_order(void **state)
{
	LB_AUTO_CLOSE int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "lb_socks", 4, 4, 1, NULL);

	room_required();
	assert_true(fd >= 0);
	for (unsigned int order = 0; order < 4; order++) {
		struct lb_graft_table *t = NULL;
		struct lb_pin pin;

		if (order & 1)
			t = open_or_fail();
		pin = sockmap_pins(fd);
		if (!t)
			t = open_or_fail();
		assert_true(exists(PINS "/lb_socks") && exists(PINS "/lb_graft_meta"));
		if (order & 2) {
			lb_pin_close(&pin);
			assert_true(exists(PINS "/lb_graft_meta"));
			lb_graft_table_close(t, false);
		} else {
			lb_graft_table_close(t, false);
			assert_true(exists(PINS "/lb_socks"));
			assert_false(exists(PINS "/lb_graft_meta"));
			lb_pin_close(&pin);
		}
		expect_nothing_left();
	}
}

static bool in_service_without_pins(void)
{
	struct lb_graft_table_report report;
	struct lb_graft_table *t = NULL;
	bool good;

	if (unshare(CLONE_NEWNS))
		return false;
	while (!umount2(LB_PIN_ROOT, MNT_DETACH))
		;
	if (lb_kernel_drop_privileges() || lb_graft_table_open(&t, &opts, &report))
		return false;
	good = !report.pins[0] && strstr(report.pin_note, "mounting one failed") &&
	       !lb_graft_table_attach(t, NULL, 0) && filters("lo").ours == 1;
	/* Nobody could find them again. */
	lb_graft_table_close(t, true);
	return good && filters("lo").ours == 0;
}

static void without_a_bpf_file_system_it_works_and_nothing_is_kept(void **state)
{
	room_required();
	assert_true(room_in_child(in_service_without_pins));
}

/* --- rights ----------------------------------------------------------------------------------- */

static bool works_after_drop(void)
{
	struct lb_graft_tuple tuple = tuple4("10.0.0.1", "10.0.0.2", 1, 2);
	struct lb_graft_table_report report;
	struct lb_graft_table *t = NULL;
	struct lb_graft_route route;
	bool good;

	leave_foreign_tables();
	if (lb_graft_table_open(&t, &opts, &report) || lb_kernel_drop_privileges())
		return false;
	good = !lb_graft_table_attach(t, NULL, 0) && !lb_graft_table_add(t, &tuple, 1) &&
	       !lb_graft_table_count(t, LB_GRAFT_COUNT_COPIED);
	lb_graft_table_remove(t, &tuple, 1);
	tuple = tuple4("127.0.0.1", "127.0.0.1", 1, 2);
	good = good && !lb_graft_table_route(t, &tuple, &route);
	lb_graft_table_follow(t);
	lb_graft_table_close(t, false);
	return good && !exists(PINS) && filters("lo").ours == 0;
}

static void all_that_runs_later_works_without_the_rest_of_the_rights(void **state)
{
	room_required();
	assert_true(room_in_child(works_after_drop));
	expect_nothing_left();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(new_tables_are_pinned_described_and_empty),
		cmocka_unit_test(the_mark_is_another_one_every_time),
		cmocka_unit_test(a_clean_close_leaves_no_object_behind),
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(nothing_new_is_made_unless_asked_for),
		cmocka_unit_test(a_key_leads_to_one_graft_and_only_that_one_removes_it),
		cmocka_unit_test(a_full_table_says_so),
		cmocka_unit_test(lost_events_are_told_once),
		cmocka_unit_test(counters_are_summed_over_the_cpus),
		cmocka_unit_test(grafts_of_a_killed_daemon_go_on_with_the_program_of_the_next),
		cmocka_unit_test(adopted_tables_keep_their_size_and_their_mark),
		cmocka_unit_test(keeping_leaves_pins_filters_and_grafts),
		with_net(where_the_earlier_daemon_was_attached_the_next_one_is_too),
		cmocka_unit_test(a_set_that_was_never_completed_is_replaced),
		cmocka_unit_test(planted_pins_are_refused_and_nothing_touched),
		cmocka_unit_test(a_planted_directory_is_refused),
		cmocka_unit_test(a_map_of_another_shape_is_refused),
		cmocka_unit_test(wherever_descriptors_run_out_nothing_is_left),
		cmocka_unit_test(wherever_descriptors_run_out_the_earlier_set_stays),
		cmocka_unit_test(wherever_descriptors_run_out_another_version_stays),
		cmocka_unit_test(sockmap_and_graft_share_the_directory_in_any_order),
		cmocka_unit_test(without_a_bpf_file_system_it_works_and_nothing_is_kept),
		cmocka_unit_test(all_that_runs_later_works_without_the_rest_of_the_rights),
	};

	return cmocka_run_group_tests(tests, room_enter, NULL);
}
