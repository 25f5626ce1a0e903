/* SPDX-License-Identifier: MIT */
/* What the tests of the graft tables share: a daemon of a version, its pins, its filters. */
#ifndef TESTS_BPF_GRAFT_H
#define TESTS_BPF_GRAFT_H

#include "kernel/graft_table.h"

#include <stdlib.h>
#include <sys/stat.h>

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <libmnl/libmnl.h>

#include "kernel/graft_handle.h"
#include "kernel/kernel.h"
#include "room.h"

#define INSTANCE "test"
#define NAME     "layer4-lb-" INSTANCE
#define PINS     LB_PIN_ROOT "/" NAME
#define PAIRS    8u
#define MINUTE   60000u
/* A version that we are not. */
#define OTHER_ABI 77u

static const struct lb_graft_table_opts opts = {
	.instance = INSTANCE, .pairs = PAIRS, .create = true};

static inline struct lb_graft_table *open_as(const struct lb_graft_table_opts *o,
					     struct lb_graft_table_report *report)
{
	struct lb_graft_table *t = NULL;

	if (lb_graft_table_open(&t, o, report))
		fail_msg("%s: %s", lb_why_word(report->why), report->detail);
	assert_int_equal(report->why, LB_WHY_NONE);
	return t;
}

static inline struct lb_graft_table *open_or_fail(void)
{
	struct lb_graft_table_report report;

	return open_as(&opts, &report);
}

static inline void expect_refused(const struct lb_graft_table_opts *o, int err, enum lb_why why,
				  const char *word)
{
	struct lb_graft_table *t = (struct lb_graft_table *)&opts;
	int fds = room_count_fds(), mappings = room_count_mappings();
	struct lb_graft_table_report report;

	assert_int_equal(lb_graft_table_open(&t, o, &report), err);
	assert_ptr_equal(t, &opts);
	assert_int_equal(report.why, why);
	if (!strstr(report.detail, word))
		fail_msg("\"%s\" does not say \"%s\"", report.detail, word);
	assert_int_equal(room_count_fds(), fds);
	assert_int_equal(room_count_mappings(), mappings);
}

static inline bool exists(const char *path)
{
	struct stat st;

	return !lstat(path, &st);
}

static inline void run(const char *command)
{
	if (system(command))
		fail_msg("failed: %s", command);
}

static inline uint32_t index_of(const char *ifname)
{
	return if_nametoindex(ifname);
}

struct tally {
	unsigned int ours, others;
	uint32_t handle;
};

static inline void on_filter(void *arg, const struct lb_netlink_filter *f)
{
	struct tally *n = arg;

	if (!strcmp(f->program, LB_GRAFT_PROGRAM) && f->priority == LB_GRAFT_PRIORITY) {
		n->ours++;
		n->handle = f->handle;
	} else {
		n->others++;
	}
}

static inline struct tally filters(const char *ifname)
{
	struct tally n = {};

	assert_int_equal(lb_netlink_filters(index_of(ifname), on_filter, &n), 0);
	return n;
}

/* The program behind our filter of <ifname>. */
static inline uint32_t program_at(const struct lb_graft_table *t, const char *ifname)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)index_of(ifname),
		    .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, o, .handle = t->handle, .priority = LB_GRAFT_PRIORITY);

	assert_int_equal(bpf_tc_query(&hook, &o), 0);
	return o.prog_id;
}

static inline uint32_t program_of(int fd)
{
	struct bpf_prog_info info = {};
	__u32 len = sizeof(info);

	assert_int_equal(bpf_obj_get_info_by_fd(fd, &info, &len), 0);
	return info.id;
}

static inline uint32_t pinned_program(void)
{
	LB_AUTO_CLOSE int fd = bpf_obj_get(PINS "/tc_graft");

	assert_true(fd >= 0);
	return program_of(fd);
}

static inline struct lb_graft_tuple tuple4(const char *saddr, const char *daddr, uint16_t sport,
					   uint16_t dport)
{
	struct lb_graft_tuple t = {.sport = htons(sport), .dport = htons(dport)};

	assert_int_equal(inet_pton(AF_INET, saddr, t.saddr), 1);
	assert_int_equal(inet_pton(AF_INET, daddr, t.daddr), 1);
	return t;
}

static inline struct lb_graft_tuple tuple6(const char *saddr, const char *daddr, uint16_t sport,
					   uint16_t dport)
{
	struct lb_graft_tuple t = {.ipv6 = true, .sport = htons(sport), .dport = htons(dport)};

	assert_int_equal(inet_pton(AF_INET6, saddr, t.saddr), 1);
	assert_int_equal(inet_pton(AF_INET6, daddr, t.daddr), 1);
	return t;
}

/* Of a graft that must not get lost. */
static inline struct lb_graft_tuple kept_tuple(void)
{
	return tuple6("2001:db8::5", "2001:db8::6", 4000, 443);
}

/* Until the follower's descriptor is quiet. */
static inline void follow(struct lb_graft_table *t)
{
	while (room_readable(lb_graft_table_netlink_fd(t), 100))
		lb_graft_table_follow(t);
}

static inline void expect_attached(struct lb_graft_table *t, const char *list)
{
	char buf[256];

	assert_string_equal(lb_graft_table_attached(t, buf, sizeof(buf)), list);
}

/* Makes the tables that are pinned look like those of version <abi>. */
static inline void pretend_abi(uint32_t abi)
{
	LB_AUTO_CLOSE int fd = bpf_obj_get(PINS "/lb_graft_meta");
	struct lb_graft_meta meta;
	__u32 zero = 0;

	assert_int_equal(bpf_map_lookup_elem(fd, &zero, &meta), 0);
	meta.abi = abi;
	assert_int_equal(bpf_map_update_elem(fd, &zero, &meta, 0), 0);
}

static inline void attach_foreign_filter(const char *ifname, uint32_t abi)
{
	LB_AUTO_CLOSE int fd = bpf_obj_get(PINS "/tc_graft");
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)index_of(ifname),
		    .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, o, .prog_fd = fd, .priority = LB_GRAFT_PRIORITY,
		    .handle = lb_links_handle(NAME, abi));

	lb_netlink_clsact(index_of(ifname));
	assert_int_equal(bpf_tc_attach(&hook, &o), 0);
}

/* An older or newer daemon was here, and has gone on without its filters of our version. */
static inline void leave_foreign_tables(void)
{
	lb_graft_table_close(open_or_fail(), true);
	pretend_abi(OTHER_ABI);
	attach_foreign_filter("lo", OTHER_ABI);
}

/* A filter that is not ours, of the same priority. */
static inline void attach_somebody(const char *ifname)
{
	const struct bpf_insn unspec[] = {
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = -1},
		{.code = BPF_JMP | BPF_EXIT},
	};
	LB_AUTO_CLOSE int fd = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "somebody", "GPL", unspec,
					     LB_ARRAY_SIZE(unspec), NULL);
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)index_of(ifname),
		    .attach_point = BPF_TC_INGRESS);
	LIBBPF_OPTS(bpf_tc_opts, o, .prog_fd = fd, .priority = LB_GRAFT_PRIORITY);

	lb_netlink_clsact(index_of(ifname));
	assert_int_equal(bpf_tc_attach(&hook, &o), 0);
}

static inline void move_pins(const char *from, const char *to)
{
	char old[256], new[256];

	for (unsigned int i = 0; i <= LB_GRAFT_MAP_MAX_; i++) {
		const char *name = i < LB_GRAFT_MAP_MAX_ ? lb_graft_map_name(i) : LB_GRAFT_PROGRAM;

		snprintf(old, sizeof(old), "%s/%s", from, name);
		snprintf(new, sizeof(new), "%s/%s", to, name);
		assert_int_equal(rename(old, new), 0);
	}
}

/* Every test starts and ends with an empty place. */
static inline void expect_nothing_left(void)
{
	assert_false(exists(PINS));
	assert_int_equal(filters("lo").ours, 0);
}

static inline int with_veth(void **state)
{
	if (!room_missing[0])
		return system("ip link add lbx type veth peer name lby && "
			      "ip addr add 10.9.0.1/24 dev lbx && "
			      "ip -6 addr add 2001:db8::1/64 dev lbx nodad && "
			      "ip link set lbx up && ip link set lby up");
	return 0;
}

static inline int without_veth(void **state)
{
	return room_missing[0] ? 0 : system("ip link del lbx 2>/dev/null || :");
}

#define with_net(test) cmocka_unit_test_setup_teardown(test, with_veth, without_veth)

#endif
