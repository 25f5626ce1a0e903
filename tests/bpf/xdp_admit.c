/* SPDX-License-Identifier: MIT */
/*
 * xdp_admit and tc_admit: what is taken for a SYN. Everybody is refused here, so that whatever is
 * judged is dropped: a frame that is not for us must pass all the same, whatever it looks like.
 */
#include "admit.h"

#define VLAN_Q  0x8100
#define VLAN_AD 0x88a8

static int refuse_all(void **state)
{
	if (admit_fresh(state) || room_missing[0])
		return 0;
	deny_all(RULE);
	return 0;
}

/* <count> VLAN tags of <kind> behind the addresses. */
static struct frame_bytes tagged(const struct segment *s, uint16_t kind, int count)
{
	struct frame_bytes f = build(s);

	for (int i = 0; i < count; i++) {
		memmove(f.b + 16, f.b + 12, f.n - 12);
		put16(f.b + 12, i == count - 1 ? kind : VLAN_Q);
		put16(f.b + 14, (uint16_t)(100 + i));
		f.n += 4;
	}
	return f;
}

/* Contract: as parse.bpf.h says it. Drops only at XDP: TC leaves tagged frames to their VLAN. */
static void vlan_tags_are_walked_over(void **state)
{
	room_required();
	for (int v6 = 0; v6 < 2; v6++) {
		struct segment s = syn_from(v6 ? CLIENT6 : CLIENT, 80);

		for (int count = 0; count <= 3; count++) {
			struct frame_bytes q = tagged(&s, VLAN_Q, count),
					   ad = tagged(&s, VLAN_AD, count);
			uint32_t want = count <= 2 ? XDP_DROP : XDP_PASS;

			assert_int_equal(answer(LB_ADMIT_HOOK_XDP, &q), want);
			assert_int_equal(answer(LB_ADMIT_HOOK_XDP, &ad), want);
		}
	}
}

static void every_flag_but_a_plain_syn_passes(void **state)
{
	room_required();
	for (int v6 = 0; v6 < 2; v6++) {
		for (int flags = 0; flags < 256; flags++) {
			struct segment s = syn_from(v6 ? CLIENT6 : CLIENT, 80);

			s.flags = (uint8_t)flags;
			assert_int_equal(is_segment_dropped(&s),
					 (flags & (SYN | ACK | RST)) == SYN);
		}
	}
}

/* However much of it is there, the answer is defined, and a drop needs the whole TCP header. */
static void truncation_at_every_byte(void **state)
{
	static const uint8_t options[24] = {1, 1, 1, 1}, hop[16] = {6, 1};

	room_required();
	for (int variant = 0; variant < 4; variant++) {
		struct segment s = syn_from(variant & 1 ? CLIENT6 : CLIENT, 80);
		struct frame_bytes whole, f;
		size_t tcp;

		if (variant >= 2) {
			s.between = variant & 1 ? hop : options;
			s.between_n = variant & 1 ? sizeof(hop) : sizeof(options);
		}
		whole = build(&s);
		tcp = ETH_LEN + (s.ipv6 ? IP6_LEN : IP4_LEN) + s.between_n;
		for (f = whole; f.n >= ETH_LEN; f.n--) {
			bool want = f.n >= tcp + TCP_LEN;

			assert_int_equal(answer(LB_ADMIT_HOOK_XDP, &f), want ? XDP_DROP : XDP_PASS);
			/* The kernel gives no skb to TC that does not hold an IP header. */
			if (f.n >= ETH_LEN + (size_t)(s.ipv6 ? IP6_LEN : IP4_LEN))
				assert_int_equal(is_dropped(&f), want);
		}
	}
}

static void lengths_that_ip_does_not_grant_pass(void **state)
{
	room_required();
	for (int v6 = 0; v6 < 2; v6++) {
		struct segment s = syn_from(v6 ? CLIENT6 : CLIENT, 80);
		struct frame_bytes f = build(&s);
		uint8_t *length = f.b + ETH_LEN + (v6 ? 4 : 2);
		uint16_t head = v6 ? 0 : IP4_LEN;

		for (uint16_t room = 0; room < TCP_LEN; room++) {
			put16(length, head + room);
			assert_false(is_dropped(&f));
		}
		put16(length, head + TCP_LEN);
		assert_true(is_dropped(&f));
	}
}

static void ipv4_headers_of_every_length(void **state)
{
	static const uint8_t options[40] = {1, 1, 1, 1};

	room_required();
	for (size_t n = 0; n <= sizeof(options); n += 4) {
		struct segment s = syn_from(CLIENT, 80);

		s.between = options;
		s.between_n = n;
		assert_true(is_segment_dropped(&s));
	}
	for (uint8_t first = 0x40; first < 0x45; first++) {
		struct segment s = syn_from(CLIENT, 80);
		struct frame_bytes f = build(&s);

		f.b[ETH_LEN] = first;
		assert_false(is_dropped(&f));
	}
}

static void the_first_fragment_is_judged_and_the_others_pass(void **state)
{
	static const uint16_t later[] = {1, 0x2001, 0x1fff, 0x3fff, 0x2100};
	uint8_t fragment[8] = {6, 0};

	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(later); i++) {
		struct segment s = syn_from(CLIENT, 80);

		s.frag = later[i];
		assert_false(is_segment_dropped(&s));
		s.frag = 0x2000;
		assert_true(is_segment_dropped(&s));
		s.frag = 0x4000; /* only: do not fragment */
		assert_true(is_segment_dropped(&s));
	}
	for (uint32_t offset = 0; offset < 0x2000; offset += 0x111) {
		struct segment s = syn_from(CLIENT6, 80);

		put16(fragment + 2, (uint16_t)(offset << 3 | 1));
		s.between = fragment;
		s.between_n = sizeof(fragment);
		s.next = 44;
		assert_int_equal(is_segment_dropped(&s), !offset);
	}
}

/*
 * <chain>: kinds of headers between IPv6 and TCP, each of 8 bytes, or 12 of the one kind that is.
 */
static bool is_dropped_behind(const uint8_t *chain, size_t count)
{
	struct segment s = syn_from(CLIENT6, 80);
	uint8_t between[128] = {0};
	size_t n = 0;

	for (size_t i = 0; i < count; i++) {
		between[n] = i + 1 < count ? chain[i + 1] : 6;
		between[n + 1] =
			chain[i] == 51 ? 2 : 0; /* in words, less two; else in 8, less one */
		n += chain[i] == 51 ? 16 : 8;
	}
	s.between = between;
	s.between_n = n;
	s.next = chain[0];
	return is_segment_dropped(&s);
}

static void ipv6_extension_headers_are_walked_over(void **state)
{
	static const uint8_t known[] = {0, 60, 43, 44, 51, 60, 0, 60, 60};

	room_required();
	for (size_t n = 1; n <= 8; n++)
		assert_true(is_dropped_behind(known, n));
	assert_false(is_dropped_behind(known, 9)); /* more than anybody sends: TCP may have it */
	assert_false(is_dropped_behind((const uint8_t[]){17}, 1));
	assert_false(is_dropped_behind((const uint8_t[]){0, 50}, 2)); /* encrypted */
	assert_false(is_dropped_behind((const uint8_t[]){59}, 1));
}

static void what_is_not_tcp_over_ip_passes(void **state)
{
	room_required();
	for (int v6 = 0; v6 < 2; v6++) {
		struct segment s = syn_from(v6 ? CLIENT6 : CLIENT, 80);

		for (uint32_t protocol = 0; protocol < 256; protocol++) {
			struct frame_bytes f = build(&s);

			f.b[ETH_LEN + (v6 ? 6 : 9)] = (uint8_t)protocol;
			/* An extension header there would be TCP's ports. */
			if (protocol == 6)
				assert_true(is_dropped(&f));
			else
				assert_false(is_dropped(&f));
		}
		for (uint32_t type = 0; type < 0x10000; type += 0x101) {
			struct frame_bytes f = build(&s);

			if (type == 0x0800 || type == 0x86dd)
				continue;
			put16(f.b + 12, (uint16_t)type);
			assert_int_equal(answer(LB_ADMIT_HOOK_XDP, &f), XDP_PASS);
		}
	}
}

/* Bytes without sense: the answers are defined, whatever they are. */
static void noise_has_an_answer(void **state)
{
	uint64_t seed = 4711;

	room_required();
	for (int i = 0; i < 20000; i++) {
		struct segment s = syn_from(i & 1 ? CLIENT6 : CLIENT, 80);
		struct frame_bytes f = build(&s);

		for (int k = 0; k < 3; k++) {
			uint64_t r = lb_random_next(&seed);

			f.b[12 + r % (f.n - 12)] = (uint8_t)(r >> 32);
		}
		f.n -= lb_random_next(&seed) % (f.n - ETH_LEN - IP6_LEN + 1);
		if (get16(f.b + 12) != VLAN_Q && get16(f.b + 12) != VLAN_AD)
			(void)is_dropped(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(vlan_tags_are_walked_over, refuse_all),
		cmocka_unit_test_setup(every_flag_but_a_plain_syn_passes, refuse_all),
		cmocka_unit_test_setup(truncation_at_every_byte, refuse_all),
		cmocka_unit_test_setup(lengths_that_ip_does_not_grant_pass, refuse_all),
		cmocka_unit_test_setup(ipv4_headers_of_every_length, refuse_all),
		cmocka_unit_test_setup(the_first_fragment_is_judged_and_the_others_pass,
				       refuse_all),
		cmocka_unit_test_setup(ipv6_extension_headers_are_walked_over, refuse_all),
		cmocka_unit_test_setup(what_is_not_tcp_over_ip_passes, refuse_all),
		cmocka_unit_test_setup(noise_has_an_answer, refuse_all),
	};

	return cmocka_run_group_tests(tests, admit_setup, admit_teardown);
}
