/* SPDX-License-Identifier: MIT */
/*
 * Admission's tables as the daemon fills them in, and a SYN put through either hook:
 *
 *	client ~~~> 10.0.0.1:80, fd00::1:80: RULE; 10.0.0.1:81, fd00::1:81: OTHER
 */
#ifndef TESTS_BPF_ADMIT_H
#define TESTS_BPF_ADMIT_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf.h>

#include "room.h"

#include "base/hash.h"
#include "flow/acl.h"
#include "kernel/admit_handle.h"
#include "packet.h"
#include "tc_admit.skel.h"
#include "xdp_admit.skel.h"

#define RULE        3u
#define OTHER       4u
#define CLIENT      "10.1.2.3:40000"
#define CLIENT6     "[2001:db8:7:8::9]:40000"
#define TICK_MAX_NS 10000000ull /* CONFIG_HZ=100 */
#define HOUR_NS     3600000000000ull

#define LOOPBACK 1u

static struct lb_admit *admit;
static bool to_another_card;

static inline struct lb_addr addr(const char *text)
{
	struct lb_addr a;

	assert_int_equal(lb_addr_parse(text, &a), 0);
	return a;
}

static inline void listen_on(const char *text, uint32_t rule)
{
	struct lb_addr a = addr(text);

	assert_int_equal(lb_admit_listen(admit, &a, rule), 0);
}

static inline int admit_setup(void **state)
{
	const struct lb_admit_opts opts = {.instance = "test", .mode = LB_ADMIT_MODE_TC};
	struct lb_admit_report report;

	if (room_enter(state) || room_missing[0])
		return 0;
	if (lb_admit_open(&admit, &opts, &report)) {
		print_error("%s\n", report.detail);
		return -1;
	}
	/* The daemon leaves the loading to libxdp. */
	if (xdp_admit__load(admit->xdp))
		return -1;
	lb_admit_attach_loaded(admit);
	lb_admit_set_card(admit, LOOPBACK, (const uint8_t[6]){0});
	return 0;
}

static inline int admit_teardown(void **state)
{
	lb_admit_close(&admit);
	return 0;
}

/* Nobody is refused. */
static inline int admit_fresh(void **state)
{
	if (room_missing[0])
		return 0;
	listen_on("10.0.0.1:80", RULE);
	listen_on("[fd00::1]:80", RULE);
	listen_on("10.0.0.1:81", OTHER);
	listen_on("[fd00::1]:81", OTHER);
	for (uint32_t rule = RULE; rule <= OTHER; rule++) {
		assert_int_equal(lb_admit_set_acl(admit, rule, NULL, 0, NULL, 0), 0);
		lb_admit_set_rate_limit(admit, rule, false, 64);
	}
	lb_admit_lease(admit, lb_clock_ns() + HOUR_NS);
	return 0;
}

static inline struct end end_of(const struct lb_addr *a)
{
	struct end e = {.port = lb_addr_port(a)};

	if (a->sa.sa_family == AF_INET6)
		memcpy(e.addr, &a->in6.sin6_addr, 16);
	else
		memcpy(e.addr + 12, &a->in4.sin_addr, 4);
	return e;
}

/* The first segment of a connection from <client> to port <port> of us. */
static inline struct segment syn_from(const char *client, uint16_t port)
{
	struct lb_addr from = addr(client), to;

	lb_addr_unmap(&from);
	to = addr(from.sa.sa_family == AF_INET6 ? "[fd00::1]:1" : "10.0.0.1:1");
	lb_addr_set_port(&to, port);
	return (struct segment){
		.ipv6 = from.sa.sa_family == AF_INET6,
		.from = end_of(&from),
		.to = end_of(&to),
		.ttl = 64,
		.seq = 12345,
		.flags = SYN,
		.window = 65535,
		.opt = OPT(2, 4, 5, 180, NOP, NOP, TS(1, 0)),
	};
}

/* What <hook> answers to a frame, in its own words. */
static inline uint32_t answer(enum lb_admit_hook hook, const struct frame_bytes *f)
{
	int fd = bpf_program__fd(hook == LB_ADMIT_HOOK_XDP ? admit->xdp->progs.xdp_admit
							   : admit->tc->progs.tc_admit);
	struct frame_bytes ours = *f;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = ours.b, .data_size_in = (uint32_t)f->n);

	if (!to_another_card)
		memset(ours.b, 0, 6); /* the address of loopback, where a test run comes in */
	assert_int_equal(bpf_prog_test_run_opts(fd, &opts), 0);
	return opts.retval;
}

/* True when both hooks drop it, false when both let it pass; they must agree. */
static inline bool is_dropped(const struct frame_bytes *f)
{
	uint32_t xdp = answer(LB_ADMIT_HOOK_XDP, f), tc = answer(LB_ADMIT_HOOK_TC, f);

	assert_true(xdp == XDP_DROP || xdp == XDP_PASS);
	assert_int_equal(tc, xdp == XDP_DROP ? (uint32_t)TC_ACT_SHOT : (uint32_t)TC_ACT_UNSPEC);
	return xdp == XDP_DROP;
}

static inline bool is_segment_dropped(const struct segment *s)
{
	struct frame_bytes f = build(s);

	return is_dropped(&f);
}

static inline bool is_client_dropped(const char *client, uint16_t port)
{
	struct segment s = syn_from(client, port);

	return is_segment_dropped(&s);
}

static inline void set_acl(uint32_t rule, const struct lb_acl *acl)
{
	const struct lb_acl_v4_node *v4;
	const struct lb_acl_v6_node *v6;
	uint32_t v4_count, v6_count;

	v4 = lb_acl_v4_nodes(acl, &v4_count);
	v6 = lb_acl_v6_nodes(acl, &v6_count);
	assert_int_equal(lb_admit_set_acl(admit, rule, v4, v4_count, v6, v6_count), 0);
}

/* <rule> lets nobody in. */
static inline void deny_all(uint32_t rule)
{
	struct lb_prefix all[2];
	struct lb_acl *acl;

	assert_int_equal(lb_prefix_parse("0.0.0.0/0", &all[0]), 0);
	assert_int_equal(lb_prefix_parse("::/0", &all[1]), 0);
	assert_int_equal(lb_acl_new(&acl, NULL, 0, all, 2), 0);
	set_acl(rule, acl);
	lb_acl_free(&acl);
}

#endif
