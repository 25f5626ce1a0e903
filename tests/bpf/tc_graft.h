/* SPDX-License-Identifier: MIT */
/*
 * tc_graft with one pair in its tables, filled in by hand, and a way to push a segment through:
 *
 *	client ~~~> us, leg 0 ====tc_graft==== leg 1, us ~~~> backend
 *
 * Every segment that is forwarded goes through twice, the second time as a packet whose checksum
 * the card has computed (CHECKSUM_COMPLETE): the kernel then compares what the program says of it.
 */
#ifndef TESTS_BPF_TC_GRAFT_H
#define TESTS_BPF_TC_GRAFT_H

#include <linux/pkt_cls.h>
#include <sys/mman.h>

#include <bpf/bpf.h>

#include <lb/graft.h>

#include "packet.h"
#include "room.h"
#include "tc_graft.skel.h"

#define PAIR    1u
#define PAIRS   4u
#define LOCAL   0u
#define REMOTE  7u /* an interface nobody looks up in a test run */
#define MARK    "\x0a\x11\x22\x33\x44\x55"
#define TS_LEG0 0x10203040u
#define TS_LEG1 0xfedc0123u

/* First sequence number of the leg's peer and of us: see include/lb/graft.h. All wrap soon. */
static const uint32_t in_of[2] = {0xfffff000u, 0x7ffff800u};
static const uint32_t out_of[2] = {0x00000100u, 0xfffffff0u};

static struct tc_graft *skel;
static struct lb_graft *grafts;
static struct lb_graft_meta *meta;
static struct ring_buffer *ring;
static unsigned int events;
static uint32_t event_pair;

struct result {
	int code;
	struct frame_bytes frame;
};

static inline int count_event(void *ctx, void *data, size_t size)
{
	const struct lb_graft_event *e = data;

	events++;
	event_pair = e->pair;
	return 0;
}

/* How many events came since the last call; all must name our pair. */
static inline unsigned int events_since(void)
{
	events = 0;
	ring_buffer__consume(ring);
	if (events)
		assert_int_equal(event_pair, PAIR);
	return events;
}

static inline void *map_memory(const struct bpf_map *map, size_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(map), 0);

	return p == MAP_FAILED ? NULL : p;
}

static inline int graft_setup(void **state)
{
	if (room_enter(state) || room_missing[0])
		return 0;
	skel = tc_graft__open();
	if (!skel)
		return -1;
	bpf_map__set_max_entries(skel->maps.lb_graft_v4, 2 * PAIRS);
	bpf_map__set_max_entries(skel->maps.lb_graft_v6, 2 * PAIRS);
	bpf_map__set_max_entries(skel->maps.lb_grafts, PAIRS);
	if (tc_graft__load(skel))
		return -1;
	grafts = map_memory(skel->maps.lb_grafts, PAIRS * sizeof(*grafts));
	meta = map_memory(skel->maps.lb_graft_meta, sizeof(*meta));
	ring = ring_buffer__new(bpf_map__fd(skel->maps.lb_graft_ring), count_event, NULL, NULL);
	if (!grafts || !meta || !ring)
		return -1;
	memcpy(meta->mark, MARK, sizeof(meta->mark));
	return 0;
}

static inline int graft_teardown(void **state)
{
	ring_buffer__free(ring);
	tc_graft__destroy(skel);
	return 0;
}

/* --- the pair ------------------------------------------------------------------------------ */

#define V4_END(a, b, c, d, p)                                                       \
	(struct end)                                                                \
	{                                                                           \
		.addr = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d}, .port = p \
	}
#define V6_END(net, host, p)                                                                      \
	(struct end)                                                                              \
	{                                                                                         \
		.addr = {0xfd, 0x81, net, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, host}, .port = p \
	}

static inline struct end peer_of(bool ipv6, uint32_t leg)
{
	if (ipv6)
		return leg ? V6_END(1, 2, 8080) : V6_END(0, 2, 40000);
	return leg ? V4_END(10, 1, 0, 2, 8080) : V4_END(10, 0, 0, 2, 40000);
}

static inline struct end us_on(bool ipv6, uint32_t leg)
{
	if (ipv6)
		return leg ? V6_END(1, 1, 50000) : V6_END(0, 1, 443);
	return leg ? V4_END(10, 1, 0, 1, 50000) : V4_END(10, 0, 0, 1, 443);
}

static inline void addr_to_leg(__be32 to[4], bool ipv6, const struct end *e)
{
	memset(to, 0, 16);
	memcpy(to, ipv6 ? e->addr : e->addr + 12, ipv6 ? 16 : 4);
}

static inline int key_fd(bool ipv6)
{
	return bpf_map__fd(ipv6 ? skel->maps.lb_graft_v6 : skel->maps.lb_graft_v4);
}

union key {
	struct lb_graft_v4 v4;
	struct lb_graft_v6 v6;
};

static inline union key key_of(bool ipv6, const struct end *from, const struct end *to)
{
	union key key = {};

	if (ipv6) {
		memcpy(key.v6.saddr, from->addr, 16);
		memcpy(key.v6.daddr, to->addr, 16);
		key.v6.sport = htons(from->port);
		key.v6.dport = htons(to->port);
	} else {
		memcpy(&key.v4.saddr, from->addr + 12, 4);
		memcpy(&key.v4.daddr, to->addr + 12, 4);
		key.v4.sport = htons(from->port);
		key.v4.dport = htons(to->port);
	}
	return key;
}

static inline void add_key(bool ipv6, const struct end *from, const struct end *to, uint32_t index)
{
	union key key = key_of(ipv6, from, to);

	assert_int_equal(bpf_map_update_elem(key_fd(ipv6), &key, &index, BPF_ANY), 0);
}

static inline bool has_key(bool ipv6, uint32_t leg)
{
	struct end from = peer_of(ipv6, leg), to = us_on(ipv6, leg);
	union key key = key_of(ipv6, &from, &to);
	uint32_t index;

	return !bpf_map_lookup_elem(key_fd(ipv6), &key, &index);
}

/*
 * A fresh pair, a thousand bytes into both streams, all acknowledged; windows unscaled, and both
 * timestamp distances known.
 */
static inline struct lb_graft *pair_open(bool ipv6, uint32_t stage)
{
	struct lb_graft *g = &grafts[PAIR];

	memset(grafts, 0, PAIRS * sizeof(*grafts));
	for (uint32_t i = 0; i < 2; i++) {
		struct end peer = peer_of(ipv6, i), us = us_on(ipv6, i);
		struct end next = peer_of(ipv6, !i), next_us = us_on(ipv6, !i);
		struct lb_graft_leg *leg = &g->leg[i];

		addr_to_leg(leg->saddr, ipv6, &next_us);
		addr_to_leg(leg->daddr, ipv6, &next);
		leg->sport = htons(next_us.port);
		leg->dport = htons(next.port);
		leg->seq_shift = out_of[!i] - in_of[i];
		leg->ack_shift = in_of[!i] - out_of[i];
		leg->ifindex = REMOTE;
		leg->fixed = (uint16_t)(LB_GRAFT_TIMESTAMPS | (ipv6 ? LB_GRAFT_IPV6 : 0));
		leg->seq_end = in_of[i] + 1000;
		leg->bytes = 1000;
		leg->ack_max = out_of[i] + 1000;
		leg->edge = leg->ack_max + 50000;
		leg->ts_shift = i ? TS_LEG1 : TS_LEG0;
		add_key(ipv6, &peer, &us, PAIR * 2 + i);
	}
	g->stage = stage;
	events_since();
	return g;
}

/* What the peer of <leg> says next: nothing, or its next bytes. */
static inline struct segment segment_of(bool ipv6, uint32_t leg, size_t payload)
{
	return (struct segment){
		.ipv6 = ipv6,
		.from = peer_of(ipv6, leg),
		.to = us_on(ipv6, leg),
		.ttl = 64,
		.frag = 0x4000,
		.seq = in_of[leg] + 1000,
		.ack = out_of[leg] + 1000,
		.flags = ACK,
		.window = 5000,
		.payload = payload,
	};
}

/* What becomes of it, but for options and window. */
static inline struct segment forwarded(const struct segment *s, uint32_t leg)
{
	struct segment e = *s;

	e.from = us_on(s->ipv6, !leg);
	e.to = peer_of(s->ipv6, !leg);
	e.seq = s->seq - in_of[leg] + out_of[!leg];
	if (s->flags & ACK)
		e.ack = s->ack - out_of[leg] + in_of[!leg];
	if (grafts[PAIR].leg[leg].ifindex)
		e.ttl--;
	return e;
}

/* --- the program --------------------------------------------------------------------------- */

/* <flags> of BPF_PROG_TEST_RUN; <ifindex> where it arrives. Negative: it could not run. */
static inline int run_raw(const struct frame_bytes *in, struct frame_bytes *out, uint32_t flags,
			  uint32_t ifindex)
{
	struct __sk_buff ctx = {.ifindex = ifindex};
	int r;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = in->b, .data_size_in = (uint32_t)in->n,
		    .data_out = out->b, .data_size_out = sizeof(out->b), .ctx_in = &ctx,
		    .ctx_size_in = sizeof(ctx), .flags = flags);

	r = bpf_prog_test_run_opts(bpf_program__fd(skel->progs.tc_graft), &opts);
	out->n = opts.data_size_out;
	return r ? r : (int)opts.retval;
}

static inline struct result run(const struct frame_bytes *in)
{
	struct lb_graft before[PAIRS], after[PAIRS];
	struct frame_bytes again;
	struct result r;

	memcpy(before, grafts, sizeof(before));
	r.code = run_raw(in, &r.frame, 0, 1);
	memcpy(after, grafts, sizeof(after));
	if (r.code == TC_ACT_REDIRECT || r.code == TC_ACT_UNSPEC) {
		memcpy(grafts, before, sizeof(before));
		if (run_raw(in, &again, BPF_F_TEST_SKB_CHECKSUM_COMPLETE, 1) == -EBADMSG)
			fail_msg("skb->csum is wrong");
		memcpy(grafts, after, sizeof(after));
	}
	return r;
}

static inline struct result send_segment(const struct segment *s)
{
	struct frame_bytes f = build(s);

	return run(&f);
}

/* A packet that changes books only: it must be forwarded. */
static inline void forward_segment(const struct segment *s)
{
	struct frame_bytes f = build(s), out;

	assert_int_equal(run_raw(&f, &out, 0, 1), TC_ACT_REDIRECT);
}

static inline void assert_frame(const char *name, const struct frame_bytes *got,
				const struct frame_bytes *want, size_t from)
{
	if (got->n != want->n)
		fail_msg("%s: %zu bytes instead of %zu", name, got->n, want->n);
	for (size_t i = from; i < got->n; i++)
		if (got->b[i] != want->b[i])
			fail_msg("%s: byte %zu of the frame is %02x instead of %02x", name, i,
				 got->b[i], want->b[i]);
}

static inline void assert_becomes(const char *name, const struct segment *s,
				  const struct segment *want)
{
	struct frame_bytes w = build(want);
	struct result r = send_segment(s);

	if (r.code != TC_ACT_REDIRECT)
		fail_msg("%s: %d instead of a redirect", name, r.code);
	assert_frame(name, &r.frame, &w, 0);
}

static inline void assert_untouched(const char *name, const struct frame_bytes *f)
{
	struct result r = run(f);

	if (r.code != TC_ACT_UNSPEC)
		fail_msg("%s: %d instead of TC_ACT_UNSPEC", name, r.code);
	assert_frame(name, &r.frame, f, 0);
}

static inline uint64_t counted(uint32_t which)
{
	uint64_t per_cpu[256] = {}, total = 0;

	assert_true(libbpf_num_possible_cpus() <= 256);
	assert_int_equal(
		bpf_map_lookup_elem(bpf_map__fd(skel->maps.lb_graft_count), &which, per_cpu), 0);
	for (int i = 0; i < libbpf_num_possible_cpus(); i++)
		total += per_cpu[i];
	return total;
}

#endif
