/* SPDX-License-Identifier: MIT */
/*
 * tc_graft: "too big for the way" reaches who sent the packet, in that peer's terms; and nobody can
 * shrink a flow's packets who does not know what is under way.
 */
#include "tc_graft.h"

#define FLYING   500u /* bytes that leg 0's and leg 1's peer each have under way */
#define ICMP_LEN 8u
#define MTU      1280u
#define WHOLE    (~(size_t)0)
#define ROUTER   V4_END(192, 0, 2, 1, 0)
#define ROUTER_6 V6_END(9, 9, 0)

struct message {
	bool ipv6;
	struct end from, to;
	uint8_t ttl, type, code;
	const uint8_t *about; /* an IP packet or its start */
	size_t about_n;
};

static struct frame_bytes build_message(const struct message *m)
{
	struct segment outer = {.ipv6 = m->ipv6, .from = m->from, .to = m->to, .ttl = m->ttl};
	size_t n = ICMP_LEN + m->about_n, ip_len;
	struct frame_bytes f = {};
	uint8_t *ip = f.b + ETH_LEN, *icmp;
	uint32_t sum = 0;

	memset(f.b, 0x02, 12);
	put16(f.b + 12, m->ipv6 ? 0x86dd : 0x0800);
	ip_len = build_ip(&outer, ip, n);
	ip[m->ipv6 ? 6 : 9] = m->ipv6 ? 58 : 1;
	if (m->ipv6)
		sum = pseudo_sum(true, ip, 58, n);
	else {
		put16(ip + 10, 0);
		put16(ip + 10, (uint16_t)~sum16(ip, ip_len, 0));
	}
	icmp = ip + ip_len;
	icmp[0] = m->type;
	icmp[1] = m->code;
	put32(icmp + 4, MTU);
	memcpy(icmp + ICMP_LEN, m->about, m->about_n);
	put16(icmp + 2, (uint16_t)~sum16(icmp, n, sum));
	f.n = ETH_LEN + ip_len + n;
	return f;
}

/* Both peers have sent FLYING bytes that nobody has acknowledged yet. */
static struct lb_graft *flight_open(bool ipv6, uint32_t stage)
{
	struct lb_graft *g = pair_open(ipv6, stage);

	g->leg[0].seq_end += FLYING;
	g->leg[1].seq_end += FLYING;
	return g;
}

/* A router's word, to us, about the first <n> bytes of what <sent> of leg <leg> became. */
static struct message about(const struct frame_bytes *became, bool ipv6, uint32_t leg, size_t n)
{
	return (struct message){
		.ipv6 = ipv6,
		.from = ipv6 ? ROUTER_6 : ROUTER,
		.to = us_on(ipv6, !leg),
		.ttl = 60,
		.type = ipv6 ? 2 : 3,
		.code = ipv6 ? 0 : 4,
		.about = became->b + ETH_LEN,
		.about_n = n < became->n - ETH_LEN ? n : became->n - ETH_LEN,
	};
}

static struct frame_bytes became(const struct segment *sent, uint32_t leg)
{
	struct segment e = forwarded(sent, leg);

	e.ttl = 50; /* a few hops later */
	return build(&e);
}

/* What leg <leg>'s peer must hear. Beyond the numbers it needs the bytes are the router's. */
static struct frame_bytes heard(const struct segment *sent, const struct message *m, uint32_t leg)
{
	size_t known = (sent->ipv6 ? IP6_LEN : IP4_LEN) + 8;
	uint8_t packet[FRAME_MAX];
	struct segment s = *sent;
	struct message h = *m;
	struct frame_bytes f;

	s.ttl = 50;
	f = build(&s);
	memcpy(packet, m->about, m->about_n);
	memcpy(packet, f.b + ETH_LEN, known);
	h.about = packet;
	h.from = us_on(sent->ipv6, leg);
	h.to = peer_of(sent->ipv6, leg);
	h.ttl -= grafts[PAIR].leg[!leg].ifindex != 0;
	return build_message(&h);
}

static void the_sender_hears_of_its_own_packet(void **state)
{
	const size_t lengths[] = {0, 1, 12, 32, 520, WHOLE};

	room_required();
	for (uint32_t i = 0; i < 8; i++) {
		uint32_t ipv6 = i & 1, leg = i >> 1 & 1, remote = i >> 2 & 1;
		uint64_t told = counted(LB_GRAFT_COUNT_ICMP);

		for (size_t j = 0; j < sizeof(lengths) / sizeof(*lengths); j++) {
			struct segment s = segment_of(ipv6, leg, 1400);
			size_t sure = (ipv6 ? IP6_LEN : IP4_LEN) + 8;
			struct lb_graft *g = flight_open(ipv6, LB_GRAFT_FULL);
			struct frame_bytes b = became(&s, leg), in, want;
			struct message m;
			struct result r;

			g->leg[!leg].ifindex = remote ? REMOTE : LOCAL;
			m = about(&b, ipv6, leg, lengths[j] == WHOLE ? WHOLE : sure + lengths[j]);
			in = build_message(&m);
			want = heard(&s, &m, leg);
			r = run(&in);
			assert_int_equal(r.code, remote ? TC_ACT_REDIRECT : TC_ACT_UNSPEC);
			assert_frame("too big", &r.frame, &want, 0);
		}
		assert_true(counted(LB_GRAFT_COUNT_ICMP) > told);
	}
}

static void our_own_stack_hears_it_too_while_it_has_a_socket(void **state)
{
	room_required();
	for (uint32_t ipv6 = 0; ipv6 < 2; ipv6++) {
		struct segment s = segment_of(ipv6, 0, 1400);
		struct frame_bytes b, in, want, out;
		struct message m;

		flight_open(ipv6, LB_GRAFT_SPLIT);
		b = became(&s, 0);
		m = about(&b, ipv6, 0, 100);
		in = build_message(&m);
		want = heard(&s, &m, 0);
		/* The mark is what the clone went up with. */
		assert_int_equal(run_raw(&in, &out, 0, 1), TC_ACT_REDIRECT);
		assert_memory_equal(out.b + 6, MARK, 6);
		assert_frame("too big", &out, &want, 12);
		/* .. and what lets it through. */
		memcpy(in.b + 6, MARK, 6);
		assert_untouched("clone", &in);
	}
}

static void only_what_is_under_way_is_believed(void **state)
{
	const struct {
		uint32_t offset;
		bool believed;
	} rows[] = {
		{1000, true},        {1001, true},        {1000 + FLYING - 1, true},
		{999, false},        {0, false},          {1000 + FLYING, false},
		{0x40000000, false}, {0x80000000, false}, {0xc0000000, false},
	};

	room_required();
	for (uint32_t ipv6 = 0; ipv6 < 2; ipv6++) {
		for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
			struct segment s = segment_of(ipv6, 1, 1400);
			struct frame_bytes b, in;
			struct message m;

			flight_open(ipv6, LB_GRAFT_FULL);
			s.seq = in_of[1] + rows[i].offset;
			b = became(&s, 1);
			m = about(&b, ipv6, 1, WHOLE);
			in = build_message(&m);
			if (!rows[i].believed)
				assert_untouched("not under way", &in);
			else
				assert_int_equal(run(&in).code, TC_ACT_REDIRECT);
		}
	}
}

static void with_nothing_under_way_nothing_is_believed(void **state)
{
	struct segment s = segment_of(false, 0, 1400);
	struct frame_bytes b, in;
	struct message m;
	struct lb_graft *g;

	room_required();
	g = pair_open(false, LB_GRAFT_FULL);
	b = became(&s, 0);
	m = about(&b, false, 0, WHOLE);
	in = build_message(&m);
	assert_untouched("idle", &in);
	/* Acknowledged beyond what the books have seen. */
	g->leg[1].ack_max++;
	assert_untouched("behind", &in);
}

static void messages_before_the_graft_go_to_our_stack(void **state)
{
	const uint32_t stages[] = {LB_GRAFT_FREE, LB_GRAFT_PASS};

	room_required();
	for (size_t i = 0; i < 4; i++) {
		struct segment s = segment_of(i & 1, 0, 1400);
		struct frame_bytes b, in;
		struct message m;

		flight_open(i & 1, stages[i / 2]);
		b = became(&s, 0);
		m = about(&b, i & 1, 0, WHOLE);
		in = build_message(&m);
		assert_untouched("before", &in);
		assert_int_equal(grafts[PAIR].leg[1].flags, 0);
	}
}

/* One byte of a good message, changed. At offsets from the outer IP header. */
static void messages_of_any_other_kind_are_left_alone(void **state)
{
	const struct {
		const char *name;
		bool ipv6;
		size_t at;
		uint8_t value;
	} rows[] = {
		{"echo request", false, IP4_LEN, 8},
		{"port unreachable", false, IP4_LEN + 1, 3},
		{"IP options", false, 0, 0x46},
		{"a fragment", false, 6, 0x20},
		{"a later fragment", false, 7, 1},
		{"cut short", false, 3, 55},
		{"to somebody else", false, 19, 99},
		{"about UDP", false, IP4_LEN + ICMP_LEN + 9, 17},
		{"about IPv6", false, IP4_LEN + ICMP_LEN, 0x65},
		{"about IP options", false, IP4_LEN + ICMP_LEN, 0x46},
		{"about a later fragment", false, IP4_LEN + ICMP_LEN + 7, 1},
		{"from an address of no leg", false, IP4_LEN + ICMP_LEN + 15, 99},
		{"to another address", false, IP4_LEN + ICMP_LEN + 19, 99},
		{"from another port", false, IP4_LEN + ICMP_LEN + IP4_LEN, 99},
		{"to another port", false, IP4_LEN + ICMP_LEN + IP4_LEN + 3, 99},
		{"no hop left", false, 8, 1},
		{"time exceeded", true, IP6_LEN, 3},
		{"an unknown code", true, IP6_LEN + 1, 1},
		{"cut short", true, 5, 55},
		{"to somebody else", true, 39, 99},
		{"about UDP", true, IP6_LEN + ICMP_LEN + 6, 17},
		{"about IPv4", true, IP6_LEN + ICMP_LEN, 0x45},
		{"to another address", true, IP6_LEN + ICMP_LEN + 39, 99},
		{"from another port", true, IP6_LEN + ICMP_LEN + IP6_LEN, 99},
		{"no hop left", true, 7, 1},
	};

	room_required();
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct segment s = segment_of(rows[i].ipv6, 0, 1400);
		struct frame_bytes b, in;
		struct message m;

		flight_open(rows[i].ipv6, LB_GRAFT_FULL);
		b = became(&s, 0);
		m = about(&b, rows[i].ipv6, 0, (rows[i].ipv6 ? IP6_LEN : IP4_LEN) + 8);
		in = build_message(&m);
		in.b[ETH_LEN + rows[i].at] = rows[i].value;
		assert_untouched(rows[i].name, &in);
	}
}

static void a_message_cut_short_anywhere_is_left_alone(void **state)
{
	room_required();
	for (uint32_t ipv6 = 0; ipv6 < 2; ipv6++) {
		struct segment s = segment_of(ipv6, 0, 1400);
		struct frame_bytes b, in, out;
		struct message m;

		flight_open(ipv6, LB_GRAFT_FULL);
		b = became(&s, 0);
		m = about(&b, ipv6, 0, (ipv6 ? IP6_LEN : IP4_LEN) + 8);
		in = build_message(&m);
		for (in.n--; in.n > ETH_LEN; in.n--) {
			int code = run_raw(&in, &out, 0, 1);

			/* The kernel itself refuses to run without an IP header. */
			if (code != TC_ACT_UNSPEC && in.n >= ETH_LEN + (ipv6 ? IP6_LEN : IP4_LEN))
				fail_msg("%zu bytes: %d", in.n, code);
		}
	}
}

/* Sums are mended, not made. */
static void a_damaged_message_stays_damaged(void **state)
{
	room_required();
	for (uint32_t ipv6 = 0; ipv6 < 2; ipv6++) {
		struct segment s = segment_of(ipv6, 0, 1400);
		size_t mtu = ETH_LEN + (ipv6 ? IP6_LEN : IP4_LEN) + 7;
		struct frame_bytes b, in, want;
		struct message m;
		struct result r;

		flight_open(ipv6, LB_GRAFT_FULL);
		b = became(&s, 0);
		m = about(&b, ipv6, 0, WHOLE);
		in = build_message(&m);
		want = heard(&s, &m, 0);
		in.b[mtu] ^= 0x40;
		want.b[mtu] ^= 0x40;
		r = run(&in);
		assert_frame("damaged", &r.frame, &want, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_sender_hears_of_its_own_packet),
		cmocka_unit_test(our_own_stack_hears_it_too_while_it_has_a_socket),
		cmocka_unit_test(only_what_is_under_way_is_believed),
		cmocka_unit_test(with_nothing_under_way_nothing_is_believed),
		cmocka_unit_test(messages_before_the_graft_go_to_our_stack),
		cmocka_unit_test(messages_of_any_other_kind_are_left_alone),
		cmocka_unit_test(a_message_cut_short_anywhere_is_left_alone),
		cmocka_unit_test(a_damaged_message_stays_damaged),
	};

	return cmocka_run_group_tests(tests, graft_setup, graft_teardown);
}
