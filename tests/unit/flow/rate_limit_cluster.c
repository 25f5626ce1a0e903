/* SPDX-License-Identifier: MIT */
/* Five nodes, their rules' buckets and what they share of them, on a simulated network. */
#include "flow/rate_limit.h"

#include "../cluster/sim.h"

#define NODES  5u
#define MS     1000ull
#define CLIENT 0x0a000001u
#define CROWD  0x0a010000u

struct field {
	struct sim sim;
	struct lb_limits *limits[NODES];
	struct lb_rate_limit *rates[NODES];
	struct lb_rate_limit_config config;
	uint32_t crowd;        /* clients that knock in turn; 0: one client */
	double offered[NODES]; /* per second */
	double due[NODES];
	uint64_t asked[NODES], taken[NODES], taken_all;
	/* The most that was taken beyond the rate in any time up to now. */
	double lowest, excess;
	uint64_t begin_us;
};

static struct field *the;

static void share_came(struct sim_node *n, uint64_t sender, const uint8_t *bytes, size_t len)
{
	lb_limits_receive(the->limits[n->index], sender, bytes, len, sim_clock(n));
}

static void say(void *arg, uint64_t id, const uint8_t *bytes, size_t len)
{
	struct sim_node *n = arg;

	(void)lb_member_say(n->g, id, LB_WIRE_SHARES, bytes, len);
}

static void member_changed(struct sim_node *n, uint64_t id, enum lb_member_event e)
{
	struct lb_limits *l = the->limits[n->index];

	if (e == LB_MEMBER_JOINED)
		assert_int_equal(lb_limits_join(l, id, sim_clock(n)), 0);
	else if (e == LB_MEMBER_DIED)
		lb_limits_silent(l, id);
	else if (e == LB_MEMBER_WENT || e == LB_MEMBER_FORGOTTEN)
		lb_limits_leave(l, id, sim_clock(n));
}

static void open_field(struct field *f, const struct lb_rate_limit_config *config, uint32_t min)
{
	*f = (struct field){.config = *config};
	the = f;
	sim_init(&f->sim, NODES, 51);
	for (uint32_t i = 0; i < NODES; i++) {
		struct lb_limits_params p = {
			.self = f->sim.nodes[i].id,
			.session = 1 + i,
			.nodes_min = min,
			.nodes_max = 64,
			.section_max = lb_member_section_max(),
		};

		f->sim.nodes[i].skew_us = (int64_t)i * 7654321;
		assert_int_equal(lb_limits_new(&f->limits[i], &p, 1000 * SIM_SECOND), 0);
		assert_int_equal(lb_rate_limit_new(&f->rates[i], config), 0);
		lb_rate_limit_share(f->rates[i], f->limits[i], "r", 1000 * SIM_SECOND * 1000);
	}
	f->sim.on_shares = share_came;
	f->sim.on_changed = member_changed;
	sim_until(&f->sim, NODES, 30 * SIM_SECOND);
}

static void close_field(struct field *f)
{
	for (uint32_t i = 0; i < NODES; i++) {
		lb_rate_limit_free(&f->rates[i]);
		lb_limits_free(&f->limits[i]);
	}
	sim_fini(&f->sim);
}

static struct lb_addr client(const struct field *f, uint32_t i)
{
	struct lb_addr a = {.in4.sin_family = AF_INET};

	a.in4.sin_addr.s_addr =
		htonl(f->crowd ? CROWD + (uint32_t)(f->asked[i] % f->crowd) : CLIENT);
	return a;
}

static void knock(struct field *f, uint32_t i)
{
	f->due[i] += f->offered[i] / 1000;
	for (; f->due[i] >= 1; f->due[i]--, f->asked[i]++) {
		struct lb_addr from = client(f, i);
		uint64_t until, now_ns = sim_clock(&f->sim.nodes[i]) * 1000;

		if (lb_rate_limit_take(f->rates[i], &from, now_ns, &until) != LB_RATE_LIMIT_TAKEN) {
			assert_true(until > now_ns && until <= now_ns + 100000000);
			continue;
		}
		f->taken[i]++;
		f->taken_all++;
	}
}

static void go(struct field *f, double rate, uint64_t ms)
{
	for (uint64_t t = 0; t < ms; t++) {
		double paid = rate * (double)(f->sim.now_us - f->begin_us) / SIM_SECOND, over;

		over = (double)f->taken_all - paid;
		f->lowest = over < f->lowest ? over : f->lowest;
		sim_run(&f->sim, MS);
		for (uint32_t i = 0; i < NODES; i++) {
			knock(f, i);
			if ((f->sim.now_us / MS + 13 * i) % LB_SHARE_TICK_MS == 0)
				lb_limits_tick(f->limits[i], sim_clock(&f->sim.nodes[i]), say,
					       &f->sim.nodes[i]);
		}
		over = (double)f->taken_all - paid;
		f->excess = over - f->lowest > f->excess ? over - f->lowest : f->excess;
	}
}

static void begin(struct field *f, double a, double b, double c, double d, double e)
{
	const double rates[NODES] = {a, b, c, d, e};

	memcpy(f->offered, rates, sizeof(rates));
	memset(f->taken, 0, sizeof(f->taken));
	memset(f->asked, 0, sizeof(f->asked));
	f->taken_all = 0;
	f->lowest = 0;
	f->begin_us = f->sim.now_us;
}

static void assert_near(const char *what, double taken, double wanted, double permille)
{
	print_message("%s: %.0f, wanted %.0f\n", what, taken, wanted);
	if (taken < wanted * (1 - permille / 1000) || taken > wanted * (1 + permille / 1000))
		fail_msg("%s: %.0f were taken, not %.0f", what, taken, wanted);
}

/* What may be too much by what node <i> says: burst and overshoot. */
static double allowed(struct field *f, uint32_t i, double rate, double burst)
{
	struct lb_limits_report r;

	lb_limits_look(f->limits[i], sim_clock(&f->sim.nodes[i]), &r, NULL, NULL);
	return burst + (rate + burst) * (double)r.excess_ppm / 1000000 + (double)r.excess;
}

static void assert_within(struct field *f, double rate, double burst)
{
	for (uint32_t i = 0; i < NODES; i++)
		if (f->excess > allowed(f, i, rate, burst))
			fail_msg("%.0f beyond the rate, node %u allows %.0f", f->excess, i,
				 allowed(f, i, rate, burst));
}

static uint32_t keys(struct field *f, uint32_t i)
{
	struct lb_limits_report r;

	lb_limits_look(f->limits[i], sim_clock(&f->sim.nodes[i]), &r, NULL, NULL);
	return r.keys;
}

static const struct lb_rate_limit_config one_client = {
	.enabled = true,
	.requests_per_second = 1000,
	.burst = 100,
	.ipv6_prefix = 64,
	.cluster = true,
};
static const struct lb_rate_limit_config a_crowd = {
	.enabled = true,
	.requests_per_second = 50,
	.burst = 50,
	.rule_requests_per_second = 1000,
	.rule_burst = 100,
	.ipv6_prefix = 64,
	.cluster = true,
};

static void a_client_gets_its_rate_wherever_it_comes(void **state)
{
	struct field f;

	open_field(&f, &one_client, NODES);
	begin(&f, 400, 400, 400, 400, 400);
	go(&f, 1000, 10000);
	assert_near("a client, evenly", (double)f.taken_all, 10100, 50);
	begin(&f, 0, 0, 2000, 0, 0);
	go(&f, 1000, 10000);
	assert_near("then all at one node", (double)f.taken_all, 10000, 50);
	assert_within(&f, 1000, 100);
	close_field(&f);
	/* Nobody has heard of it before. */
	open_field(&f, &one_client, NODES);
	begin(&f, 0, 0, 2000, 0, 0);
	go(&f, 1000, 10000);
	assert_near("a new one at one node", (double)f.taken_all, 10000, 50);
	assert_within(&f, 1000, 100);
	close_field(&f);
}

static void a_crowd_gets_the_rate_of_the_rule(void **state)
{
	struct field f;

	open_field(&f, &a_crowd, NODES);
	f.crowd = 1000;
	begin(&f, 400, 400, 400, 400, 400);
	go(&f, 1000, 10000);
	assert_near("a crowd, evenly", (double)f.taken_all, 10100, 50);
	/* Only the rule is short: no client is told of. */
	assert_int_equal(keys(&f, 0), 1);
	begin(&f, 2000, 0, 0, 0, 0);
	go(&f, 1000, 10000);
	assert_near("then all at one node", (double)f.taken_all, 10000, 50);
	assert_within(&f, 1000, 100);
	close_field(&f);
}

static void who_is_below_its_share_costs_nothing(void **state)
{
	struct field f;

	open_field(&f, &a_crowd, NODES);
	f.crowd = 100;
	begin(&f, 150, 150, 150, 150, 150);
	go(&f, 1000, 20000);
	assert_int_equal(f.taken_all, f.asked[0] * NODES);
	for (uint32_t i = 0; i < NODES; i++)
		assert_int_equal(keys(&f, i), 0);
	close_field(&f);
}

static void a_partition_is_within_what_is_said(void **state)
{
	struct field f;

	open_field(&f, &one_client, NODES);
	begin(&f, 0, 0, 0, 3000, 0);
	go(&f, 1000, 5000);
	for (uint32_t i = 3; i < NODES; i++)
		f.sim.nodes[i].group = 1;
	begin(&f, 3000, 0, 0, 3000, 3000);
	go(&f, 1000, 30000);
	/* Each node what it owns, and no more: three of five knock, and one lends to another. */
	assert_near("apart", (double)f.taken_all / 30, 1000, 50);
	for (uint32_t i = 3; i < NODES; i++)
		f.sim.nodes[i].group = 0;
	go(&f, 1000, 20000);
	begin(&f, 0, 0, 0, 3000, 0);
	go(&f, 1000, 10000);
	assert_near("together again", (double)f.taken_all / 10, 1000, 60);
	assert_within(&f, 1000, 100);
	close_field(&f);
}

/* Nobody has said how many there are to be: each has all of it until it meets another. */
/* A token of one of many nodes takes long; many of them take more ns than 64 bits hold. */
static void a_large_burst_of_a_slow_rate_is_whole(void **state)
{
	const struct lb_rate_limit_config config = {
		.requests_per_second = 1, .burst = 100000000, .ipv6_prefix = 64};
	const struct lb_limits_params p = {
		.self = 1,
		.session = 1,
		.nodes_min = 200,
		.nodes_max = 256,
		.section_max = lb_member_section_max(),
	};
	struct lb_addr from = {.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(CLIENT)}};
	const uint64_t now_ns = 1000 * SIM_SECOND * 1000;
	struct lb_limits_report report;
	struct lb_rate_limit *rate;
	struct lb_limits *limits;
	uint64_t until;

	assert_int_equal(lb_limits_new(&limits, &p, 1000 * SIM_SECOND), 0);
	assert_int_equal(lb_rate_limit_new(&rate, &config), 0);
	lb_rate_limit_share(rate, limits, "r", now_ns);
	for (uint32_t i = 0; i < config.burst / p.nodes_min; i++)
		assert_int_equal(lb_rate_limit_take(rate, &from, now_ns, &until),
				 LB_RATE_LIMIT_TAKEN);
	/* All of it was this node's own. */
	lb_limits_look(limits, 1000 * SIM_SECOND, &report, NULL, NULL);
	assert_int_equal(report.keys, 0);
	lb_rate_limit_free(&rate);
	lb_limits_free(&limits);
}

static void who_has_met_shares(void **state)
{
	struct field f;

	open_field(&f, &one_client, 1);
	for (uint32_t i = 0; i < NODES; i++)
		assert_int_equal(lb_limits_size(f.limits[i]), NODES);
	begin(&f, 0, 0, 0, 0, 2000);
	go(&f, 1000, 50);
	/* Its part of the burst, and of the rate. */
	assert_in_range(f.taken_all, 28, 32);
	close_field(&f);
}

/* Two that have the same key do not share a bucket. */
static void a_stranger_with_the_same_key_is_judged_alone(void **state)
{
	const struct lb_share_label a = {.rule = "r", .addr = {1}}, b = {.rule = "r"};
	struct lb_limits_params p = {
		.self = 1, .nodes_min = 2, .nodes_max = 2, .section_max = 1000};
	struct lb_limits_ask ask = {.share = {7, {10, 2}, &a, LB_SHARE_TOKEN}};
	struct lb_limits_report r;
	struct lb_limits *l;
	uint64_t until;

	assert_int_equal(lb_limits_new(&l, &p, 1000), 0);
	/* Short of it: taken up, and empty as its own bucket is. */
	assert_int_equal(lb_limits_take(l, &ask, 1, 2000, &until), 0);
	ask.share.label = &b;
	assert_int_equal(lb_limits_take(l, &ask, 1, 2000, &until), 0);
	assert_int_equal(until, 102000);
	ask.has = true;
	assert_int_equal(lb_limits_take(l, &ask, 1, 2000, &until), 1);
	lb_limits_look(l, 2000, &r, NULL, NULL);
	assert_int_equal(r.keys, 1);
	assert_int_equal(r.counts.untracked, 1);
	lb_limits_free(&l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_client_gets_its_rate_wherever_it_comes),
		cmocka_unit_test(a_crowd_gets_the_rate_of_the_rule),
		cmocka_unit_test(who_is_below_its_share_costs_nothing),
		cmocka_unit_test(a_partition_is_within_what_is_said),
		cmocka_unit_test(who_has_met_shares),
		cmocka_unit_test(a_large_burst_of_a_slow_rate_is_whole),
		cmocka_unit_test(a_stranger_with_the_same_key_is_judged_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
