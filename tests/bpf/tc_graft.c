/* SPDX-License-Identifier: MIT */
/*
 * tc_graft: what a packet becomes, byte by byte, checksums included; and which packets are none of
 * its business. The books are in tc_graft_books.c, our own socket's copies in tc_graft_copy.c, path
 * MTU messages in tc_graft_icmp.c.
 */
#include "tc_graft.h"

/* The options a packet of leg 0 comes with and goes with. */
#define V         0xfffffff0u
#define E         0x00000010u
#define EDGE      0xfffffe00u /* in our numbers of leg 0; the backend's are ACK_SHIFT on */
#define ACK_SHIFT (0x7ffff800u - 0x00000100u)
#define T_IN      TS(V, E)
#define T_OUT     TS(V + TS_LEG0, E - TS_LEG1)
#define A(n)      (EDGE + (n))
#define B(n)      (EDGE + ACK_SHIFT + (n))
#define MSS       2, 4, 5, 180
#define SACK_OK   4, 2
#define SCALE     3, 3, 7

static const struct {
	const char *name;
	struct options in, out;
} layouts[] = {
	{"nothing but padding", OPT(NOP, NOP, NOP, EOL), OPT(NOP, NOP, NOP, EOL)},
	{"timestamps", OPT(NOP, NOP, T_IN), OPT(NOP, NOP, T_OUT)},
	{"timestamps, one SACK", OPT(NOP, NOP, T_IN, NOP, NOP, SACK1(A(0), A(1400))),
	 OPT(NOP, NOP, T_OUT, NOP, NOP, SACK1(B(0), B(1400)))},
	{"timestamps, two SACKs", OPT(NOP, NOP, T_IN, NOP, NOP, SACK2(A(0), A(1), A(2), A(0x400))),
	 OPT(NOP, NOP, T_OUT, NOP, NOP, SACK2(B(0), B(1), B(2), B(0x400)))},
	{"timestamps, three SACKs",
	 OPT(NOP, NOP, T_IN, NOP, NOP, SACK3(A(0), A(1), A(2), A(3), A(4), A(5))),
	 OPT(NOP, NOP, T_OUT, NOP, NOP, SACK3(B(0), B(1), B(2), B(3), B(4), B(5)))},
	{"one SACK", OPT(NOP, NOP, SACK1(A(7), A(9))), OPT(NOP, NOP, SACK1(B(7), B(9)))},
	{"three SACKs", OPT(NOP, NOP, SACK3(A(9), A(8), A(7), A(6), A(5), A(4))),
	 OPT(NOP, NOP, SACK3(B(9), B(8), B(7), B(6), B(5), B(4)))},
	{"four SACKs",
	 OPT(NOP, NOP, 5, 34, B32(A(1)), B32(A(2)), B32(A(3)), B32(A(4)), B32(A(5)), B32(A(6)),
	     B32(A(7)), B32(A(8))),
	 OPT(NOP, NOP, 5, 34, B32(B(1)), B32(B(2)), B32(B(3)), B32(B(4)), B32(B(5)), B32(B(6)),
	     B32(B(7)), B32(B(8)))},
	{"a SACK without a block", OPT(NOP, NOP, T_IN, NOP, NOP, 5, 2),
	 OPT(NOP, NOP, T_OUT, NOP, NOP, 5, 2)},
	{"SACK first", OPT(SACK1(A(0), A(2)), NOP, NOP, T_IN, NOP, NOP),
	 OPT(SACK1(B(0), B(2)), NOP, NOP, T_OUT, NOP, NOP)},
	{"timestamps, then SACK, unaligned", OPT(T_IN, SACK1(A(0), A(2))),
	 OPT(T_OUT, SACK1(B(0), B(2)))},
	{"timestamps at an odd offset", OPT(NOP, T_IN, NOP), OPT(NOP, T_OUT, NOP)},
	{"timestamps last, at an odd offset",
	 OPT(NOP, SCALE, SCALE, 254, 3, 0, NOP, NOP, NOP, T_IN, NOP, NOP, NOP),
	 OPT(NOP, SCALE, SCALE, 254, 3, 0, NOP, NOP, NOP, T_OUT, NOP, NOP, NOP)},
	{"timestamps up to the last byte", OPT(NOP, 254, 5, 1, 2, 3, T_IN),
	 OPT(NOP, 254, 5, 1, 2, 3, T_OUT)},
	{"timestamps at the end of the largest header",
	 OPT(NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP,
	     NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, T_IN),
	 OPT(NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP,
	     NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, T_OUT)},
	{"forty NOPs",
	 OPT(NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP,
	     NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP,
	     NOP, NOP, NOP, NOP, NOP, NOP),
	 OPT(NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP,
	     NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP, NOP,
	     NOP, NOP, NOP, NOP, NOP, NOP)},
	{"nothing behind the end of the list", OPT(NOP, EOL, T_IN), OPT(NOP, EOL, T_IN)},
	{"timestamps, then the end of the list", OPT(NOP, NOP, T_IN, EOL, 5, 10, 1),
	 OPT(NOP, NOP, T_OUT, EOL, 5, 10, 1)},
	{"an unknown kind is stepped over", OPT(253, 6, 8, 10, 1, 2, T_IN),
	 OPT(253, 6, 8, 10, 1, 2, T_OUT)},
	{"a length of 0", OPT(NOP, 253, 0, T_IN, NOP, NOP, NOP),
	 OPT(NOP, 253, 0, T_IN, NOP, NOP, NOP)},
	{"a length of 1", OPT(NOP, 253, 1, T_IN, NOP, NOP, NOP),
	 OPT(NOP, 253, 1, T_IN, NOP, NOP, NOP)},
	{"a length beyond the header", OPT(NOP, 253, 16, T_IN, NOP, NOP, NOP),
	 OPT(NOP, 253, 16, T_IN, NOP, NOP, NOP)},
	{"timestamps cut short", OPT(NOP, NOP, 8, 10, B32(V)), OPT(NOP, NOP, 8, 10, B32(V))},
	{"SACK cut short", OPT(NOP, NOP, 5, 10, B32(A(0))), OPT(NOP, NOP, 5, 10, B32(A(0)))},
	{"SACK cut short behind timestamps", OPT(NOP, NOP, T_IN, NOP, NOP, 5, 10, B32(A(0))),
	 OPT(NOP, NOP, T_OUT, NOP, NOP, 5, 10, B32(A(0)))},
	{"a kind without a length at the very end", OPT(NOP, NOP, T_IN, NOP, NOP, NOP, 8),
	 OPT(NOP, NOP, T_OUT, NOP, NOP, NOP, 8)},
	{"timestamps of a wrong length", OPT(NOP, NOP, 8, 6, B32(V)), OPT(NOP, NOP, 8, 6, B32(V))},
	{"timestamps longer than they are", OPT(NOP, NOP, 8, 14, B32(V), B32(E), B32(7)),
	 OPT(NOP, NOP, 8, 14, B32(V), B32(E), B32(7))},
	{"an echo of 0 stays 0", OPT(NOP, NOP, TS(V, 0)), OPT(NOP, NOP, TS(V + TS_LEG0, 0))},
	{"TSval wraps", OPT(NOP, NOP, TS(0u - TS_LEG0, TS_LEG1 + 1)), OPT(NOP, NOP, TS(0, 1))},
	{"TSecr wraps", OPT(NOP, NOP, TS(1, TS_LEG1 - 1)), OPT(NOP, NOP, TS(TS_LEG0 + 1, ~0u))},
};

static void every_layout_of_options_is_rewritten(void **state)
{
	room_required();
	for (size_t i = 0; i < sizeof(layouts) / sizeof(*layouts); i++) {
		for (int ipv6 = 0; ipv6 < 2; ipv6++) {
			struct segment s = segment_of(ipv6, 0, 100), want;

			pair_open(ipv6, LB_GRAFT_FULL);
			s.opt = layouts[i].in;
			want = forwarded(&s, 0);
			want.opt = layouts[i].out;
			assert_becomes(layouts[i].name, &s, &want);
		}
	}
}

static void a_syn_goes_on_with_a_number_of_the_past_and_no_options(void **state)
{
	struct segment s = segment_of(false, 0, 0), want;

	room_required();
	pair_open(false, LB_GRAFT_FULL);
	s.flags = SYN;
	s.ack = 0;
	s.window = 64240;
	s.opt = (struct options)OPT(MSS, SACK_OK, T_IN, NOP, SCALE);
	want = forwarded(&s, 0);
	want.seq = grafts[PAIR].leg[1].ack_max - 1;
	memset(want.opt.b, 1, want.opt.n = s.opt.n);
	/* A window in a SYN is never scaled. */
	grafts[PAIR].leg[0].wscale_in = 3;
	grafts[PAIR].leg[0].wscale_out = 9;
	assert_becomes("SYN", &s, &want);
}

static void payloads_of_all_sizes_cross_both_ways(void **state)
{
	const size_t sizes[] = {0, 1, 2, 3, 5, 100, 536, 1447, 1448, 1460};

	room_required();
	for (uint32_t i = 0; i < 4 * sizeof(sizes) / sizeof(*sizes); i++) {
		uint32_t leg = i & 1, ipv6 = i >> 1 & 1;
		struct segment s = segment_of(ipv6, leg, sizes[i / 4]), want;

		pair_open(ipv6, LB_GRAFT_FULL);
		want = forwarded(&s, leg);
		assert_becomes(ipv6 ? "IPv6" : "IPv4", &s, &want);
	}
}

static void everything_else_in_the_header_stays(void **state)
{
	struct segment s, want;

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		pair_open(ipv6, LB_GRAFT_FULL);
		s = segment_of(ipv6, 0, 10);
		s.flags = ACK | PSH | URG | ECE | CWR;
		s.urgent = 5;
		s.tos = 0xb9;
		want = forwarded(&s, 0);
		assert_becomes("flags, urgent pointer, DSCP and ECN", &s, &want);
	}
}

static void sequence_numbers_wrap(void **state)
{
	/* The legs wrap after 4096, 2^31 + 2048, 2^32 - 256 and 16 bytes. */
	const uint32_t steps[] = {1000, 4095, 4096, 4097, 0x7ffffeff, 0x80000800, 0xffffff00};

	room_required();
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		for (uint32_t leg = 0; leg < 2; leg++) {
			struct segment s = segment_of(false, leg, 100), want;

			pair_open(false, LB_GRAFT_FULL);
			s.seq = in_of[leg] + steps[i];
			s.ack = out_of[leg] + steps[i];
			want = forwarded(&s, leg);
			assert_int_equal(want.seq, out_of[!leg] + steps[i]);
			assert_int_equal(want.ack, in_of[!leg] + steps[i]);
			assert_becomes("wrap", &s, &want);
		}
	}
}

static void without_an_acknowledgement_the_field_is_left_alone(void **state)
{
	struct segment s = segment_of(false, 1, 0), want;

	room_required();
	pair_open(false, LB_GRAFT_FULL);
	s.flags = RST;
	s.ack = 0;
	want = forwarded(&s, 1);
	assert_int_equal(want.ack, 0);
	assert_becomes("RST", &s, &want);
}

/* --- windows ------------------------------------------------------------------------------- */

static void windows_change_their_scale(void **state)
{
	const struct {
		uint16_t in;
		uint8_t wscale_in, wscale_out;
		uint16_t out;
	} rows[] = {
		{0, 7, 7, 0},          {0, 0, 14, 0},
		{0, 14, 0, 0},         {1, 0, 0, 1},
		{1, 7, 7, 1},          {1, 0, 14, 0}, /* never more than it is */
		{1, 0, 1, 0},          {1, 14, 0, 16384},
		{3, 14, 0, 49152},     {4, 14, 0, 65535}, /* more than the field holds */
		{65535, 14, 0, 65535}, {65535, 14, 14, 65535},
		{65535, 0, 14, 3},     {16383, 0, 14, 0},
		{16384, 0, 14, 1},     {32767, 0, 14, 1},
		{32768, 0, 14, 2},     {255, 7, 8, 127},
		{256, 7, 8, 128},      {40000, 8, 7, 65535},
		{32767, 8, 7, 65534},  {32768, 8, 7, 65535},
		{501, 7, 10, 62},
	};

	room_required();
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct segment s = segment_of(false, 1, 0), want;
		char name[64];

		pair_open(false, LB_GRAFT_FULL);
		grafts[PAIR].leg[1].wscale_in = rows[i].wscale_in;
		grafts[PAIR].leg[1].wscale_out = rows[i].wscale_out;
		s.window = rows[i].in;
		want = forwarded(&s, 1);
		want.window = rows[i].out;
		snprintf(name, sizeof(name), "window %u << %u >> %u", rows[i].in, rows[i].wscale_in,
			 rows[i].wscale_out);
		assert_becomes(name, &s, &want);
	}
}

static void equal_scales_change_no_window(void **state)
{
	room_required();
	for (uint8_t scale = 0; scale <= 14; scale++) {
		struct segment s = segment_of(false, 0, 0), want;

		pair_open(false, LB_GRAFT_FULL);
		grafts[PAIR].leg[0].wscale_in = grafts[PAIR].leg[0].wscale_out = scale;
		s.window = (uint16_t)(4321 + scale);
		want = forwarded(&s, 0);
		assert_becomes("window", &s, &want);
	}
}

/* --- clocks -------------------------------------------------------------------------------- */

static uint32_t clock_ms(void)
{
	return (uint32_t)(lb_clock_ns() / 1000000);
}

static void the_first_packet_fixes_the_distance_of_the_clock(void **state)
{
	struct segment s = segment_of(false, 0, 100), want;
	struct lb_graft_leg *leg;
	uint32_t before, value;

	room_required();
	leg = &pair_open(false, LB_GRAFT_FULL)->leg[0];
	leg->ts_shift = 0;
	leg->ts_clock = 0xffffff00u;
	s.opt = (struct options)OPT(NOP, NOP, TS(1000, TS_LEG1 + 5));
	before = clock_ms();
	forward_segment(&s);
	value = 1000 + leg->ts_shift;
	assert_in_range(value - 0xffffff00u - before, 0, clock_ms() - before);
	/* From here on it is a distance, whatever our clock says. */
	s.opt = (struct options)OPT(NOP, NOP, TS(1500, TS_LEG1 + 6));
	want = forwarded(&s, 0);
	want.opt = (struct options)OPT(NOP, NOP, TS(value + 500, 6));
	assert_becomes("second", &s, &want);
	s.opt = (struct options)OPT(NOP, TS(1501, TS_LEG1 + 7), NOP);
	want.opt = (struct options)OPT(NOP, TS(value + 501, 7), NOP);
	assert_becomes("third, in another layout", &s, &want);
}

static void an_echo_is_0_while_the_other_clock_is_unknown(void **state)
{
	const struct options in[] = {OPT(NOP, NOP, T_IN), OPT(T_IN, NOP, NOP)};
	const struct options out[] = {OPT(NOP, NOP, TS(V + TS_LEG0, 0)),
				      OPT(TS(V + TS_LEG0, 0), NOP, NOP)};

	room_required();
	for (size_t i = 0; i < 2; i++) {
		struct segment s = segment_of(false, 0, 100), want;

		pair_open(false, LB_GRAFT_FULL)->leg[1].ts_shift = 0;
		s.opt = in[i];
		want = forwarded(&s, 0);
		want.opt = out[i];
		assert_becomes("echo", &s, &want);
		assert_int_equal(grafts[PAIR].leg[1].ts_shift, 0);
	}
}

static void without_timestamps_no_clock_is_fixed(void **state)
{
	struct segment s = segment_of(false, 0, 100);

	room_required();
	pair_open(false, LB_GRAFT_FULL)->leg[0].ts_shift = 0;
	forward_segment(&s);
	s.opt = (struct options)OPT(NOP, NOP, SACK1(A(0), A(9)));
	forward_segment(&s);
	assert_int_equal(grafts[PAIR].leg[0].ts_shift, 0);
}

/* Or a stranger's clock, guessed into an idle flow, would rule over the peer's own (PAWS). */
static void only_a_credible_packet_fixes_the_clock(void **state)
{
	const struct {
		const char *name;
		uint8_t flags;
		uint32_t seq, ack;
	} rows[] = {
		{"SYN", SYN, 0, 0},
		{"RST", RST | ACK, 0, 0},
		{"no acknowledgement", PSH, 0, 0},
		{"acknowledges beyond the window", ACK, 0, 50001},
		{"acknowledges the past", ACK, 0, (uint32_t)-70000},
		{"sequence number beyond the window", ACK, 50001, 0},
		{"sequence number of the past", ACK, (uint32_t)-2, 0},
	};

	room_required();
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct segment s = segment_of(false, 0, 0);

		pair_open(false, LB_GRAFT_FULL)->leg[0].ts_shift = 0;
		s.flags = rows[i].flags;
		s.seq += rows[i].seq;
		s.ack += rows[i].ack;
		s.opt = (struct options)OPT(NOP, NOP, T_IN);
		forward_segment(&s);
		if (grafts[PAIR].leg[0].ts_shift)
			fail_msg("%s: fixed the clock", rows[i].name);
	}
}

/* --- the way ------------------------------------------------------------------------------- */

static void a_hop_is_counted_only_when_the_packet_leaves_this_host(void **state)
{
	room_required();
	for (int i = 0; i < 8; i++) {
		bool ipv6 = i & 1, remote = i & 2;
		struct segment s = segment_of(ipv6, 0, 10), want;
		uint8_t hops = i & 4 ? 2 : 1;
		uint64_t dropped = counted(LB_GRAFT_COUNT_HOP_LIMIT);
		struct frame_bytes w;
		struct result r;

		pair_open(ipv6, LB_GRAFT_FULL)->leg[0].ifindex = remote ? REMOTE : LOCAL;
		s.ttl = hops;
		want = forwarded(&s, 0);
		r = send_segment(&s);
		if (remote && hops == 1) {
			assert_int_equal(r.code, TC_ACT_SHOT);
			assert_int_equal(counted(LB_GRAFT_COUNT_HOP_LIMIT), dropped + 1);
			assert_int_equal(grafts[PAIR].leg[0].packets, 0);
			continue;
		}
		/* It arrived on loopback: there it may stay. */
		assert_int_equal(r.code, remote ? TC_ACT_REDIRECT : TC_ACT_UNSPEC);
		w = build(&want);
		assert_frame("hop", &r.frame, &w, 0);
		assert_int_equal(r.frame.b[ETH_LEN + (ipv6 ? 7 : 8)], hops - remote);
	}
}

static void padding_is_no_payload(void **state)
{
	room_required();
	for (size_t payload = 0; payload < 6; payload += 5) {
		struct segment s = segment_of(false, 0, payload), want;

		pair_open(false, LB_GRAFT_FULL);
		s.padding = 6 - payload; /* a frame of at least 60 bytes */
		want = forwarded(&s, 0);
		assert_becomes("padding", &s, &want);
		assert_int_equal(grafts[PAIR].leg[0].bytes, 1000 + payload);
	}
}

/* --- not ours, or not to be forwarded ------------------------------------------------------ */

static void what_is_not_ours_is_left_alone(void **state)
{
	struct frame_bytes f;
	struct segment s;

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		for (int field = 0; field < 5; field++) {
			pair_open(ipv6, LB_GRAFT_FULL);
			s = segment_of(ipv6, 0, 100);
			s.from.addr[15] ^= field == 0;
			s.to.addr[15] ^= field == 1;
			s.from.port ^= field == 2;
			s.to.port ^= field == 3;
			f = build(&s);
			if (field == 4) /* UDP */
				f.b[ETH_LEN + (ipv6 ? 6 : 9)] = 17;
			assert_untouched("a stranger", &f);
		}
		s = segment_of(ipv6, 0, 100);
		f = build(&s);
		put16(f.b + 12, 0x0806);
		assert_untouched("ARP", &f);
		put16(f.b + 12, ipv6 ? 0x0800 : 0x86dd);
		assert_untouched("the wrong version", &f);
		put16(f.b + 12, 0x8100); /* a tag that is still in the frame */
		assert_untouched("VLAN", &f);
	}
	assert_int_equal(grafts[PAIR].leg[0].packets, 0);
}

static void a_free_pair_is_left_alone(void **state)
{
	struct frame_bytes f;
	struct segment s = segment_of(false, 0, 100);

	room_required();
	pair_open(false, LB_GRAFT_FREE);
	f = build(&s);
	assert_untouched("free", &f);
	assert_int_equal(grafts[PAIR].leg[0].flags, 0);
	grafts[PAIR].stage = LB_GRAFT_FULL + 1;
	assert_untouched("of another version", &f);
}

static const uint8_t ip_options[] = {1, 1, 1, 0};
static const uint8_t dest_options[] = {6, 0, 1, 4, 0, 0, 0, 0};
static const uint8_t chain[] = {43, 0, 1, 4, 0, 0, 0, 0, 60, 0, 0, 0, 0, 0, 0, 0,
				6,  1, 1, 4, 0, 0, 0, 0, 1,  4, 0, 0, 0, 0, 0, 0};
static const uint8_t fragment_first[] = {6, 0, 0, 1, 0, 0, 0, 9};
static const uint8_t fragment_later[] = {6, 0, 0, 9, 0, 0, 0, 9};
static const uint8_t fragment_only[] = {6, 0, 0, 0, 0, 0, 0, 9};

/* Packets that cannot be forwarded without more. ours: seen as one of the leg's. */
static const struct {
	const char *name;
	bool ipv6;
	uint16_t frag;
	const uint8_t *between;
	size_t between_n;
	uint8_t next;
	bool ours;
} irregular[] = {
	{"IP options", false, 0, ip_options, sizeof(ip_options), 0, true},
	{"first fragment", false, 0x2000, NULL, 0, 0, true},
	{"middle fragment", false, 0x2001, NULL, 0, 0, false},
	{"last fragment", false, 0x0001, NULL, 0, 0, false},
	{"destination options", true, 0, dest_options, sizeof(dest_options), 60, true},
	{"hop-by-hop, routing, destination options", true, 0, chain, sizeof(chain), 0, true},
	{"first IPv6 fragment", true, 0, fragment_first, sizeof(fragment_first), 44, true},
	{"later IPv6 fragment", true, 0, fragment_later, sizeof(fragment_later), 44, false},
	{"atomic IPv6 fragment", true, 0, fragment_only, sizeof(fragment_only), 44, true},
	{"an unknown extension", true, 0, dest_options, sizeof(dest_options), 135, false},
};

static struct segment irregular_segment(size_t i)
{
	struct segment s = segment_of(irregular[i].ipv6, 0, 100);

	s.frag = irregular[i].frag;
	s.between = irregular[i].between;
	s.between_n = irregular[i].between_n;
	s.next = irregular[i].next;
	return s;
}

static void irregular_packets_are_noted_before_and_dropped_after(void **state)
{
	room_required();
	for (size_t i = 0; i < sizeof(irregular) / sizeof(*irregular); i++) {
		struct segment s = irregular_segment(i);
		uint64_t dropped = counted(LB_GRAFT_COUNT_IRREGULAR);
		struct frame_bytes f = build(&s);
		struct lb_graft *g = pair_open(irregular[i].ipv6, LB_GRAFT_PASS);

		assert_untouched(irregular[i].name, &f);
		assert_int_equal(g->leg[0].flags,
				 irregular[i].ours ? LB_GRAFT_SEEN | LB_GRAFT_IRREGULAR : 0);
		g->stage = LB_GRAFT_FULL;
		if (!irregular[i].ours) {
			assert_untouched(irregular[i].name, &f);
			continue;
		}
		if (run(&f).code != TC_ACT_SHOT)
			fail_msg("%s: not dropped", irregular[i].name);
		assert_int_equal(counted(LB_GRAFT_COUNT_IRREGULAR), dropped + 1);
	}
}

static void before_the_graft_packets_are_seen_and_left_alone(void **state)
{
	room_required();
	for (uint32_t i = 0; i < 4; i++) {
		struct segment s = segment_of(i >> 1, i & 1, 100);
		struct frame_bytes f = build(&s);
		struct lb_graft *g = pair_open(i >> 1, LB_GRAFT_PASS);

		assert_untouched("PASS", &f);
		assert_int_equal(g->leg[i & 1].flags, LB_GRAFT_SEEN);
		assert_int_equal(g->leg[!(i & 1)].flags, 0);
		assert_int_equal(g->leg[i & 1].packets, 0);
	}
}

/* A packet without a whole TCP header has no ports: not ours. With one, it is a leg's. */
static void a_packet_cut_short_anywhere_does_no_harm(void **state)
{
	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct segment s = segment_of(ipv6, 0, 20);
		size_t ports = ETH_LEN + (ipv6 ? IP6_LEN : IP4_LEN) + TCP_LEN;
		struct frame_bytes whole;

		s.opt = (struct options)OPT(NOP, NOP, T_IN);
		whole = build(&s);
		for (size_t n = ETH_LEN; n < whole.n; n++) {
			struct frame_bytes f = whole;
			int code;

			pair_open(ipv6, LB_GRAFT_FULL);
			f.n = n;
			code = run(&f).code;
			/* The kernel itself refuses to run without an IP header. */
			if (code < 0 && n < ports - TCP_LEN)
				continue;
			if (code != (n < ports ? TC_ACT_UNSPEC : TC_ACT_SHOT))
				fail_msg("%zu bytes: %d", n, code);
			assert_int_equal(grafts[PAIR].leg[0].bytes, 1000);
		}
	}
}

static void lengths_that_contradict_each_other_are_not_forwarded(void **state)
{
	const struct {
		const char *name;
		size_t at;
		uint8_t value;
		int code;
	} rows[] = {
		{"IP header of 16 bytes", ETH_LEN, 0x44, TC_ACT_UNSPEC},
		{"TCP header of 16 bytes", ETH_LEN + IP4_LEN + 12, 0x40, TC_ACT_SHOT},
		{"TCP header beyond the packet", ETH_LEN + IP4_LEN + 12, 0xf0, TC_ACT_SHOT},
		{"IP length beyond the frame", ETH_LEN + 2, 0x01, TC_ACT_SHOT},
		{"IP length inside the TCP header", ETH_LEN + 3, 39, TC_ACT_SHOT},
	};

	room_required();
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct segment s = segment_of(false, 0, 20);
		struct frame_bytes f = build(&s);
		int code;

		pair_open(false, LB_GRAFT_FULL);
		f.b[rows[i].at] = rows[i].value;
		code = run(&f).code;
		if (code != rows[i].code)
			fail_msg("%s: %d", rows[i].name, code);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_layout_of_options_is_rewritten),
		cmocka_unit_test(a_syn_goes_on_with_a_number_of_the_past_and_no_options),
		cmocka_unit_test(payloads_of_all_sizes_cross_both_ways),
		cmocka_unit_test(everything_else_in_the_header_stays),
		cmocka_unit_test(sequence_numbers_wrap),
		cmocka_unit_test(without_an_acknowledgement_the_field_is_left_alone),
		cmocka_unit_test(windows_change_their_scale),
		cmocka_unit_test(equal_scales_change_no_window),
		cmocka_unit_test(the_first_packet_fixes_the_distance_of_the_clock),
		cmocka_unit_test(an_echo_is_0_while_the_other_clock_is_unknown),
		cmocka_unit_test(without_timestamps_no_clock_is_fixed),
		cmocka_unit_test(only_a_credible_packet_fixes_the_clock),
		cmocka_unit_test(a_hop_is_counted_only_when_the_packet_leaves_this_host),
		cmocka_unit_test(padding_is_no_payload),
		cmocka_unit_test(what_is_not_ours_is_left_alone),
		cmocka_unit_test(a_free_pair_is_left_alone),
		cmocka_unit_test(irregular_packets_are_noted_before_and_dropped_after),
		cmocka_unit_test(before_the_graft_packets_are_seen_and_left_alone),
		cmocka_unit_test(a_packet_cut_short_anywhere_does_no_harm),
		cmocka_unit_test(lengths_that_contradict_each_other_are_not_forwarded),
	};

	return cmocka_run_group_tests(tests, graft_setup, graft_teardown);
}
