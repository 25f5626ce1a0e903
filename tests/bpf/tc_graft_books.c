/* SPDX-License-Identifier: MIT */
/*
 * tc_graft: the books of a flow that only the program sees: exact bytes, who has closed, who has
 * reset, and what a stranger who guesses numbers can do to them (nothing).
 */
#include "tc_graft.h"

#define WINDOW 50000u /* what each peer can take beyond its acknowledgement, see pair_open() */

/* <payload> bytes at <offset> of the stream of <leg>'s peer; it has seen the other's 1000 bytes. */
static struct segment data_at(uint32_t leg, uint32_t offset, size_t payload)
{
	struct segment s = segment_of(false, leg, payload);

	s.seq = in_of[leg] + offset;
	s.window = (uint16_t)WINDOW;
	return s;
}

static void send_data(uint32_t leg, uint32_t offset, size_t payload, uint8_t flags)
{
	struct segment s = data_at(leg, offset, payload);

	s.flags |= flags;
	forward_segment(&s);
}

/* <leg>'s peer has everything up to <offset> of the other one's stream. */
static void send_ack(uint32_t leg, uint32_t offset)
{
	struct segment s = data_at(leg, 1000, 0);

	s.ack = out_of[leg] + offset;
	forward_segment(&s);
}

static void send_reset(uint32_t leg, uint32_t offset)
{
	struct segment s = data_at(leg, offset, 0);

	s.flags = RST;
	s.ack = 0;
	forward_segment(&s);
}

/* --- bytes --------------------------------------------------------------------------------- */

static void every_byte_is_counted_once(void **state)
{
	const struct {
		uint32_t offset;
		size_t payload;
		uint64_t bytes;
	} rows[] = {
		{1000, 100, 1100}, {1000, 100, 1100},  /* again */
		{900, 100, 1100},                      /* from before */
		{1050, 100, 1150},                     /* half of it is new */
		{900, 350, 1250},                      /* all of it and more */
		{1350, 100, 1450},                     /* the one before is missing .. */
		{1250, 100, 1450},                     /* .. and comes later */
		{1450, 0, 1450},   {4000, 1000, 5000}, /* this leg wraps at 4096 */
	};

	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct lb_graft *g = pair_open(ipv6, LB_GRAFT_FULL);

		for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
			struct segment s = segment_of(ipv6, 0, rows[i].payload);

			s.seq = in_of[0] + rows[i].offset;
			forward_segment(&s);
			assert_int_equal(g->leg[0].bytes, rows[i].bytes);
			assert_int_equal(g->leg[0].packets, i + 1);
		}
		assert_int_equal(g->leg[0].seq_end, in_of[0] + 5000);
		assert_int_equal(g->leg[1].bytes, 1000);
	}
}

static void segments_the_card_has_merged_count_as_many(void **state)
{
	struct segment s = segment_of(false, 0, 1000);
	struct frame_bytes f, out;
	struct __sk_buff ctx = {.gso_segs = 3, .gso_size = 400};
	struct lb_graft *g;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = f.b, .data_out = out.b,
		    .data_size_out = sizeof(out.b), .ctx_in = &ctx, .ctx_size_in = sizeof(ctx));

	room_required();
	f = build(&s);
	opts.data_size_in = (uint32_t)f.n;
	g = pair_open(false, LB_GRAFT_FULL);
	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(skel->progs.tc_graft), &opts), 0);
	assert_int_equal(g->leg[0].packets, 3);
	assert_int_equal(g->leg[0].bytes, 2000);
}

static void data_outside_the_window_is_not_believed(void **state)
{
	const uint32_t offsets[] = {1000 + WINDOW + 1, 0x7fff0000, 0x80000000, 0x90000000,
				    (uint32_t)-1000};
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		send_data(0, offsets[i], 100, 0);
		send_data(0, offsets[i], 100, FIN);
		assert_int_equal(g->leg[0].bytes, 1000);
		assert_int_equal(g->leg[0].seq_end, in_of[0] + 1000);
		assert_int_equal(g->leg[0].flags, 0);
	}
	assert_int_equal(g->leg[0].packets, 2 * sizeof(offsets) / sizeof(*offsets));
}

/*
 * Some stacks probe a closed window with a byte: an honest peer may end beyond the edge. Not to
 * believe it would be for ever: every acknowledgement from then on lies beyond what was believed.
 */
static void books_go_on_after_a_segment_that_ended_beyond_the_window(void **state)
{
	const uint32_t windows[] = {0, 50};

	room_required();
	for (size_t i = 0; i < 2; i++) {
		struct lb_graft *g = pair_open(false, LB_GRAFT_FULL);

		g->leg[1].edge = g->leg[1].ack_max + windows[i];
		send_data(0, 1000, 128, 0);
		assert_int_equal(g->leg[0].bytes, 1128);
		send_ack(1, 1128);
		assert_int_equal(g->leg[1].ack_max, out_of[1] + 1128);
		send_data(0, 1128, 1000, FIN);
		assert_int_equal(g->leg[0].bytes, 2128);
		assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN);
	}
}

/* Between the daemon's look at the sockets and the first forwarded packet they still get some. */
static void books_that_start_behind_catch_up(void **state)
{
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	send_ack(1, 4000);
	assert_int_equal(g->leg[1].ack_max, out_of[1] + 1000);
	send_data(0, 4000, 100, 0);
	assert_int_equal(g->leg[0].bytes, 4100);
	send_ack(1, 4100);
	assert_int_equal(g->leg[1].ack_max, out_of[1] + 4100);
	/* Or with the close. */
	g = pair_open(false, LB_GRAFT_FULL);
	send_data(0, 4000, 0, FIN);
	send_ack(1, 4001);
	assert_int_equal(g->leg[0].bytes, 4000);
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED);
}

static void packets_leave_their_times(void **state)
{
	struct lb_graft_leg *leg;
	uint64_t first, now, before;

	room_required();
	leg = &pair_open(false, LB_GRAFT_FULL)->leg[0];
	now = lb_clock_ns();
	send_ack(0, 1000);
	first = leg->last_ns;
	/* A jiffy is at most 10 ms. */
	assert_in_range(first, now - 10 * 1000000, lb_clock_ns());
	assert_int_equal(leg->data_ns, 0);
	assert_int_equal(leg->first_ns, 0);
	leg->last_ns = 1;
	before = lb_clock_ns();
	send_data(0, 1000, 1, 0);
	assert_true(leg->last_ns >= first);
	assert_true(leg->data_ns >= first);
	assert_in_range(leg->first_ns, before, lb_clock_ns());
	/* The first payload keeps its time, whatever comes after it. */
	before = leg->first_ns;
	send_data(0, 1001, 1, 0);
	assert_int_equal(leg->first_ns, before);
	/* A reset is no sign of life. */
	leg->last_ns = leg->data_ns = 1;
	send_reset(0, 5000);
	assert_int_equal(leg->last_ns, 1);
	assert_int_equal(leg->data_ns, 1);
	assert_int_equal(grafts[PAIR].leg[1].first_ns, 0);
}

/* --- acknowledgements ---------------------------------------------------------------------- */

static void acknowledgements_move_the_edge(void **state)
{
	struct lb_graft *g;
	struct segment s;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	g->leg[1].wscale_in = 4;
	send_data(0, 1000, 500, 0);
	s = data_at(1, 1000, 0);
	s.ack = out_of[1] + 1500;
	s.window = 10000;
	forward_segment(&s);
	assert_int_equal(g->leg[1].ack_max, out_of[1] + 1500);
	assert_int_equal(g->leg[1].edge, out_of[1] + 1500 + 160000);
	/* What was promised stays promised. */
	s.window = 10;
	forward_segment(&s);
	assert_int_equal(g->leg[1].edge, out_of[1] + 1500 + 160000);
}

static void an_acknowledgement_of_what_was_never_sent_is_not_believed(void **state)
{
	const uint32_t offsets[] = {1001, 1500, 0x70000000, 0x7fffffff};
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		send_ack(1, offsets[i]);
		assert_int_equal(g->leg[1].ack_max, out_of[1] + 1000);
		assert_int_equal(g->leg[1].edge, out_of[1] + 1000 + WINDOW);
	}
}

/* Half of all numbers are old ones: RFC 5961, 5. */
static void an_old_acknowledgement_opens_no_window(void **state)
{
	const uint32_t offsets[] = {999, 0, (uint32_t)-1000000, (uint32_t)-0x3fff0000};
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	g->leg[1].wscale_in = 14;
	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		send_ack(1, offsets[i]);
		assert_int_equal(g->leg[1].ack_max, out_of[1] + 1000);
		assert_int_equal(g->leg[1].edge, out_of[1] + 1000 + WINDOW);
	}
}

/* --- the end in good order ----------------------------------------------------------------- */

static void both_sides_close_and_one_event_tells(void **state)
{
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	send_data(0, 1000, 100, FIN);
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN);
	assert_int_equal(g->leg[0].fin_end, in_of[0] + 1101);
	send_ack(1, 1100); /* the data, not yet the FIN */
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN);
	send_ack(1, 1101);
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED);
	assert_int_equal(g->leg[1].ack_max, out_of[1] + 1101);
	/* Half-closed: the other direction goes on. */
	send_data(1, 1000, 700, 0);
	assert_int_equal(g->leg[1].bytes, 1700);
	assert_int_equal(events_since(), 0);
	send_data(1, 1700, 0, FIN);
	send_data(1, 1700, 0, FIN); /* again */
	assert_int_equal(g->leg[1].flags, LB_GRAFT_FIN);
	send_ack(0, 1701);
	assert_int_equal(g->leg[1].flags, LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED);
	assert_int_equal(events_since(), 1);
	send_ack(0, 1701);
	send_ack(1, 1101);
	assert_int_equal(events_since(), 0);
	assert_int_equal(g->leg[0].bytes, 1100);
	assert_int_equal(g->leg[1].bytes, 1700);
}

static void a_fin_before_missing_data_still_counts(void **state)
{
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	send_data(0, 1500, 100, FIN);
	send_data(0, 1000, 500, 0);
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN);
	assert_int_equal(g->leg[0].bytes, 1600);
	send_ack(1, 1601);
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED);
}

/* A stranger who hits the half of all numbers that lie behind the window must not end a flow. */
static void a_fin_of_the_past_is_none(void **state)
{
	const uint32_t offsets[] = {999, 500, 0, (uint32_t)-1000000, 0x80010000};
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	for (size_t i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
		send_data(0, offsets[i], 0, FIN);
		send_ack(1, 1000);
		assert_int_equal(g->leg[0].flags, 0);
	}
	/* Nor move the real one. */
	send_data(0, 1000, 0, FIN);
	send_data(0, 500, 0, FIN);
	assert_int_equal(g->leg[0].fin_end, in_of[0] + 1001);
}

static void a_fin_that_data_went_beyond_was_forged(void **state)
{
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	send_data(0, 1200, 0, FIN); /* in window */
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN);
	send_data(0, 1000, 1000, 0);
	assert_int_equal(g->leg[0].flags, 0);
	send_ack(1, 2000);
	assert_int_equal(g->leg[0].flags, 0);
	assert_int_equal(g->leg[0].bytes, 2000);
	send_data(0, 2000, 100, FIN);
	send_ack(1, 2101);
	assert_int_equal(g->leg[0].flags, LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED);
	assert_int_equal(g->leg[0].bytes, 2100);
}

/* --- resets -------------------------------------------------------------------------------- */

static void a_reset_counts_where_its_receiver_or_its_sender_stands(void **state)
{
	const struct {
		const char *name;
		bool fin;
		uint32_t offset;
		bool counts;
	} rows[] = {
		{"as the receiver expects", false, 1000, true},
		{"behind what was sent", false, 1300, true},
		{"in between", false, 1100, false},
		{"one short", false, 999, false},
		{"one too far", false, 1301, false},
		{"in the window", false, 20000, false},
		{"far away", false, 0x80000000, false},
		{"behind the FIN", true, 1301, true},
		{"at the FIN", true, 1300, false},
	};

	room_required();
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		for (uint32_t leg = 0; leg < 2; leg++) {
			struct lb_graft *g = pair_open(false, LB_GRAFT_FULL);
			uint32_t fin = rows[i].fin ? LB_GRAFT_FIN : 0;

			send_data(leg, 1000, 300, rows[i].fin ? FIN : 0);
			send_reset(leg, rows[i].offset);
			if (g->leg[leg].flags != (fin | (rows[i].counts ? LB_GRAFT_RST : 0)))
				fail_msg("%s: flags %x", rows[i].name, g->leg[leg].flags);
			assert_int_equal(g->leg[!leg].flags, 0);
			assert_int_equal(events_since(), rows[i].counts);
		}
	}
}

static void only_the_first_reset_is_told(void **state)
{
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	send_reset(1, 1000);
	send_reset(1, 1000);
	send_reset(0, 1000); /* the answer of a socket that is gone */
	assert_int_equal(g->leg[1].flags, LB_GRAFT_RST);
	assert_int_equal(g->leg[0].flags, 0);
	assert_int_equal(events_since(), 1);
}

static void an_event_that_finds_the_ring_full_is_counted(void **state)
{
	const unsigned int room =
		LB_GRAFT_RING_BYTES / 16; /* 8 bytes, and as many of the kernel's */
	struct segment s = data_at(0, 1000, 0);
	struct frame_bytes f, out;
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	s.flags = RST;
	f = build(&s);
	meta->lost = 0;
	for (unsigned int i = 0; i < room + 3; i++) {
		g->leg[0].flags = 0;
		assert_int_equal(run_raw(&f, &out, 0, 1), TC_ACT_REDIRECT);
	}
	assert_int_equal(events_since() + meta->lost, room + 3);
	assert_in_range(meta->lost, 3, 5);
}

/* --- the addresses are used again ---------------------------------------------------------- */

static void a_syn_on_a_live_pair_is_for_the_endpoint_to_judge(void **state)
{
	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct lb_graft *g = pair_open(ipv6, LB_GRAFT_FULL);
		struct segment s = segment_of(ipv6, 0, 0), want;

		s.flags = SYN;
		s.seq = 0x12345678;
		s.ack = 0;
		want = forwarded(&s, 0);
		want.seq = g->leg[1].ack_max - 1;
		assert_becomes("SYN", &s, &want);
		/* One side has closed: still alive. */
		g->leg[0].flags = LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED;
		assert_becomes("SYN, half-closed", &s, &want);
		assert_int_equal(g->leg[0].seq_end, in_of[0] + 1000);
		assert_int_equal(g->leg[0].last_ns > 0, true);
		assert_int_equal(events_since(), 0);
		assert_true(has_key(ipv6, 0) && has_key(ipv6, 1));
	}
}

static void a_syn_on_an_ended_pair_is_a_new_connection(void **state)
{
	room_required();
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t leg = i & 1, ipv6 = i >> 1 & 1;
		struct lb_graft *g = pair_open(ipv6, LB_GRAFT_FULL);
		struct segment s = segment_of(ipv6, leg, 0);
		struct frame_bytes f, out;

		for (uint32_t j = 0; j < 2; j++)
			g->leg[j].flags =
				i & 4 ? LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED : (j ? LB_GRAFT_RST : 0);
		s.flags = SYN;
		f = build(&s);
		assert_int_equal(run_raw(&f, &out, 0, 1), TC_ACT_UNSPEC);
		assert_frame("SYN", &out, &f, 0);
		assert_false(has_key(ipv6, 0) || has_key(ipv6, 1));
		assert_true(g->leg[leg].flags & LB_GRAFT_GONE);
		assert_false(g->leg[!leg].flags & LB_GRAFT_GONE);
		assert_int_equal(events_since(), 1);
		/* What follows is not ours. */
		assert_untouched("SYN", &f);
		assert_int_equal(events_since(), 0);
	}
}

static void the_last_words_of_an_ended_pair_are_forwarded(void **state)
{
	struct segment s = segment_of(false, 0, 0), want;

	room_required();
	pair_open(false, LB_GRAFT_FULL)->leg[1].flags = LB_GRAFT_RST;
	want = forwarded(&s, 0);
	assert_becomes("ACK", &s, &want);
	s.flags = SYN | ACK;
	want = forwarded(&s, 0);
	assert_becomes("SYN ACK", &s, &want);
	assert_true(has_key(false, 0) && has_key(false, 1));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_byte_is_counted_once),
		cmocka_unit_test(segments_the_card_has_merged_count_as_many),
		cmocka_unit_test(data_outside_the_window_is_not_believed),
		cmocka_unit_test(books_go_on_after_a_segment_that_ended_beyond_the_window),
		cmocka_unit_test(books_that_start_behind_catch_up),
		cmocka_unit_test(packets_leave_their_times),
		cmocka_unit_test(acknowledgements_move_the_edge),
		cmocka_unit_test(an_acknowledgement_of_what_was_never_sent_is_not_believed),
		cmocka_unit_test(an_old_acknowledgement_opens_no_window),
		cmocka_unit_test(both_sides_close_and_one_event_tells),
		cmocka_unit_test(a_fin_before_missing_data_still_counts),
		cmocka_unit_test(a_fin_of_the_past_is_none),
		cmocka_unit_test(a_fin_that_data_went_beyond_was_forged),
		cmocka_unit_test(a_reset_counts_where_its_receiver_or_its_sender_stands),
		cmocka_unit_test(only_the_first_reset_is_told),
		cmocka_unit_test(an_event_that_finds_the_ring_full_is_counted),
		cmocka_unit_test(a_syn_on_a_live_pair_is_for_the_endpoint_to_judge),
		cmocka_unit_test(a_syn_on_an_ended_pair_is_a_new_connection),
		cmocka_unit_test(the_last_words_of_an_ended_pair_are_forwarded),
	};

	return cmocka_run_group_tests(tests, graft_setup, graft_teardown);
}
