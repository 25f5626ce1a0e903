/* SPDX-License-Identifier: MIT */
/*
 * tc_graft: what a packet costs, in ns on this machine as it is now. Prints, and fails on no time;
 * that the packets went the way that is measured is the test.
 *
 * The kernel runs the program again on what it has just rewritten. So the pair's addresses lead
 * back to themselves, the stream moves on by a packet each time, and a round ends before the hops.
 */
#include <stdlib.h>

#include "tc_graft.h"

#define ROUND  200u
#define ROUNDS 400u
#define MORE   (ROUND * 2048u) /* bytes a round moves at most */

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

/* The pair's leg 0 becomes itself, <data> and <acked> bytes further. */
static void loop_back(struct lb_graft *g, bool ipv6, uint32_t data, uint32_t acked)
{
	struct end peer = peer_of(ipv6, 0), us = us_on(ipv6, 0);
	struct lb_graft_leg *leg = &g->leg[0];

	addr_to_leg(leg->saddr, ipv6, &peer);
	addr_to_leg(leg->daddr, ipv6, &us);
	leg->sport = htons(peer.port);
	leg->dport = htons(us.port);
	leg->seq_shift = data;
	leg->ack_shift = acked;
}

static void measure(const char *name, const struct segment *s, int code)
{
	struct frame_bytes f = build(s), out;
	uint32_t ns[ROUNDS];
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = f.b, .data_size_in = (uint32_t)f.n,
		    .data_out = out.b, .repeat = ROUND);

	for (uint32_t i = 0; i < ROUNDS; i++) {
		struct lb_graft *g = pair_open(s->ipv6, LB_GRAFT_FULL);

		loop_back(g, s->ipv6, (uint32_t)s->payload, s->payload ? 0 : 1448);
		g->leg[1].seq_end += MORE;
		g->leg[1].seq_shift = out_of[0] - in_of[1];
		g->leg[1].edge = s->seq + MORE;
		g->leg[0].edge += MORE;
		opts.data_size_out = sizeof(out.b);
		assert_int_equal(
			bpf_prog_test_run_opts(bpf_program__fd(skel->progs.tc_graft), &opts), 0);
		assert_int_equal((int)opts.retval, code);
		assert_int_equal(g->leg[0].packets, code == TC_ACT_REDIRECT ? ROUND : 0);
		assert_int_equal(g->leg[0].bytes, 1000 + g->leg[0].packets * (uint32_t)s->payload);
		ns[i] = opts.duration;
	}
	qsort(ns, ROUNDS, sizeof(*ns), by_value);
	print_message("%-32s %4u ns (best %u)\n", name, ns[ROUNDS / 2], ns[0]);
}

static void forwarding_has_a_price(void **state)
{
	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct segment s = segment_of(ipv6, 0, 1448);

		s.ttl = 255;
		s.window = 50000;
		print_message("%s\n", ipv6 ? "IPv6" : "IPv4");
		measure("data, no options", &s, TC_ACT_REDIRECT);
		s.opt = (struct options)OPT(NOP, NOP, TS(1, 2));
		measure("data, timestamps", &s, TC_ACT_REDIRECT);
		s.payload = 0;
		measure("ACK, timestamps", &s, TC_ACT_REDIRECT);
		s.opt = (struct options)OPT(NOP, NOP, TS(1, 2), NOP, NOP, SACK3(1, 2, 3, 4, 5, 6));
		measure("ACK, timestamps, three SACKs", &s, TC_ACT_REDIRECT);
		s.opt = (struct options)OPT(SACK1(1, 2), TS(1, 2));
		measure("ACK, an unusual layout", &s, TC_ACT_REDIRECT);
	}
}

static void what_is_not_ours_has_a_price_too(void **state)
{
	room_required();
	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		struct segment s = segment_of(ipv6, 0, 1448);

		print_message("%s\n", ipv6 ? "IPv6" : "IPv4");
		s.from.port++;
		measure("TCP of a stranger", &s, TC_ACT_UNSPEC);
		s.from.port--;
		s.between = (const uint8_t[]){135, 0, 0, 0, 0, 0, 0, 0};
		s.between_n = ipv6 ? 8 : 0;
		s.next = 135;
		s.frag = 0x4001;
		measure("not TCP", &s, TC_ACT_UNSPEC);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(forwarding_has_a_price),
		cmocka_unit_test(what_is_not_ours_has_a_price_too),
	};

	return cmocka_run_group_tests(tests, graft_setup, graft_teardown);
}
