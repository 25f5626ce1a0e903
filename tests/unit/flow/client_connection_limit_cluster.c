/* SPDX-License-Identifier: MIT */
/* Five nodes, what clients have at each of them and what they share, on a simulated network. */
#include "flow/client_connection_limit.h"

#include "../cluster/sim.h"

#define NODES   5u
#define MS      1000ull
#define CLIENTS 400u
#define CLIENT  0x0a000001u

struct node {
	struct lb_limits *limits;
	struct lb_client_connection_limit *limit;
	uint32_t has[CLIENTS]; /* connections, by client */
	uint32_t wants[CLIENTS];
};

struct field {
	struct sim sim;
	uint32_t max;
	uint32_t clients; /* that are looked at */
	uint32_t session;
	struct node nodes[NODES];
	uint32_t most; /* that a client had at a time */
	uint64_t refused;
};

static struct field *the;

static void share_came(struct sim_node *n, uint64_t sender, const uint8_t *bytes, size_t len)
{
	lb_limits_receive(the->nodes[n->index].limits, sender, bytes, len, sim_clock(n));
}

static void say(void *arg, uint64_t id, const uint8_t *bytes, size_t len)
{
	struct sim_node *n = arg;

	(void)lb_member_say(n->g, id, LB_WIRE_SHARES, bytes, len);
}

static void member_changed(struct sim_node *n, uint64_t id, enum lb_member_event e)
{
	struct lb_limits *l = the->nodes[n->index].limits;

	if (e == LB_MEMBER_JOINED)
		assert_int_equal(lb_limits_join(l, id, sim_clock(n)), 0);
	else if (e == LB_MEMBER_DIED)
		lb_limits_silent(l, id);
	else if (e == LB_MEMBER_WENT || e == LB_MEMBER_FORGOTTEN)
		lb_limits_leave(l, id, sim_clock(n));
}

static void open_node(struct field *f, uint32_t i, uint32_t min)
{
	struct node *n = &f->nodes[i];
	struct lb_limits_params p = {
		.self = f->sim.nodes[i].id,
		.session = ++f->session,
		.nodes_min = min,
		.nodes_max = 64,
		.section_max = lb_member_section_max(),
	};

	*n = (struct node){};
	assert_int_equal(lb_limits_new(&n->limits, &p, sim_clock(&f->sim.nodes[i])), 0);
	assert_int_equal(lb_client_connection_limit_new(&n->limit, f->max), 0);
	lb_client_connection_limit_share(n->limit, n->limits, "r");
}

static void close_node(struct field *f, uint32_t i)
{
	lb_client_connection_limit_free(&f->nodes[i].limit);
	lb_limits_free(&f->nodes[i].limits);
}

static void open_field(struct field *f, uint32_t max, uint32_t clients, uint64_t seed)
{
	*f = (struct field){.max = max, .clients = clients};
	the = f;
	sim_init(&f->sim, NODES, seed);
	for (uint32_t i = 0; i < NODES; i++) {
		f->sim.nodes[i].skew_us = (int64_t)i * 7654321;
		open_node(f, i, NODES);
	}
	f->sim.on_shares = share_came;
	f->sim.on_changed = member_changed;
	sim_until(&f->sim, NODES, 30 * SIM_SECOND);
}

static void close_field(struct field *f)
{
	for (uint32_t i = 0; i < NODES; i++)
		close_node(f, i);
	sim_fini(&f->sim);
}

static struct lb_addr client(uint32_t c)
{
	struct lb_addr a = {.in4.sin_family = AF_INET};

	a.in4.sin_addr.s_addr = htonl(CLIENT + c);
	return a;
}

static uint32_t sum(const struct field *f, uint32_t c)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < NODES; i++)
		n += f->nodes[i].has[c];
	return n;
}

/* As many as it wants, as far as it gets them; those it does not want end. */
static void serve(struct field *f, uint32_t i, uint32_t c)
{
	struct lb_addr from = client(c);
	struct node *n = &f->nodes[i];

	for (; n->has[c] > n->wants[c]; n->has[c]--)
		lb_client_connection_limit_release(n->limit, &from);
	while (n->has[c] < n->wants[c]) {
		if (!lb_client_connection_limit_take(n->limit, &from,
						     sim_clock(&f->sim.nodes[i]))) {
			f->refused++;
			return;
		}
		n->has[c]++;
	}
}

static void serve_all(struct field *f)
{
	for (uint32_t c = 0; c < f->clients; c++) {
		uint32_t n;

		for (uint32_t i = 0; i < NODES; i++)
			if (f->sim.nodes[i].up && f->sim.nodes[i].stopped_us <= f->sim.now_us)
				serve(f, i, c);
		n = sum(f, c);
		f->most = n > f->most ? n : f->most;
	}
}

/* Each client that lacks one tries again each 7 ms. */
static void go(struct field *f, uint64_t ms)
{
	for (uint64_t t = 0; t < ms; t++) {
		sim_run(&f->sim, MS);
		if (f->sim.now_us / MS % 7 == 0)
			serve_all(f);
		for (uint32_t i = 0; i < NODES; i++) {
			struct sim_node *n = &f->sim.nodes[i];

			if (n->up && n->stopped_us <= f->sim.now_us &&
			    (f->sim.now_us / MS + 13 * i) % LB_SHARE_TICK_MS == 0)
				lb_limits_tick(f->nodes[i].limits, sim_clock(n), say, n);
		}
	}
}

static void want(struct field *f, uint32_t c, uint32_t v, uint32_t w, uint32_t x, uint32_t y,
		 uint32_t z)
{
	const uint32_t wants[NODES] = {v, w, x, y, z};

	for (uint32_t i = 0; i < NODES; i++)
		f->nodes[i].wants[c] = wants[i];
}

static uint64_t sent(struct field *f)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < NODES; i++) {
		struct lb_limits_report r;

		lb_limits_look(f->nodes[i].limits, sim_clock(&f->sim.nodes[i]), &r, NULL, NULL);
		n += r.counts.sent;
	}
	return n;
}

static void a_client_at_one_node_gets_all_of_it(void **state)
{
	static const uint32_t limits[] = {1, 2, 4, 5, 7, 10, 23, 100};

	for (size_t i = 0; i < LB_ARRAY_SIZE(limits); i++) {
		struct field f;

		open_field(&f, limits[i], 1, 70 + i);
		want(&f, 0, 0, 0, 0, limits[i] + 50, 0);
		go(&f, 3000);
		assert_int_equal(sum(&f, 0), limits[i]);
		assert_int_equal(f.most, limits[i]);
		close_field(&f);
	}
}

static void a_client_everywhere_gets_all_of_it_and_no_more(void **state)
{
	static const uint32_t limits[] = {1, 2, 4, 5, 7, 10, 23, 100};

	for (size_t i = 0; i < LB_ARRAY_SIZE(limits); i++) {
		struct field f;

		open_field(&f, limits[i], 1, 80 + i);
		want(&f, 0, 100, 100, 100, 100, 100);
		go(&f, 3000);
		assert_int_equal(sum(&f, 0), limits[i]);
		assert_int_equal(f.most, limits[i]);
		close_field(&f);
	}
}

static void what_grows_slowly_is_never_refused(void **state)
{
	struct field f;

	open_field(&f, 50, 1, 90);
	for (uint32_t n = 1; n <= 50; n++) {
		want(&f, 0, 0, 0, n, 0, 0);
		go(&f, 500);
	}
	assert_int_equal(sum(&f, 0), 50);
	assert_int_equal(f.refused, 0);
	close_field(&f);
}

static void connections_follow_the_client(void **state)
{
	struct field f;

	open_field(&f, 10, 1, 91);
	for (uint32_t i = 0; i < 3 * NODES; i++) {
		want(&f, 0, 0, 0, 0, 0, 0);
		f.nodes[i % NODES].wants[0] = 20;
		go(&f, 4000);
		assert_int_equal(f.nodes[i % NODES].has[0], 10);
	}
	/* What one lets go of, another one gets, while the rest lives on. */
	want(&f, 0, 0, 0, 0, 20, 6);
	go(&f, 2000);
	assert_int_equal(f.nodes[4].has[0], 6);
	assert_int_equal(f.nodes[3].has[0], 4);
	assert_int_equal(f.most, 10);
	close_field(&f);
}

static void what_nobody_has_asked_for_is_known_all_the_same(void **state)
{
	struct field f;

	/* Too few at node 1 to tell others of them. */
	open_field(&f, 40, 1, 92);
	want(&f, 0, 0, 3, 0, 0, 0);
	go(&f, 1000);
	assert_int_equal(sent(&f), 0);
	want(&f, 0, 100, 3, 0, 0, 0);
	go(&f, 3000);
	assert_int_equal(f.nodes[0].has[0], 37);
	assert_int_equal(f.most, 40);
	close_field(&f);
}

static void who_is_far_from_the_limit_is_not_talked_of(void **state)
{
	struct field f;
	uint64_t before;

	open_field(&f, 10, 1, 93);
	want(&f, 0, 20, 1, 0, 0, 0);
	go(&f, 3000);
	assert_true(sent(&f) > 20);
	want(&f, 0, 0, 0, 0, 0, 0);
	go(&f, 6000);
	before = sent(&f);
	go(&f, 10000);
	assert_int_equal(sent(&f), before);
	want(&f, 0, 1, 1, 1, 1, 1);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 5);
	close_field(&f);
}

static void an_evil_network_lets_nobody_have_more(void **state)
{
	uint64_t random = 17, had = 0;
	struct field f;

	open_field(&f, 12, 4, 94);
	f.sim.loss_permille = 200;
	f.sim.double_permille = 200;
	f.sim.jitter_us = 300 * MS;
	for (uint32_t i = 0; i < 200; i++) {
		struct sim_node *n = &f.sim.nodes[lb_random_next(&random) % NODES];

		for (uint32_t c = 0; c < f.clients; c++)
			f.nodes[lb_random_next(&random) % NODES].wants[c] =
				(uint32_t)(lb_random_next(&random) % 15);
		if (i % 3 == 0)
			n->group = !n->group;
		if (i % 5 == 0)
			n->stopped_us = f.sim.now_us + 1500 * MS;
		go(&f, 200 + lb_random_next(&random) % 2000);
		for (uint32_t c = 0; c < f.clients; c++)
			had += sum(&f, c);
	}
	print_message("20 %% lost, late, doubled, cut and stopped: %u of %u at most, %.1f on "
		      "average\n",
		      f.most, f.max, (double)had / 200 / f.clients);
	assert_int_equal(f.most, f.max);
	assert_true(had / 200 / f.clients >= f.max * 2 / 3);
	close_field(&f);
}

static void a_partition_keeps_what_each_side_has(void **state)
{
	struct field f;

	open_field(&f, 10, 1, 95);
	want(&f, 0, 0, 0, 0, 0, 8);
	go(&f, 2000);
	assert_int_equal(f.nodes[4].has[0], 8);
	for (uint32_t i = 3; i < NODES; i++)
		f.sim.nodes[i].group = 1;
	/* 3|2: what was lent to the other side is not to be had here, even when that is dead. */
	want(&f, 0, 20, 20, 20, 0, 8);
	go(&f, 60000);
	assert_in_range(sum(&f, 0), 8, 10);
	/* .. nor, once it is free, there: what was lent was lent until somebody says otherwise. */
	want(&f, 0, 20, 20, 20, 20, 2);
	go(&f, 10000);
	assert_true(sum(&f, 0) < 10);
	for (uint32_t i = 3; i < NODES; i++)
		f.sim.nodes[i].group = 0;
	go(&f, 30000);
	assert_int_equal(sum(&f, 0), 10);
	assert_int_equal(f.most, 10);
	close_field(&f);
}

static void restart(struct field *f, uint32_t i)
{
	close_node(f, i);
	open_node(f, i, NODES);
	for (uint32_t j = 0; j < NODES; j++)
		if (j != i)
			assert_int_equal(lb_limits_join(f->nodes[i].limits, f->sim.nodes[j].id,
							sim_clock(&f->sim.nodes[i])),
					 0);
}

static void who_had_lent_and_is_restarted_hears_of_it(void **state)
{
	struct field f;

	open_field(&f, 20, 1, 96);
	want(&f, 0, 20, 0, 0, 0, 0);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 20);
	for (uint32_t i = 1; i < NODES; i++)
		restart(&f, i);
	go(&f, 500);
	want(&f, 0, 20, 20, 20, 20, 20);
	go(&f, 3000);
	assert_int_equal(f.most, 20);
	/* Half of what the one had ends, and others get that. */
	want(&f, 0, 10, 20, 20, 20, 20);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 20);
	assert_int_equal(f.most, 20);
	close_field(&f);
}

static void who_has_borrowed_and_is_restarted_owes_nothing(void **state)
{
	struct field f;

	open_field(&f, 20, 1, 97);
	want(&f, 0, 20, 0, 0, 0, 0);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 20);
	restart(&f, 0);
	want(&f, 0, 0, 0, 20, 0, 0);
	go(&f, 3000);
	assert_int_equal(f.nodes[2].has[0], 20);
	close_field(&f);
}

static void a_node_that_joins_waits_for_what_is_too_much(void **state)
{
	struct field f;

	open_field(&f, 20, 1, 98);
	/* Nobody has said how many there are to be: each one is alone, and has all of it. */
	for (uint32_t i = 0; i < NODES; i++) {
		close_node(&f, i);
		open_node(&f, i, 1);
	}
	want(&f, 0, 20, 0, 0, 0, 0);
	go(&f, 1000);
	assert_int_equal(sum(&f, 0), 20);
	for (uint32_t i = 0; i < NODES; i++)
		for (uint32_t j = 0; j < NODES; j++)
			if (j != i)
				(void)lb_limits_join(f.nodes[i].limits, f.sim.nodes[j].id,
						     sim_clock(&f.sim.nodes[i]));
	go(&f, 500);
	want(&f, 0, 20, 20, 20, 20, 20);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 20);
	want(&f, 0, 4, 20, 20, 20, 20);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 20);
	assert_int_equal(f.most, 20);
	close_field(&f);
}

/* As of flows that were grafted before the daemon began. */
static void what_was_adopted_is_told_to_others(void **state)
{
	struct lb_addr from = client(0);
	struct field f;

	open_field(&f, 20, 1, 102);
	for (uint32_t i = 0; i < 20; i++)
		assert_true(lb_client_connection_limit_adopt(f.nodes[2].limit, &from));
	f.nodes[2].has[0] = 20;
	want(&f, 0, 0, 0, 20, 0, 0);
	go(&f, 500);
	want(&f, 0, 20, 20, 20, 20, 20);
	go(&f, 3000);
	assert_int_equal(f.most, 20);
	want(&f, 0, 20, 20, 10, 20, 20);
	go(&f, 5000);
	assert_int_equal(sum(&f, 0), 20);
	assert_int_equal(f.most, 20);
	close_field(&f);
}

static void set_max(struct field *f, uint32_t max)
{
	for (uint32_t i = 0; i < NODES; i++)
		lb_client_connection_limit_set(f->nodes[i].limit, max);
	f->max = max;
}

static void what_a_smaller_limit_makes_many_is_told_to_others(void **state)
{
	struct field f;

	/* Nobody is near its part of it, .. */
	open_field(&f, 40, 1, 103);
	want(&f, 0, 4, 4, 4, 0, 0);
	go(&f, 1000);
	assert_int_equal(sent(&f), 0);
	/* .. which is 2 then. */
	set_max(&f, 10);
	go(&f, 500);
	want(&f, 0, 4, 4, 4, 20, 20);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 12);
	close_field(&f);
}

static void a_limit_that_changes_cuts_nobody(void **state)
{
	struct field f;

	open_field(&f, 20, 1, 99);
	want(&f, 0, 20, 0, 0, 5, 0);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 20);
	set_max(&f, 10);
	go(&f, 500);
	want(&f, 0, 4, 4, 4, 20, 0);
	go(&f, 3000);
	assert_int_equal(f.most, 20);
	assert_int_equal(sum(&f, 0), 10);
	set_max(&f, 30);
	want(&f, 0, 20, 20, 20, 20, 20);
	go(&f, 3000);
	assert_int_equal(sum(&f, 0), 30);
	assert_int_equal(f.most, 30);
	close_field(&f);
}

static void more_clients_than_there_is_room_for_have_their_parts(void **state)
{
	struct lb_limits_report r;
	struct field f;
	uint32_t all = 0;

	open_field(&f, 10, CLIENTS, 100);
	for (uint32_t c = 0; c < CLIENTS; c++)
		want(&f, c, 10, 10, 10, 10, 10);
	go(&f, 3000);
	for (uint32_t c = 0; c < CLIENTS; c++) {
		assert_in_range(sum(&f, c), 9, 10);
		all += sum(&f, c);
	}
	lb_limits_look(f.nodes[0].limits, sim_clock(&f.sim.nodes[0]), &r, NULL, NULL);
	assert_int_equal(r.keys, LB_LIMITS_KEYS_MAX);
	assert_true(r.counts.untracked > 0);
	assert_int_equal(f.most, 10);
	assert_int_equal(all, CLIENTS * 10);
	close_field(&f);
}

static void alone_again_it_is_this_node_s_limit(void **state)
{
	struct field f;

	open_field(&f, 10, 1, 101);
	want(&f, 0, 4, 20, 0, 0, 0);
	go(&f, 5000);
	assert_int_equal(sum(&f, 0), 10);
	for (uint32_t i = 0; i < NODES; i++)
		lb_client_connection_limit_share(f.nodes[i].limit, NULL, NULL);
	want(&f, 0, 20, 20, 20, 0, 0);
	go(&f, 1000);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(f.nodes[i].has[0], 10);
	/* And together once more: those that are too many go on, and no others come. */
	for (uint32_t i = 0; i < NODES; i++)
		lb_client_connection_limit_share(f.nodes[i].limit, f.nodes[i].limits, "r");
	go(&f, 500);
	want(&f, 0, 20, 20, 20, 20, 20);
	go(&f, 2000);
	assert_int_equal(sum(&f, 0), 30);
	want(&f, 0, 1, 1, 1, 20, 20);
	go(&f, 5000);
	assert_int_equal(sum(&f, 0), 10);
	close_field(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_at_one_node_gets_all_of_it),
		cmocka_unit_test(a_client_everywhere_gets_all_of_it_and_no_more),
		cmocka_unit_test(what_grows_slowly_is_never_refused),
		cmocka_unit_test(connections_follow_the_client),
		cmocka_unit_test(what_nobody_has_asked_for_is_known_all_the_same),
		cmocka_unit_test(who_is_far_from_the_limit_is_not_talked_of),
		cmocka_unit_test(an_evil_network_lets_nobody_have_more),
		cmocka_unit_test(a_partition_keeps_what_each_side_has),
		cmocka_unit_test(who_had_lent_and_is_restarted_hears_of_it),
		cmocka_unit_test(who_has_borrowed_and_is_restarted_owes_nothing),
		cmocka_unit_test(a_node_that_joins_waits_for_what_is_too_much),
		cmocka_unit_test(what_was_adopted_is_told_to_others),
		cmocka_unit_test(what_a_smaller_limit_makes_many_is_told_to_others),
		cmocka_unit_test(a_limit_that_changes_cuts_nobody),
		cmocka_unit_test(more_clients_than_there_is_room_for_have_their_parts),
		cmocka_unit_test(alone_again_it_is_this_node_s_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
