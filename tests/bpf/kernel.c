/* SPDX-License-Identifier: MIT */
/*
 * kernel: in service or not at all. Whatever fails on the way, nothing stays: no descriptor, no
 * mapping, no object, no pin.
 */
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <bpf/bpf.h>
#include <cap-ng.h>

#include <lb/limits.h>

#include "kernel/handle.h"
#include "room.h"

#define INSTANCE "test"
#define PINS     LB_PIN_ROOT "/layer4-lb-" INSTANCE
#define WORKERS  2u
/* Kernel threads and RCU let go of closed objects. */
#define LINGER_MS 5000

static const struct lb_kernel_opts opts = {.instance = INSTANCE, .pairs = 16, .workers = WORKERS};

static struct lb_kernel *open_or_fail(struct lb_kernel_report *report)
{
	struct lb_kernel *k = NULL;

	if (lb_kernel_open(&k, &opts, report))
		fail_msg("%s: %s", lb_why_word(report->why), report->detail);
	return k;
}

static bool pinned(void)
{
	struct stat st;

	return !lstat(PINS, &st);
}

static void a_sound_kernel_is_in_service_with_pins(void **state)
{
	struct lb_kernel_report report;
	struct lb_kernel *k;

	room_required();
	k = open_or_fail(&report);
	assert_int_equal(report.why, LB_WHY_NONE);
	assert_string_equal(report.pins, PINS);
	assert_string_equal(report.pin_note, "");
	assert_true(report.selftest_ran);
	assert_true(report.selftest_ms > 0);
	assert_int_equal(lb_kernel_pairs(k), opts.pairs);
	assert_true(pinned());
	lb_kernel_close(k);
	assert_false(pinned());
}

static void more_pairs_than_the_contract_allows_are_clamped(void **state)
{
	struct lb_kernel_opts huge = opts;
	struct lb_kernel_report report;
	struct lb_kernel *k = NULL;
	uint32_t last;

	room_required();
	huge.pairs = LB_SOCKMAP_PAIRS_MAX + 1;
	assert_int_equal(lb_kernel_open(&k, &huge, &report), 0);
	assert_int_equal(lb_kernel_pairs(k), LB_SOCKMAP_PAIRS_MAX);
	last = LB_SOCKMAP_PAIRS_MAX * 2 - 1;
	lb_table_gate(k, last)->user_done = 1;
	assert_int_equal(lb_table_gate(k, last)->user_done, 1);
	lb_kernel_close(k);
}

static void bad_options_are_refused(void **state)
{
	static const struct lb_kernel_opts bad[] = {
		{.instance = INSTANCE, .pairs = 0, .workers = 1},
		{.instance = INSTANCE, .pairs = 1, .workers = 0},
		{.instance = INSTANCE, .pairs = 1, .workers = LB_WORKERS_MAX + 1},
		{.instance = "../" INSTANCE, .pairs = 1, .workers = 1},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(bad); i++) {
		struct lb_kernel *k = (struct lb_kernel *)&bad;
		struct lb_kernel_report report;

		assert_int_equal(lb_kernel_open(&k, &bad[i], &report), -EINVAL);
		assert_ptr_equal(k, &bad);
		assert_int_not_equal(report.why, LB_WHY_NONE);
		assert_string_not_equal(report.detail, "");
	}
}

/* --- nothing is left behind ---------------------------------------------------------------- */

static __u32 id_of(int fd, bool prog)
{
	struct bpf_prog_info p = {};
	struct bpf_map_info m = {};
	__u32 len = prog ? sizeof(p) : sizeof(m);

	assert_int_equal(bpf_obj_get_info_by_fd(fd, prog ? (void *)&p : (void *)&m, &len), 0);
	return prog ? p.id : m.id;
}

static bool is_gone(__u32 id, bool prog)
{
	uint64_t deadline = lb_clock_ms() + LINGER_MS;

	do {
		int fd = prog ? bpf_prog_get_fd_by_id(id) : bpf_map_get_fd_by_id(id);

		if (fd < 0)
			return fd == -ENOENT;
		close(fd);
		poll(NULL, 0, 20);
	} while (lb_clock_ms() < deadline);
	return false;
}

static void after_close_every_object_is_gone(void **state)
{
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];
	__u32 ids[LB_LOAD_OBJECTS_MAX + WORKERS];
	struct lb_kernel_report report;
	struct lb_kernel *k;
	int fds, mappings;
	size_t n;

	room_required();
	fds = room_count_fds();
	mappings = room_count_mappings();
	k = open_or_fail(&report);
	assert_true(room_count_fds() > fds);
	assert_true(room_count_mappings() > mappings);
	n = lb_load_objects(&k->load, objects);
	for (size_t i = 0; i < n; i++)
		ids[i] = id_of(objects[i].fd, i == n - 1);
	for (uint32_t w = 0; w < WORKERS; w++)
		ids[n + w] = id_of(lb_ring_fd(k, w), false);
	lb_kernel_close(k);
	assert_int_equal(room_count_fds(), fds);
	assert_int_equal(room_count_mappings(), mappings);
	for (size_t i = 0; i < n + WORKERS; i++)
		if (!is_gone(ids[i], i == n - 1))
			fail_msg("object %zu (id %u) is still there", i, ids[i]);
}

static void limit_fds(rlim_t soft)
{
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	limit.rlim_cur = soft;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* Descriptors run out at the first, the second, .. : every step of the way fails once. */
static void wherever_descriptors_run_out_nothing_is_left(void **state)
{
	struct rlimit before;
	bool whys[LB_WHY_MAX_] = {};
	int fds, mappings;
	rlim_t spare = 0;

	room_required();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	fds = room_count_fds();
	mappings = room_count_mappings();
	do {
		LB_AUTO_CLOSE int lowest = dup(0);
		struct lb_kernel_report report;
		struct lb_kernel *k = NULL;
		int r;

		assert_true(lowest >= 0);
		limit_fds((rlim_t)lowest + 1 + spare);
		r = lb_kernel_open(&k, &opts, &report);
		limit_fds(before.rlim_cur);
		whys[report.why] = true;
		assert_int_equal(!r, report.why == LB_WHY_NONE);
		if (r)
			assert_string_not_equal(report.detail, "");
		lb_kernel_close(k);
		close(LB_TAKE_FD(lowest));
		assert_int_equal(room_count_fds(), fds);
		assert_int_equal(room_count_mappings(), mappings);
		assert_false(pinned());
		/* Pins come last; then there was enough for everything. */
		if (!r && report.pins[0])
			break;
	} while (++spare < 100);
	assert_true(spare > 10 && spare < 100);
	assert_true(whys[LB_WHY_LOAD]);
	assert_true(whys[LB_WHY_SELFTEST]);
}

/* --- pins ---------------------------------------------------------------------------------- */

static bool die_in_service(void)
{
	struct lb_kernel_report report;
	struct lb_kernel *k = NULL;

	return !lb_kernel_open(&k, &opts, &report);
}

static void pins_of_a_killed_daemon_are_replaced(void **state)
{
	struct lb_kernel_report report;

	room_required();
	assert_true(room_in_child(die_in_service));
	assert_true(pinned());
	lb_kernel_close(open_or_fail(&report));
	assert_false(pinned());
}

static void a_planted_symlink_is_refused(void **state)
{
	int fds, mappings;
	struct lb_kernel_report report;
	struct lb_kernel *k = NULL;

	room_required();
	fds = room_count_fds();
	mappings = room_count_mappings();
	assert_int_equal(symlink("/tmp", PINS), 0);
	assert_int_equal(lb_kernel_open(&k, &opts, &report), -EPERM);
	assert_int_equal(report.why, LB_WHY_PINS);
	assert_non_null(strstr(report.detail, "layer4-lb-" INSTANCE));
	assert_null(k);
	assert_int_equal(room_count_fds(), fds);
	assert_int_equal(room_count_mappings(), mappings);
	assert_int_equal(unlink(PINS), 0);
}

static bool in_service_without_pins(void)
{
	struct lb_kernel_report report;
	struct lb_kernel *k = NULL;
	bool good;

	if (unshare(CLONE_NEWNS))
		return false;
	/* Ours, and the machine's below it if there is one. */
	while (!umount2(LB_PIN_ROOT, MNT_DETACH))
		;
	if (lb_kernel_drop_privileges() || lb_kernel_open(&k, &opts, &report))
		return false;
	good = !report.pins[0] && strstr(report.pin_note, "mounting one failed");
	lb_kernel_close(k);
	return good;
}

static void without_a_bpf_file_system_it_is_in_service_without_pins(void **state)
{
	room_required();
	assert_true(room_in_child(in_service_without_pins));
}

/* --- rights -------------------------------------------------------------------------------- */

static bool refused_without_rights(void)
{
	struct lb_kernel_report report;
	struct lb_kernel *k = NULL;

	capng_clear(CAPNG_SELECT_BOTH);
	return !capng_apply(CAPNG_SELECT_CAPS) && lb_kernel_open(&k, &opts, &report) == -EPERM &&
	       report.why == LB_WHY_NO_CAP && !report.selftest_ran &&
	       !strcmp(report.detail, "missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON");
}

static void without_capabilities_the_report_names_them(void **state)
{
	room_required();
	assert_true(room_in_child(refused_without_rights));
}

/* One line of /proc/self/status, as a number. */
static uint64_t status_of(const char *key, int base)
{
	LB_AUTO_FCLOSE FILE *f = fopen("/proc/self/status", "re");
	char line[256];

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
			return strtoull(line + strlen(key) + 1, NULL, base);
	return UINT64_MAX;
}

#define BIT(cap) (1ull << (cap))
#define KEPT     (BIT(CAP_BPF) | BIT(CAP_NET_ADMIN) | BIT(CAP_PERFMON) | BIT(CAP_NET_BIND_SERVICE))

static bool drop_keeps_four(void)
{
	if (lb_kernel_drop_privileges())
		return false;
	return status_of("CapEff", 16) == KEPT && status_of("CapPrm", 16) == KEPT &&
	       status_of("CapBnd", 16) == KEPT && status_of("CapInh", 16) == 0 &&
	       status_of("CapAmb", 16) == 0 && status_of("NoNewPrivs", 10) == 1;
}

static void dropping_keeps_four_capabilities_everywhere(void **state)
{
	room_required();
	assert_true(room_in_child(drop_keeps_four));
}

static bool drop_adds_nothing(void)
{
	capng_clear(CAPNG_SELECT_BOTH);
	capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_NET_BIND_SERVICE);
	capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, CAP_CHOWN);
	if (capng_apply(CAPNG_SELECT_CAPS) || lb_kernel_drop_privileges())
		return false;
	return status_of("CapEff", 16) == BIT(CAP_NET_BIND_SERVICE) &&
	       status_of("CapPrm", 16) == BIT(CAP_NET_BIND_SERVICE);
}

/* Also: no CAP_SETPCAP, so the bounding set has to stay. */
static void dropping_adds_none_that_was_not_there(void **state)
{
	room_required();
	assert_true(room_in_child(drop_adds_nothing));
}

static bool works_after_drop(void)
{
	struct lb_kernel_report report;
	struct lb_kernel *k = NULL;
	int client, leg;
	bool good;

	if (lb_kernel_open(&k, &opts, &report) || lb_kernel_drop_privileges())
		return false;
	room_connect(65536, &client, &leg);
	good = !lb_table_insert(k, 0, leg, room_cookie(leg));
	close(leg);
	lb_table_forget(k, room_cookie(client));
	close(client);
	lb_kernel_close(k);
	return good && !pinned();
}

static void sockets_are_inserted_and_pins_removed_without_the_rest(void **state)
{
	room_required();
	assert_true(room_in_child(works_after_drop));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sound_kernel_is_in_service_with_pins),
		cmocka_unit_test(more_pairs_than_the_contract_allows_are_clamped),
		cmocka_unit_test(bad_options_are_refused),
		cmocka_unit_test(after_close_every_object_is_gone),
		cmocka_unit_test(wherever_descriptors_run_out_nothing_is_left),
		cmocka_unit_test(pins_of_a_killed_daemon_are_replaced),
		cmocka_unit_test(a_planted_symlink_is_refused),
		cmocka_unit_test(without_a_bpf_file_system_it_is_in_service_without_pins),
		cmocka_unit_test(without_capabilities_the_report_names_them),
		cmocka_unit_test(dropping_keeps_four_capabilities_everywhere),
		cmocka_unit_test(dropping_adds_none_that_was_not_there),
		cmocka_unit_test(sockets_are_inserted_and_pins_removed_without_the_rest),
	};

	return cmocka_run_group_tests(tests, room_enter, NULL);
}
