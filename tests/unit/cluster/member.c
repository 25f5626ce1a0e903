/* SPDX-License-Identifier: MIT */
#include "cluster/member.h"

#include "sim.h"

#define SOME 20u

static uint64_t period(void)
{
	return LB_MEMBER_PERIOD_MS * 1000ull;
}

static struct sim *cluster(struct sim *s, uint32_t count, uint64_t seed)
{
	sim_init(s, count, seed);
	sim_until(s, count, 60 * SIM_SECOND);
	return s;
}

/* Long enough for any suspect of a small cluster to be dead, and for everybody to know. */
static void let_die(struct sim *s)
{
	sim_run(s, 1000 * lb_member_suspicion_ms(s->nodes[0].g, 0) + 10 * period());
}

static void nodes_meet_through_any_peer(void **state)
{
	struct sim s;

	sim_init(&s, 50, 1);
	/* Of the three peers they are told of one is not there. */
	sim_kill(&s, 1);
	assert_true(sim_until(&s, 49, 60 * SIM_SECOND) < 20 * SIM_SECOND);
	assert_int_equal(s.false_deaths, 0);
	sim_fini(&s);
}

static void the_dead_are_known_to_all(void **state)
{
	struct sim s;

	cluster(&s, SOME, 2);
	s.watched = s.nodes[7].id;
	sim_kill(&s, 7);
	sim_run(&s, 1000 * lb_member_suspicion_ms(s.nodes[0].g, 2) + 5 * period());
	assert_int_equal(s.known_dead, SOME - 1);
	assert_int_equal(sim_state(&s, 3, 7), LB_MEMBER_DEAD);
	assert_int_equal(lb_member_known(s.nodes[3].g), SOME);
	assert_int_equal(s.false_deaths, 0);
	sim_fini(&s);
}

static void more_who_find_it_silent_give_a_suspect_less_time(void **state)
{
	struct sim s;
	struct lb_membership *g;

	cluster(&s, SOME, 3);
	g = s.nodes[0].g;
	/* 4 * log10(20) periods, or six times that. */
	assert_in_range(lb_member_suspicion_ms(g, 2), 5000, 5205);
	assert_int_equal(lb_member_suspicion_ms(g, 3), lb_member_suspicion_ms(g, 2));
	assert_true(lb_member_suspicion_ms(g, 1) > 2 * lb_member_suspicion_ms(g, 2));
	assert_int_equal(lb_member_suspicion_ms(g, 0), 6 * lb_member_suspicion_ms(g, 2));
	sim_fini(&s);
}

static void who_leaves_is_not_missed(void **state)
{
	struct sim s;
	struct sim_node *n;

	cluster(&s, SOME, 4);
	n = &s.nodes[5];
	lb_member_leave(n->g, sim_clock(n));
	for (uint32_t i = 0; i < 100 && !lb_member_left(n->g); i++)
		sim_run(&s, period() / 10);
	assert_true(lb_member_left(n->g));
	sim_kill(&s, 5);
	s.suspicions = 0;
	sim_until(&s, SOME - 1, 5 * SIM_SECOND);
	let_die(&s);
	assert_int_equal(sim_state(&s, 0, 5), LB_MEMBER_LEFT);
	assert_int_equal(lb_member_known(s.nodes[0].g), SOME - 1);
	assert_int_equal(s.suspicions, 0);
	/* And may come back. */
	sim_start(&s, 5, SIM_START + 60000);
	sim_until(&s, SOME, 20 * SIM_SECOND);
	sim_fini(&s);
}

static void a_restarted_node_rejoins(void **state)
{
	struct sim s;

	cluster(&s, SOME, 5);
	/* At once, before anybody has missed it .. */
	sim_kill(&s, 9);
	sim_start(&s, 9, SIM_START + 10000);
	sim_run(&s, 20 * SIM_SECOND);
	assert_int_equal(sim_agree(&s, SOME), SOME);
	/* .. after it was found dead .. */
	sim_kill(&s, 9);
	let_die(&s);
	assert_int_equal(sim_state(&s, 0, 9), LB_MEMBER_DEAD);
	sim_start(&s, 9, SIM_START + 90000);
	sim_until(&s, SOME, 20 * SIM_SECOND);
	/* .. and with a clock that has gone back: what others remember is later than its start. */
	sim_kill(&s, 9);
	let_die(&s);
	sim_start(&s, 9, SIM_START - 1000000);
	sim_until(&s, SOME, 20 * SIM_SECOND);
	assert_true(lb_member_counts(s.nodes[9].g)->refutations > 0);
	sim_fini(&s);
}

static void a_node_that_was_cut_off_for_a_moment_objects(void **state)
{
	struct sim s;

	cluster(&s, SOME, 6);
	s.suspicions = 0;
	s.nodes[4].group = 1;
	sim_run(&s, 4 * period());
	s.nodes[4].group = 0;
	sim_run(&s, 60 * SIM_SECOND);
	assert_true(s.suspicions > 0);
	assert_int_equal(s.false_deaths, 0);
	assert_int_equal(sim_agree(&s, SOME), SOME);
	sim_fini(&s);
}

static void halves_that_meet_again_take_nobody_for_dead(void **state)
{
	struct sim s;
	uint64_t healed;

	cluster(&s, SOME, 7);
	for (uint32_t i = 0; i < SOME; i++)
		s.nodes[i].group = i % 2;
	let_die(&s);
	let_die(&s);
	assert_int_equal(sim_agree(&s, SOME / 2), SOME);
	assert_int_equal(lb_member_known(s.nodes[0].g), SOME);
	for (uint32_t i = 0; i < SOME; i++)
		s.nodes[i].group = 0;
	healed = sim_until(&s, SOME, 30 * SIM_SECOND);
	sim_run(&s, 60 * SIM_SECOND);
	assert_int_equal(sim_agree(&s, SOME), SOME);
	assert_int_equal(s.false_deaths, 0);
	print_message("two halves of %u are one again after %llu ms\n", SOME,
		      (unsigned long long)(healed / 1000));
	sim_fini(&s);
}

static bool in_parts(struct sim *s, uint32_t count)
{
	for (uint32_t n = 0; n < count; n++)
		for (uint32_t of = 0; of < count; of++)
			if (s->nodes[n].group != s->nodes[of].group &&
			    sim_state(s, n, of) != LB_MEMBER_DEAD)
				return false;
	return true;
}

/* Two of a part may tell the same one of a death in the same moment. */
static void parts_that_meet_while_they_tell_of_deaths_take_nobody_for_dead(void **state)
{
	for (uint64_t seed = 1; seed <= 3000; seed++) {
		struct sim s;

		cluster(&s, 5, seed);
		s.nodes[3].group = s.nodes[4].group = 1;
		while (!in_parts(&s, 5))
			sim_run(&s, SIM_SECOND / 10);
		s.nodes[3].group = s.nodes[4].group = 0;
		sim_run(&s, 30 * SIM_SECOND);
		assert_int_equal(sim_agree(&s, 5), 5);
		if (s.false_deaths)
			fail_msg("seed %llu: %llu were taken for dead", (unsigned long long)seed,
				 (unsigned long long)s.false_deaths);
		sim_fini(&s);
	}
}

static void jumps_of_the_clock_are_no_silence(void **state)
{
	struct sim s;

	cluster(&s, SOME, 8);
	s.suspicions = 0;
	for (uint32_t i = 0; i < 10; i++) {
		s.nodes[i].skew_us += 3600 * (int64_t)SIM_SECOND;
		sim_run(&s, 3 * SIM_SECOND);
		s.nodes[i + 5].skew_us -= 7 * (int64_t)SIM_SECOND;
		sim_run(&s, 3 * SIM_SECOND);
	}
	sim_run(&s, 30 * SIM_SECOND);
	assert_int_equal(s.false_deaths, 0);
	assert_int_equal(s.suspicions, 0);
	assert_int_equal(sim_agree(&s, SOME), SOME);
	sim_fini(&s);
}

static void a_stopped_process_comes_back_and_blames_nobody(void **state)
{
	struct sim s;

	cluster(&s, SOME, 9);
	s.suspicions = 0;
	s.watched = s.nodes[3].id;
	s.nodes[3].stopped_us = s.now_us + 10 * SIM_SECOND;
	sim_run(&s, 10 * SIM_SECOND);
	assert_true(s.suspicions > 0 && sim_state(&s, 0, 3) >= LB_MEMBER_SUSPECT);
	/* It is the same process that goes on, with clocks that went on. */
	s.false_deaths = 0;
	sim_until(&s, SOME, 15 * SIM_SECOND);
	sim_run(&s, 60 * SIM_SECOND);
	assert_int_equal(s.false_deaths, 0);
	assert_true(lb_member_counts(s.nodes[3].g)->pauses > 0);
	assert_int_equal(sim_agree(&s, SOME), SOME);
	sim_fini(&s);
}

static void a_bad_network_kills_nobody(void **state)
{
	struct sim s;

	cluster(&s, SOME, 10);
	s.loss_permille = 100;
	s.double_permille = 100;
	s.jitter_us = 150000; /* beyond the first repetition, both ways together */
	sim_run(&s, 600 * SIM_SECOND);
	assert_int_equal(s.false_deaths, 0);
	sim_run(&s, 60 * SIM_SECOND);
	assert_int_equal(sim_agree(&s, SOME), SOME);
	sim_fini(&s);
}

static void two_of_one_name_are_noticed(void **state)
{
	struct sim s;
	struct sim_node *twin;
	struct lb_membership *g;
	struct lb_member_params p = {.incarnation = SIM_START + 5,
				     .seed = 5,
				     .period_ms = LB_MEMBER_PERIOD_MS,
				     .members_max = 8,
				     .self.name = "node-0"};
	static const struct lb_member_ops ops = {sim_send, sim_changed, sim_shares};

	cluster(&s, 4, 11);
	twin = &s.nodes[3];
	p.self.addr = twin->addr;
	p.ops = &ops;
	p.arg = twin;
	assert_int_equal(lb_member_new(&g, &p, sim_clock(twin)), 0);
	assert_int_equal(lb_member_set_peers(g, &s.nodes[0].addr, 1), 0);
	lb_member_free(&twin->g);
	twin->g = g;
	twin->wake_us = 0;
	sim_plan(twin);
	sim_run(&s, 30 * SIM_SECOND);
	assert_true(lb_member_counts(s.nodes[0].g)->twins > 0);
	sim_fini(&s);
}

static void a_new_configuration_is_told(void **state)
{
	struct sim s;
	struct sim_look look = {};

	cluster(&s, SOME, 12);
	lb_member_set_config(s.nodes[2].g, 0xfeed);
	sim_run(&s, 5 * period());
	look.id = s.nodes[2].id;
	for (uint32_t i = 0; i < SOME; i++) {
		lb_member_each(s.nodes[i].g, sim_look_at, &look);
		assert_true(look.found);
		assert_int_equal(look.view.config_hash, 0xfeed);
	}
	lb_member_each(s.nodes[0].g, sim_look_at, &look);
	assert_string_equal(look.view.version, "1.0");
	assert_string_equal(look.view.name, "node-2");
	/* 200 to 1000 us one way. */
	sim_run(&s, 60 * period());
	lb_member_each(s.nodes[0].g, sim_look_at, &look);
	assert_in_range(look.view.rtt_us, 400, 2000);
	sim_fini(&s);
}

static void the_dead_are_forgotten(void **state)
{
	struct sim s;

	cluster(&s, 5, 13);
	sim_kill(&s, 4);
	let_die(&s);
	assert_int_equal(lb_member_known(s.nodes[0].g), 5);
	sim_run(&s, LB_MEMBER_FORGET_MS * 1000ull + SIM_SECOND);
	assert_int_equal(lb_member_known(s.nodes[0].g), 4);
	assert_int_equal(sim_state(&s, 0, 4), -1);
	sim_start(&s, 4, SIM_START);
	sim_until(&s, 5, 20 * SIM_SECOND);
	sim_fini(&s);
}

/* What a node with the key, and bad intentions, may cost: bounded memory, and no death. */
static void no_more_members_than_there_is_room_for(void **state)
{
	struct sim s;
	struct sim_node *n;

	cluster(&s, 4, 14);
	n = &s.nodes[0];
	for (uint32_t i = 0; i < 100; i++) {
		struct lb_wire_head head = {.kind = LB_WIRE_GOSSIP, .sender = s.nodes[1].id};
		struct lb_wire_update u = {.incarnation = 1, .has_identity = true};
		struct lb_wire_out out;

		snprintf(u.identity.name, sizeof(u.identity.name), "stranger-%u", i);
		u.id = lb_wire_id(u.identity.name);
		u.identity.addr = s.nodes[1].addr;
		lb_wire_begin(&out, &head);
		assert_true(lb_wire_add_update(&out, &u));
		lb_member_receive(n->g, sim_clock(n), &s.nodes[1].addr, out.bytes, out.len);
	}
	assert_int_equal(lb_member_alive(n->g), s.count + 8);
	assert_int_equal(lb_member_counts(n->g)->full, 100 - 4 - 4);
	sim_fini(&s);
}

static void what_is_not_for_a_node_is_dropped(void **state)
{
	struct sim s;
	struct sim_node *n;
	struct lb_wire_head head = {.kind = LB_WIRE_PING};
	struct lb_wire_out out;
	uint64_t sent;

	cluster(&s, 4, 15);
	n = &s.nodes[0];
	head.sender = s.nodes[1].id;
	head.target = s.nodes[2].id;
	sent = n->sent;
	lb_wire_begin(&out, &head);
	lb_member_receive(n->g, sim_clock(n), &s.nodes[1].addr, out.bytes, out.len);
	assert_int_equal(lb_member_counts(n->g)->misdirected, 1);
	lb_member_receive(n->g, sim_clock(n), &s.nodes[1].addr, out.bytes, out.len - 1);
	out.bytes[0]++;
	lb_member_receive(n->g, sim_clock(n), &s.nodes[1].addr, out.bytes, out.len);
	assert_int_equal(lb_member_counts(n->g)->malformed, 2);
	assert_int_equal(n->sent, sent);
	sim_fini(&s);
}

static void parameters_that_make_no_sense_are_refused(void **state)
{
	static const struct lb_member_ops ops = {sim_send, sim_changed, sim_shares};
	struct lb_membership *g = NULL;
	struct lb_member_params good = {
		.seed = 1, .period_ms = 1000, .members_max = 2, .self.name = "a", .ops = &ops};
	struct lb_member_params p;

	assert_int_equal(lb_addr_parse("[::1]:7946", &good.self.addr), 0);
	assert_int_equal(lb_member_new(&g, &good, 0), 0);
	assert_true(lb_member_section_max() > 1200);
	lb_member_free(&g);
	p = good;
	p.self.name[0] = ' ';
	assert_int_equal(lb_member_new(&g, &p, 0), -EINVAL);
	p = good;
	p.members_max = 1;
	assert_int_equal(lb_member_new(&g, &p, 0), -EINVAL);
	p = good;
	p.self.addr = (struct lb_addr){};
	assert_int_equal(lb_member_new(&g, &p, 0), -EINVAL);
	assert_null(g);
	lb_member_free(&g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nodes_meet_through_any_peer),
		cmocka_unit_test(the_dead_are_known_to_all),
		cmocka_unit_test(more_who_find_it_silent_give_a_suspect_less_time),
		cmocka_unit_test(who_leaves_is_not_missed),
		cmocka_unit_test(a_restarted_node_rejoins),
		cmocka_unit_test(a_node_that_was_cut_off_for_a_moment_objects),
		cmocka_unit_test(halves_that_meet_again_take_nobody_for_dead),
		cmocka_unit_test(parts_that_meet_while_they_tell_of_deaths_take_nobody_for_dead),
		cmocka_unit_test(jumps_of_the_clock_are_no_silence),
		cmocka_unit_test(a_stopped_process_comes_back_and_blames_nobody),
		cmocka_unit_test(a_bad_network_kills_nobody),
		cmocka_unit_test(two_of_one_name_are_noticed),
		cmocka_unit_test(a_new_configuration_is_told),
		cmocka_unit_test(the_dead_are_forgotten),
		cmocka_unit_test(no_more_members_than_there_is_room_for),
		cmocka_unit_test(what_is_not_for_a_node_is_dropped),
		cmocka_unit_test(parameters_that_make_no_sense_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
