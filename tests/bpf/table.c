/* SPDX-License-Identifier: MIT */
/* table: sockets enter whole or not at all; the objects can be told apart with bpftool. */
#include <bpf/bpf.h>

#include "flow.h"

static void assert_cookie_is_unknown(uint64_t cookie)
{
	uint32_t index;

	assert_int_equal(bpf_map_lookup_elem(kernel->load.cookies_fd, &cookie, &index), -ENOENT);
}

static void a_leg_that_is_closing_is_refused_without_a_trace(void **state)
{
	uint64_t cookie;
	struct flow f;
	char byte;

	room_required();
	f = flow_open();
	cookie = room_cookie(f.leg0);
	assert_int_equal(shutdown(f.client, SHUT_WR), 0);
	assert_int_equal(recv(f.leg0, &byte, 1, 0), 0);
	assert_int_equal(lb_table_insert(kernel, LEG0, f.leg0, cookie), -EOPNOTSUPP);
	assert_cookie_is_unknown(cookie);
	flow_close(&f);
}

static void a_slot_that_is_taken_keeps_its_socket(void **state)
{
	uint64_t cookie;
	struct flow f;

	room_required();
	f = flow_open_inserted();
	cookie = room_cookie(f.server);
	assert_int_equal(lb_table_insert(kernel, LEG0, f.server, cookie), -EEXIST);
	assert_cookie_is_unknown(cookie);
	carry(f.client, f.server, 100, 0);
	assert_int_equal(seen(&f.up->redirected), 100);
	flow_close(&f);
}

static void closing_a_socket_empties_its_slot(void **state)
{
	room_required();
	for (int i = 0; i < 3; i++) {
		struct flow f = flow_open_inserted();

		flow_close(&f);
		assert_cookie_is_unknown(f.cookie[LEG0]);
	}
}

static void what_does_not_fit_is_refused_as_full(void **state)
{
	uint32_t beyond;
	struct flow f;

	room_required();
	beyond = lb_kernel_pairs(kernel) * 2;
	f = flow_open();
	assert_int_equal(lb_table_insert(kernel, beyond, f.leg0, room_cookie(f.leg0)), -ENOSPC);
	assert_cookie_is_unknown(room_cookie(f.leg0));
	assert_int_equal(lb_table_insert(kernel, beyond - 1, f.leg0, room_cookie(f.leg0)), 0);
	f.cookie[0] = room_cookie(f.leg0);
	flow_close(&f);
}

/* --- for whoever looks with bpftool -------------------------------------------------------- */

static void the_program_has_a_name_and_btf(void **state)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];
	size_t n;

	room_required();
	n = lb_load_objects(&kernel->load, objects);
	assert_string_equal(objects[n - 1].name, "sk_verdict");
	assert_int_equal(bpf_obj_get_info_by_fd(objects[n - 1].fd, &info, &len), 0);
	assert_string_equal(info.name, "sk_verdict");
	assert_int_equal(info.type, BPF_PROG_TYPE_SK_SKB);
	assert_true(info.btf_id > 0);
}

static void every_map_has_its_name_and_what_can_have_btf_has_it(void **state)
{
	static const struct {
		const char *name;
		bool btf; /* libbpf gives none to maps of sockets and of maps */
	} maps[] = {
		{"lb_socks", false}, {"lb_cookies", true},    {"lb_gates", true},
		{"lb_rings", false}, {"lb_ring_state", true},
	};
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];

	room_required();
	lb_load_objects(&kernel->load, objects);
	for (size_t i = 0; i < LB_ARRAY_SIZE(maps); i++) {
		struct bpf_map_info info = {};
		__u32 len = sizeof(info);

		assert_int_equal(bpf_obj_get_info_by_fd(objects[i].fd, &info, &len), 0);
		assert_string_equal(info.name, maps[i].name);
		assert_int_equal(info.btf_id > 0, maps[i].btf);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_leg_that_is_closing_is_refused_without_a_trace),
		cmocka_unit_test(a_slot_that_is_taken_keeps_its_socket),
		cmocka_unit_test(closing_a_socket_empties_its_slot),
		cmocka_unit_test(what_does_not_fit_is_refused_as_full),
		cmocka_unit_test(the_program_has_a_name_and_btf),
		cmocka_unit_test(every_map_has_its_name_and_what_can_have_btf_has_it),
	};

	return cmocka_run_group_tests(tests, flow_setup, flow_teardown);
}
