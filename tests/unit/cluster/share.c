/* SPDX-License-Identifier: MIT */
#include "cluster/share.h"

#include "share_ask.h"
#include "sim.h"

#define NODES 5u
#define MS    1000ull

/* Five nodes whose clients knock a thousand times as often as it is asked, and what gets in. */
struct field {
	struct sim sim;
	struct lb_share *shares[NODES];
	struct lb_share_limit limit;
	double offered[NODES]; /* per second */
	double due[NODES];     /* fractions of a client */
	uint64_t taken[NODES];
	uint64_t taken_all;
	/* The most that was taken beyond the rate in any time up to now. */
	double lowest, excess;
	uint64_t begin_us;
};

static struct field *the;

static void share_sent(void *arg, uint64_t node, const uint8_t *bytes, size_t len)
{
	struct sim_node *n = arg;

	/* To one that the membership holds dead nothing is sent. */
	(void)lb_member_say(n->g, node, LB_WIRE_SHARES, bytes, len);
}

static void share_came(struct sim_node *n, uint64_t sender, const uint8_t *bytes, size_t len)
{
	lb_share_receive(the->shares[n->index], sender, bytes, len, sim_clock(n));
}

static void member_changed(struct sim_node *n, uint64_t id, enum lb_member_event e)
{
	struct lb_share *s = the->shares[n->index];

	if (e == LB_MEMBER_JOINED)
		assert_int_equal(lb_share_join(s, id, sim_clock(n)), 0);
	else if (e == LB_MEMBER_DIED)
		lb_share_silent(s, id);
	else if (e == LB_MEMBER_WENT || e == LB_MEMBER_FORGOTTEN)
		lb_share_leave(s, id, sim_clock(n));
}

static void new_share(struct field *f, uint32_t i, uint32_t size_min)
{
	struct lb_share_params p = {
		.self = lb_wire_id((char[]){'n', 'o', 'd', 'e', '-', (char)('0' + i), 0}),
		.session = 1000 + i,
		.size_min = size_min,
		.nodes_max = 8,
		.keys_max = 16,
		.send = share_sent,
		.arg = &f->sim.nodes[i],
		.section_max = lb_member_section_max(),
	};

	assert_int_equal(lb_share_new(&f->shares[i], &p, 1000 * SIM_SECOND + f->sim.now_us), 0);
}

static void open_field(struct field *f, uint32_t per_second, uint32_t burst, uint64_t seed)
{
	*f = (struct field){.limit = {per_second, burst}};
	the = f;
	/* The shares first: the membership tells them who is there. */
	f->sim.nodes = NULL;
	sim_init(&f->sim, NODES, seed);
	for (uint32_t i = 0; i < NODES; i++) {
		/* Clocks that have nothing to do with each other. */
		f->sim.nodes[i].skew_us = (int64_t)i * 1234567;
		new_share(f, i, NODES);
	}
	f->sim.on_shares = share_came;
	f->sim.on_changed = member_changed;
	sim_until(&f->sim, NODES, 30 * SIM_SECOND);
}

static void close_field(struct field *f)
{
	for (uint32_t i = 0; i < NODES; i++)
		lb_share_free(&f->shares[i]);
	sim_fini(&f->sim);
}

static void knock(struct field *f, uint32_t i)
{
	struct sim_node *n = &f->sim.nodes[i];

	f->due[i] += f->offered[i] / 1000;
	for (; f->due[i] >= 1; f->due[i]--) {
		if (!n->up || n->stopped_us > f->sim.now_us ||
		    take(f->shares[i], KEY, &f->limit, 0, sim_clock(n)) != LB_SHARE_HAS)
			continue;
		f->taken[i]++;
		f->taken_all++;
	}
}

/* Milliseconds of it; what is taken in any part of it is compared with what the rate would be. */
static void go(struct field *f, uint64_t ms)
{
	for (uint64_t t = 0; t < ms; t++) {
		double paid =
			(double)f->limit.most * (double)(f->sim.now_us - f->begin_us) / SIM_SECOND;
		double over = (double)f->taken_all - paid;

		f->lowest = over < f->lowest ? over : f->lowest;
		sim_run(&f->sim, MS);
		for (uint32_t i = 0; i < NODES; i++) {
			struct sim_node *n = &f->sim.nodes[i];

			knock(f, i);
			if (n->up && n->stopped_us <= f->sim.now_us &&
			    (f->sim.now_us / MS + 7 * i) % LB_SHARE_TICK_MS == 0)
				lb_share_tick(f->shares[i], sim_clock(n));
		}
		over = (double)f->taken_all - paid;
		f->excess = over - f->lowest > f->excess ? over - f->lowest : f->excess;
	}
}

static void count_anew(struct field *f)
{
	memset(f->taken, 0, sizeof(f->taken));
	f->taken_all = 0;
	f->lowest = f->excess = 0;
	f->begin_us = f->sim.now_us;
}

static void offer(struct field *f, double a, double b, double c, double d, double e)
{
	const double rates[NODES] = {a, b, c, d, e};

	memcpy(f->offered, rates, sizeof(rates));
}

/* The bound for a window, less what the rate alone gives: what may be too much at any time. */
static double bound(const struct field *f, uint32_t i)
{
	return (double)lb_share_bound(f->shares[i], &f->limit, 0);
}

static void assert_within(struct field *f)
{
	for (uint32_t i = 0; i < NODES; i++)
		if (f->sim.nodes[i].up && f->excess > bound(f, i))
			fail_msg("%.0f more than the rate, the bound of node %u is %.0f", f->excess,
				 i, bound(f, i));
}

static void assert_near(double taken, double wanted, double permille)
{
	if (taken < wanted * (1 - permille / 1000) || taken > wanted * (1 + permille / 1000))
		fail_msg("%.0f were taken, not %.0f", taken, wanted);
}

static void clients_spread_evenly_get_the_limit(void **state)
{
	struct field f;

	open_field(&f, 1000, 10, 31);
	offer(&f, 400, 400, 400, 400, 400);
	count_anew(&f);
	go(&f, 10000);
	print_message("evenly: %llu in 10 s; at most %.0f beyond the rate, bound %.0f\n",
		      (unsigned long long)f.taken_all, f.excess, bound(&f, 0));
	assert_near((double)f.taken_all, 10000, 50);
	assert_within(&f);
	close_field(&f);
}

static void clients_of_one_node_get_the_limit(void **state)
{
	struct field f;
	uint64_t bytes = 0;

	open_field(&f, 1000, 10, 32);
	offer(&f, 0, 0, 2000, 0, 0);
	count_anew(&f);
	go(&f, 10000);
	for (uint32_t i = 0; i < NODES; i++)
		bytes += lb_share_counts(f.shares[i])->sent_bytes;
	print_message("all at one node: %llu in 10 s; at most %.0f beyond the rate, bound %.0f; "
		      "%llu bytes per node and second\n",
		      (unsigned long long)f.taken_all, f.excess, bound(&f, 0),
		      (unsigned long long)bytes / NODES / 10);
	assert_near((double)f.taken_all, 10000, 50);
	assert_within(&f);
	close_field(&f);
}

static void clients_that_move_to_one_node_get_the_limit(void **state)
{
	struct field f;

	open_field(&f, 1000, 10, 38);
	offer(&f, 400, 400, 400, 400, 400);
	count_anew(&f);
	go(&f, 10000);
	assert_near((double)f.taken_all, 10000, 50);
	offer(&f, 0, 2000, 0, 0, 0);
	f.taken_all = 0;
	f.lowest = 0;
	f.begin_us = f.sim.now_us;
	go(&f, 10000);
	print_message("then all at one node: %llu in the first 10 s; at most %.0f beyond the rate, "
		      "bound %.0f\n",
		      (unsigned long long)f.taken_all, f.excess, bound(&f, 0));
	assert_near((double)f.taken_all, 10000, 50);
	assert_within(&f);
	close_field(&f);
}

static uint64_t sent(const struct field *f)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < NODES; i++)
		n += lb_share_counts(f->shares[i])->sent;
	return n;
}

static void who_wants_nothing_is_not_talked_of(void **state)
{
	struct field f;
	uint64_t before;

	open_field(&f, 1000, 10, 39);
	offer(&f, 2000, 300, 0, 0, 100);
	go(&f, 5000);
	assert_true(sent(&f) > 100);
	offer(&f, 0, 0, 0, 0, 0);
	go(&f, 4000);
	before = sent(&f);
	go(&f, 10000);
	assert_int_equal(sent(&f), before);
	close_field(&f);
}

/* Each time they move half a second is lost, no more. */
static void shares_follow_the_clients(void **state)
{
	struct field f;

	open_field(&f, 1000, 10, 33);
	offer(&f, 400, 400, 400, 400, 400);
	count_anew(&f);
	go(&f, 5000);
	for (uint32_t i = 0; i < 2 * NODES; i++) {
		offer(&f, 0, 0, 0, 0, 0);
		f.offered[i % NODES] = 3000;
		go(&f, 5000);
	}
	print_message("from node to node each 5 s: %llu in 55 s; at most %.0f beyond the rate, "
		      "bound %.0f\n",
		      (unsigned long long)f.taken_all, f.excess, bound(&f, 0));
	assert_near((double)f.taken_all, 55000, 100);
	assert_within(&f);
	/* Two busy ones share it. */
	offer(&f, 800, 800, 0, 0, 0);
	go(&f, 3000);
	count_anew(&f);
	go(&f, 10000);
	assert_near((double)f.taken[0], 500 * 10, 60);
	assert_near((double)f.taken[1], 500 * 10, 60);
	close_field(&f);
}

static void what_is_below_the_limit_is_not_refused(void **state)
{
	struct field f;

	open_field(&f, 1000, 50, 34);
	offer(&f, 600, 80, 80, 80, 60);
	go(&f, 5000);
	count_anew(&f);
	go(&f, 10000);
	assert_near((double)f.taken_all, 9000, 20);
	close_field(&f);
}

static void a_partition_is_within_the_bound(void **state)
{
	struct field f;
	double before, apart, after;

	open_field(&f, 1000, 10, 35);
	offer(&f, 0, 0, 0, 3000, 1000);
	count_anew(&f);
	go(&f, 10000);
	before = (double)f.taken_all / 10;
	/* 3|2, with clients on both sides: those that had lent all of it, too. */
	for (uint32_t i = 3; i < NODES; i++)
		f.sim.nodes[i].group = 1;
	offer(&f, 3000, 1000, 0, 3000, 1000);
	f.taken_all = 0;
	f.lowest = 0;
	f.begin_us = f.sim.now_us;
	go(&f, 60000);
	apart = (double)f.taken_all / 60;
	f.taken_all = 0;
	f.lowest = 0;
	f.begin_us = f.sim.now_us;
	for (uint32_t i = 3; i < NODES; i++)
		f.sim.nodes[i].group = 0;
	go(&f, 20000);
	after = (double)f.taken_all / 20;
	print_message("partition 3|2: %.0f/s before, %.0f/s apart, %.0f/s after; at most %.0f "
		      "beyond the rate, bound %.0f\n",
		      before, apart, after, f.excess, bound(&f, 0));
	assert_within(&f);
	assert_near(apart, 1000, 50);
	assert_near(after, 1000, 50);
	for (uint32_t i = 0; i < NODES; i++)
		assert_int_equal(lb_share_size(f.shares[i]), NODES);
	close_field(&f);
}

static void an_evil_network_is_within_the_bound(void **state)
{
	struct field f;
	uint64_t random = 99;

	open_field(&f, 1000, 10, 36);
	f.sim.loss_permille = 200;
	f.sim.double_permille = 200;
	f.sim.jitter_us = 300 * MS;
	count_anew(&f);
	for (uint32_t i = 0; i < 60; i++) {
		struct sim_node *n = &f.sim.nodes[lb_random_next(&random) % NODES];

		for (uint32_t j = 0; j < NODES; j++)
			f.offered[j] = (double)(lb_random_next(&random) % 3 * 1500);
		if (i % 3 == 0)
			n->group = !n->group;
		if (i % 5 == 0)
			n->stopped_us = f.sim.now_us + 1500 * MS;
		go(&f, 700 + lb_random_next(&random) % 2000);
	}
	print_message("20 %% lost, late, doubled, cut and stopped: at most %.0f beyond the rate, "
		      "bound %.0f\n",
		      f.excess, bound(&f, 0));
	assert_within(&f);
	close_field(&f);
}

static void who_leaves_leaves_its_share(void **state)
{
	struct field f;
	struct sim_node *n;

	open_field(&f, 1000, 10, 37);
	/* Nobody has said how many there are to be. */
	for (uint32_t i = 0; i < NODES; i++) {
		lb_share_free(&f.shares[i]);
		new_share(&f, i, 1);
		for (uint32_t j = 0; j < NODES; j++)
			if (j != i)
				assert_int_equal(lb_share_join(f.shares[i], f.sim.nodes[j].id,
							       sim_clock(&f.sim.nodes[i])),
						 0);
	}
	offer(&f, 3000, 3000, 3000, 3000, 0);
	count_anew(&f);
	go(&f, 5000);
	n = &f.sim.nodes[4];
	lb_member_leave(n->g, sim_clock(n));
	go(&f, 3000);
	sim_kill(&f.sim, 4);
	go(&f, 5000);
	assert_within(&f);
	for (uint32_t i = 0; i < 4; i++)
		assert_int_equal(lb_share_size(f.shares[i]), 4);
	assert_near((double)f.taken_all, 13000, 50);
	close_field(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clients_spread_evenly_get_the_limit),
		cmocka_unit_test(clients_of_one_node_get_the_limit),
		cmocka_unit_test(clients_that_move_to_one_node_get_the_limit),
		cmocka_unit_test(who_wants_nothing_is_not_talked_of),
		cmocka_unit_test(shares_follow_the_clients),
		cmocka_unit_test(what_is_below_the_limit_is_not_refused),
		cmocka_unit_test(a_partition_is_within_the_bound),
		cmocka_unit_test(an_evil_network_is_within_the_bound),
		cmocka_unit_test(who_leaves_leaves_its_share),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
