/* SPDX-License-Identifier: MIT */
/* pin: what may stand where our pins belong, on a BPF file system of the test's own. */
#include "kernel/pin.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <bpf/bpf.h>

#include "room.h"

#define NAME "layer4-lb-test"

static char root[] = "/tmp/lb-pin-XXXXXX";
static struct lb_load_object objects[2];

static const char *in_root(const char *name)
{
	static char path[2][256];
	static int turn;

	turn = !turn;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", root, name);
	return path[turn];
}

static bool exists(const char *name)
{
	struct stat st;

	return !lstat(in_root(name), &st);
}

static int open_pins(struct lb_pin *pin, char note[192])
{
	note[0] = '\0';
	*pin = (struct lb_pin){};
	return lb_pin_open(pin, root, NAME, objects, LB_ARRAY_SIZE(objects), note, 192);
}

/* Refused with <word> in the note, and neither pins nor a descriptor left. */
static void expect_refused(const char *word)
{
	int fds = room_count_fds();
	struct lb_pin pin;
	char note[192];

	assert_int_equal(open_pins(&pin, note), -EPERM);
	if (!strstr(note, word))
		fail_msg("\"%s\" does not say \"%s\"", note, word);
	assert_false(pin.open);
	assert_int_equal(room_count_fds(), fds);
}

static void expect_pinned_and_removed(void)
{
	int fds = room_count_fds();
	struct lb_pin pin;
	char note[192];

	assert_int_equal(open_pins(&pin, note), 0);
	assert_string_equal(note, "");
	assert_true(pin.open);
	assert_true(exists(NAME "/lb_one"));
	assert_true(exists(NAME "/lb_two"));
	lb_pin_close(&pin);
	assert_false(exists(NAME));
	assert_int_equal(room_count_fds(), fds);
}

static void pins_have_a_directory_of_their_own_closed_to_others(void **state)
{
	struct stat st;
	struct lb_pin pin;
	char note[192];
	mode_t mask;

	room_required();
	mask = umask(0);
	assert_int_equal(open_pins(&pin, note), 0);
	umask(mask);
	assert_int_equal(lstat(in_root(NAME), &st), 0);
	assert_int_equal(st.st_mode, S_IFDIR | 0700);
	assert_int_equal(st.st_uid, geteuid());
	lb_pin_close(&pin);
	expect_pinned_and_removed();
}

static void a_pin_leads_to_the_object(void **state)
{
	struct bpf_map_info info = {};
	__u32 len = sizeof(info);
	struct lb_pin pin;
	char note[192];
	LB_AUTO_CLOSE int fd = -1;

	room_required();
	assert_int_equal(open_pins(&pin, note), 0);
	fd = bpf_obj_get(in_root(NAME "/lb_two"));
	assert_true(fd >= 0);
	assert_int_equal(bpf_obj_get_info_by_fd(fd, &info, &len), 0);
	assert_string_equal(info.name, "lb_two");
	lb_pin_close(&pin);
}

static void pins_of_a_dead_run_are_replaced(void **state)
{
	struct lb_pin dead, pin;
	char note[192];

	room_required();
	assert_int_equal(open_pins(&dead, note), 0);
	assert_int_equal(open_pins(&pin, note), 0);
	assert_true(pin.open);
	lb_pin_close(&pin);
	assert_false(exists(NAME));
	close(dead.dir_fd);
	close(dead.root_fd);
}

static void a_symlink_instead_of_the_directory_is_refused(void **state)
{
	room_required();
	assert_int_equal(mkdir(in_root("elsewhere"), 0700), 0);
	assert_int_equal(symlink("elsewhere", in_root(NAME)), 0);
	expect_refused("no directory");
	assert_true(exists(NAME));
	assert_int_equal(unlink(in_root(NAME)), 0);
	assert_int_equal(symlink("nowhere", in_root(NAME)), 0);
	expect_refused("no directory");
	assert_int_equal(unlink(in_root(NAME)), 0);
	assert_int_equal(rmdir(in_root("elsewhere")), 0);
	expect_pinned_and_removed();
}

static void a_pin_instead_of_the_directory_is_refused(void **state)
{
	room_required();
	assert_int_equal(bpf_obj_pin(objects[0].fd, in_root(NAME)), 0);
	expect_refused("no directory");
	assert_int_equal(unlink(in_root(NAME)), 0);
}

static void a_directory_of_somebody_else_is_refused(void **state)
{
	room_required();
	assert_int_equal(mkdir(in_root(NAME), 0700), 0);
	assert_int_equal(chown(in_root(NAME), 65534, 65534), 0);
	expect_refused("belongs to user 65534");
	assert_true(exists(NAME));
	assert_int_equal(rmdir(in_root(NAME)), 0);
}

static void a_directory_open_to_others_is_refused(void **state)
{
	static const mode_t modes[] = {0710, 0740, 0720, 0701, 0704, 0702, 0777};

	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(modes); i++) {
		assert_int_equal(mkdir(in_root(NAME), 0700), 0);
		assert_int_equal(chmod(in_root(NAME), modes[i]), 0);
		expect_refused("open to group or others");
		assert_int_equal(rmdir(in_root(NAME)), 0);
	}
}

/* The first pin is fine and must survive: all is judged before anything is touched (P2). */
static void a_symlink_in_the_directory_is_refused_and_nothing_touched(void **state)
{
	room_required();
	assert_int_equal(mkdir(in_root(NAME), 0700), 0);
	assert_int_equal(bpf_obj_pin(objects[0].fd, in_root(NAME "/lb_one")), 0);
	assert_int_equal(symlink("lb_one", in_root(NAME "/lb_two")), 0);
	expect_refused("lb_two is no pin");
	assert_true(exists(NAME "/lb_one"));
	assert_true(exists(NAME "/lb_two"));
	assert_int_equal(unlink(in_root(NAME "/lb_two")), 0);
	expect_pinned_and_removed();
}

static void a_pin_of_somebody_else_is_refused(void **state)
{
	room_required();
	assert_int_equal(mkdir(in_root(NAME), 0700), 0);
	assert_int_equal(bpf_obj_pin(objects[1].fd, in_root(NAME "/lb_two")), 0);
	assert_int_equal(chown(in_root(NAME "/lb_two"), 65534, 65534), 0);
	expect_refused("pin lb_two belongs to user 65534");
	assert_true(exists(NAME "/lb_two"));
	assert_int_equal(unlink(in_root(NAME "/lb_two")), 0);
	expect_pinned_and_removed();
}

static void what_others_keep_in_the_directory_stays(void **state)
{
	struct lb_pin pin;
	char note[192];

	room_required();
	assert_int_equal(open_pins(&pin, note), 0);
	assert_int_equal(bpf_obj_pin(objects[0].fd, in_root(NAME "/later")), 0);
	lb_pin_close(&pin);
	assert_true(exists(NAME "/later"));
	assert_false(exists(NAME "/lb_one"));
	assert_int_equal(unlink(in_root(NAME "/later")), 0);
	assert_int_equal(rmdir(in_root(NAME)), 0);
}

static void a_pin_that_cannot_be_made_takes_the_others_with_it(void **state)
{
	struct lb_load_object broken[] = {objects[0], {.name = "lb_two", .fd = -1}};
	struct lb_pin pin = {};
	char note[192] = "";
	int fds;

	room_required();
	fds = room_count_fds();
	assert_int_equal(lb_pin_open(&pin, root, NAME, broken, 2, note, sizeof(note)), 0);
	assert_false(pin.open);
	assert_non_null(strstr(note, "cannot pin lb_two"));
	assert_false(exists(NAME));
	assert_int_equal(room_count_fds(), fds);
}

static void a_file_system_is_mounted_where_none_is(void **state)
{
	char bare[] = "/tmp/lb-pin-XXXXXX", note[192] = "";
	struct lb_pin pin = {};

	room_required();
	assert_non_null(mkdtemp(bare));
	assert_int_equal(lb_pin_open(&pin, bare, NAME, objects, 2, note, sizeof(note)), 0);
	assert_true(pin.open);
	lb_pin_close(&pin);
	assert_int_equal(umount(bare), 0);
	assert_int_equal(rmdir(bare), 0);
}

static void without_the_right_to_mount_the_note_says_so(void **state)
{
	char bare[] = "/tmp/lb-pin-XXXXXX";
	pid_t child;
	int status;

	room_required();
	assert_non_null(mkdtemp(bare));
	child = fork();
	if (!child) {
		char note[192] = "";
		struct lb_pin pin = {};
		int r = lb_kernel_drop_privileges();

		if (!r)
			r = lb_pin_open(&pin, bare, NAME, objects, 2, note, sizeof(note));
		_exit(!r && !pin.open && strstr(note, "mounting one failed") ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	assert_int_equal(rmdir(bare), 0);
}

static void without_a_root_the_note_says_so(void **state)
{
	struct lb_pin pin = {};
	char note[192] = "";

	room_required();
	assert_int_equal(lb_pin_open(&pin, in_root("absent"), NAME, objects, 2, note, 192), 0);
	assert_false(pin.open);
	assert_non_null(strstr(note, "No such file"));
}

static int make_object(const char *name)
{
	return bpf_map_create(BPF_MAP_TYPE_ARRAY, name, 4, 4, 1, NULL);
}

static int setup(void **state)
{
	if (room_enter(state) || room_missing[0])
		return 0;
	objects[0] = (struct lb_load_object){"lb_one", make_object("lb_one")};
	objects[1] = (struct lb_load_object){"lb_two", make_object("lb_two")};
	/* Writable for everybody, as many systems have it. */
	return !mkdtemp(root) || mount("bpf", root, "bpf", 0, "mode=1777");
}

static int teardown(void **state)
{
	if (room_missing[0])
		return 0;
	close(objects[0].fd);
	close(objects[1].fd);
	return umount(root) || rmdir(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pins_have_a_directory_of_their_own_closed_to_others),
		cmocka_unit_test(a_pin_leads_to_the_object),
		cmocka_unit_test(pins_of_a_dead_run_are_replaced),
		cmocka_unit_test(a_symlink_instead_of_the_directory_is_refused),
		cmocka_unit_test(a_pin_instead_of_the_directory_is_refused),
		cmocka_unit_test(a_directory_of_somebody_else_is_refused),
		cmocka_unit_test(a_directory_open_to_others_is_refused),
		cmocka_unit_test(a_symlink_in_the_directory_is_refused_and_nothing_touched),
		cmocka_unit_test(a_pin_of_somebody_else_is_refused),
		cmocka_unit_test(what_others_keep_in_the_directory_stays),
		cmocka_unit_test(a_pin_that_cannot_be_made_takes_the_others_with_it),
		cmocka_unit_test(a_file_system_is_mounted_where_none_is),
		cmocka_unit_test(without_the_right_to_mount_the_note_says_so),
		cmocka_unit_test(without_a_root_the_note_says_so),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
