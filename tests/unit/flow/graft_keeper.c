/* SPDX-License-Identifier: MIT */
/*
 * The keeper over a table in memory, with a clock of our own: what the program would write into the
 * table the tests write, what the keeper would send they record.
 */
#include "flow/graft_keeper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "flow/client_connection_limit.h"
#include "unit/flow/graft_keeper.h"

/* --- the bench -------------------------------------------------------------------------------- */

static void keep_line(struct lb_flow_env *env, const char *line, size_t len)
{
	fx.lines++;
	memcpy(fx.line, line, len);
	fx.line[len] = '\0';
}

static void advance(uint64_t ms)
{
	for (uint64_t i = 0; i < ms; i++) {
		fx.now_ns += 1000000;
		for (size_t t = 0; t < LB_ARRAY_SIZE(fx.timers); t++) {
			struct lb_timer *timer = fx.timers[t];

			if (!timer || !timer->armed || timer->due_ms > fx.now_ns / 1000000)
				continue;
			timer->armed = false;
			timer->fn(timer);
		}
	}
}

/* What the program does when something ends. */
static void tell(uint32_t pair)
{
	fx.events[fx.events_count++] = pair;
	fx.ring->fn(fx.ring, EPOLLIN);
}

static void set_addr(struct lb_graft_leg *leg, uint32_t own, uint32_t peer, uint16_t own_port,
		     uint16_t peer_port)
{
	leg->saddr[0] = htonl(own);
	leg->daddr[0] = htonl(peer);
	leg->sport = htons(own_port);
	leg->dport = htons(peer_port);
}

/* Pair <pair> as a session has left it: client 192.0.2.9:4000, backend 192.0.2.1:80. */
static struct lb_graft *graft(uint32_t pair)
{
	struct lb_graft *g = &fx.table[pair];

	set_addr(&g->leg[LB_LEG_CLIENT], 0xc0000202, 0xc0000201, (uint16_t)(20000 + pair), 80);
	set_addr(&g->leg[LB_LEG_BACKEND], 0xc0000202, 0xc0000209, 8080, 4000);
	g->leg[0].ack_max = 1111;
	g->leg[1].ack_max = 2222;
	g->leg[0].bytes = 700;
	g->leg[1].bytes = 900;
	g->leg[0].last_ns = g->leg[0].data_ns = fx.now_ns;
	g->accept_ns = fx.now_ns - 5 * SECOND;
	g->tries = 1;
	g->rule_hash = lb_graft_keeper_hash("web");
	g->stage = LB_GRAFT_FULL;
	g->counted = LB_GRAFT_KEPT;
	fx.hooked[pair * 2] = fx.hooked[pair * 2 + 1] = true;
	lb_ports_take(fx.ports, (uint16_t)(20000 + pair));
	return g;
}

/* .. while a daemon runs. */
static struct lb_graft *living(uint32_t pair)
{
	struct lb_graft *g = graft(pair);
	uint32_t got;

	assert_int_equal(lb_grafts_get(fx.grafts, &got), 0);
	assert_int_equal(got, pair);
	fx.counters[0].active++;
	fx.backend.active++;
	fx.backend.holders++;
	*lb_grafts_owner(fx.grafts, pair) = (struct lb_graft_owner){
		.rule = &fx.rule, .backend = &fx.backend, .ports = lb_ports_hold(fx.ports)};
	fx.limits.grafts++;
	return g;
}

static void start(void)
{
	const struct lb_graft_keeper_opts opts = {
		.env = &fx.env, .rules = &fx.rule, .rules_count = 1, .ports = fx.shelf};

	assert_int_equal(lb_graft_keeper_new(&fx.keeper, &opts), 0);
}

static int setup(void **state)
{
	const struct lb_graft_config config = {
		.max_flows = PAIRS, .port_min = 20000, .port_max = 20100};

	memset(&fx, 0, sizeof(fx));
	fx.now_ns = 1000 * SECOND;
	fx.config.name = (char *)"web";
	fx.config.timeouts.idle_ms = 60000;
	fx.backend_config.addr = (char *)"backend.example:80";
	fx.backend.config = &fx.backend_config;
	assert_int_equal(lb_addr_parse("192.0.2.1:80", &fx.backend.addr), 0);
	fx.backend.pool = &fx.pool;
	fx.backend.id = 11;
	fx.backend.holders = 1;
	fx.set[0] = &fx.backend;
	fx.pool = (struct lb_pool){.backends = fx.set, .count = 1};
	pthread_mutex_init(&fx.pool.lock, NULL);
	lb_list_init(&fx.pool.left);
	fx.rule = (struct lb_rule){.config = &fx.config, .id = 7, .pool = &fx.pool};
	assert_int_equal(lb_select_new(&fx.rule.select, &fx.pool, 0), 0);
	fx.env.limits = &fx.limits;
	fx.env.counters = fx.counters;
	fx.env.log_line = keep_line;
	assert_int_equal(lb_ports_shelf_new(&fx.shelf), 0);
	assert_int_equal(lb_ports_open(fx.shelf, &fx.backend.addr, 20000, 20100, &fx.ports), 0);
	assert_int_equal(lb_grafts_new(&fx.grafts, NULL, &config), 0);
	fx.env.carrier.grafts = fx.grafts;
	return 0;
}

static int teardown(void **state)
{
	lb_graft_keeper_free(&fx.keeper);
	lb_grafts_free(&fx.grafts);
	lb_ports_shelf_free(&fx.shelf);
	lb_select_free(&fx.rule.select);
	return 0;
}

static void assert_gone(uint32_t pair)
{
	assert_int_equal(fx.table[pair].stage, LB_GRAFT_FREE);
	assert_false(fx.hooked[pair * 2] || fx.hooked[pair * 2 + 1]);
	assert_true(lb_ports_may_graft(fx.ports, (uint16_t)(20000 + pair)));
}

static void assert_counted_out(enum lb_reason reason)
{
	assert_int_equal(fx.counters[0].ends[reason], 1);
	assert_int_equal(fx.counters[0].active, 0);
	assert_int_equal(fx.backend.active, 0);
	assert_int_equal(fx.backend.holders, 1);
	assert_int_equal(fx.limits.grafts, 0);
	assert_int_equal(fx.lines, 1);
}

static void close_both_ways(struct lb_graft *g)
{
	g->leg[0].flags |= LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED;
	g->leg[1].flags |= LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED;
}

/* --- claims ----------------------------------------------------------------------------------- */

static void two_acknowledged_fins_are_written_down_at_once_and_linger(void **state)
{
	start();
	close_both_ways(living(0));
	fx.table[0].leg[0].flags |= LB_GRAFT_RST; /* later */
	tell(0);
	assert_counted_out(LB_REASON_DONE);
	assert_non_null(strstr(fx.line, " rule=web client=192.0.2.9:4000 "
					"backend=backend.example:80 carrier=graft why=none "
					"reason=done up=700 down=900 duration_ms=5000 "));
	advance(900);
	assert_int_equal(fx.table[0].stage, LB_GRAFT_FULL);
	advance(200);
	assert_gone(0);
	assert_int_equal(fx.lines, 1);
	assert_int_equal(fx.resets_count, 0);
}

static void a_half_closed_flow_lives(void **state)
{
	start();
	living(0)->leg[0].flags |= LB_GRAFT_FIN | LB_GRAFT_FIN_ACKED;
	tell(0);
	advance(5000);
	assert_true(!fx.lines && fx.hooked[0] && fx.hooked[1]);
}

static void a_reset_is_believed_after_silence(void **state)
{
	start();
	living(0)->leg[1].flags |= LB_GRAFT_RST;
	tell(0);
	assert_int_equal(fx.lines, 0);
	advance(1100);
	assert_counted_out(LB_REASON_RESET_BY_BACKEND);
	assert_gone(0);
}

/* The client resets; 800 ms later <leg> is heard from, then 400 ms pass. */
static struct lb_graft *reset_and_heard_from(unsigned int leg)
{
	struct lb_graft *g;

	start();
	g = living(0);
	g->leg[LB_LEG_CLIENT].flags |= LB_GRAFT_RST;
	tell(0);
	advance(800);
	g->leg[leg].last_ns = fx.now_ns;
	advance(400);
	return g;
}

static void a_reset_that_the_flow_survives_is_taken_back(void **state)
{
	struct lb_graft *g = reset_and_heard_from(LB_LEG_CLIENT);

	assert_int_equal(fx.lines, 0);
	assert_int_equal(g->leg[0].flags & LB_GRAFT_RST, 0);
	assert_true(fx.hooked[0]);
	/* And a later, true one still counts. */
	g->leg[0].flags |= LB_GRAFT_RST;
	tell(0);
	advance(1100);
	assert_counted_out(LB_REASON_RESET_BY_CLIENT);
}

/* It has not heard of the reset, or tries again what was lost: no word from the side that left. */
static void a_peer_that_speaks_on_takes_no_reset_back(void **state)
{
	(void)reset_and_heard_from(LB_LEG_BACKEND);
	assert_counted_out(LB_REASON_RESET_BY_CLIENT);
	assert_gone(0);
}

static void an_event_that_was_lost_is_found_by_the_sweep(void **state)
{
	start();
	close_both_ways(living(0));
	advance(1100);
	assert_counted_out(LB_REASON_DONE);
	advance(1100);
	assert_gone(0);
}

static void an_idle_flow_is_reset_with_the_numbers_its_peers_expect(void **state)
{
	start();
	living(0);
	advance(59000);
	assert_int_equal(fx.lines, 0);
	advance(2500);
	assert_counted_out(LB_REASON_IDLE);
	assert_gone(0);
	assert_int_equal(fx.resets_count, 2);
	assert_int_equal(ntohs(fx.resets[0].to.in4.sin_port), 4000);
	assert_int_equal(fx.resets[0].seq, 1111);
	assert_int_equal(ntohs(fx.resets[1].to.in4.sin_port), 80);
	assert_int_equal(fx.resets[1].seq, 2222);
}

static void data_keeps_a_flow_alive_and_bare_packets_do_not(void **state)
{
	struct lb_graft *g;

	start();
	g = living(0);
	advance(50000);
	g->leg[1].data_ns = fx.now_ns;
	advance(50000);
	assert_int_equal(fx.lines, 0);
	g->leg[0].last_ns = fx.now_ns;
	advance(12500);
	assert_counted_out(LB_REASON_IDLE);
}

static void a_flow_ends_at_its_lifetime(void **state)
{
	struct lb_graft *g;

	fx.config.timeouts.max_lifetime_ms = 20000;
	start();
	g = living(0); /* five seconds old */
	advance(14000);
	g->leg[0].data_ns = fx.now_ns;
	assert_int_equal(fx.lines, 0);
	advance(2500);
	assert_counted_out(LB_REASON_MAX_LIFETIME);
}

static void a_cut_ends_what_lives_and_leaves_what_has_ended(void **state)
{
	start();
	living(0);
	close_both_ways(living(1));
	tell(1);
	assert_int_equal(fx.lines, 1);
	lb_graft_keeper_cut(fx.keeper, LB_FLOWS_OF_RULE(7), LB_REASON_DRAINED);
	assert_int_equal(fx.counters[0].ends[LB_REASON_DRAINED], 1);
	assert_int_equal(fx.counters[0].ends[LB_REASON_DONE], 1);
	assert_int_equal(fx.lines, 2);
	assert_int_equal(fx.resets_count, 2);
	assert_gone(0);
}

static void a_cut_of_another_rule_cuts_nobody(void **state)
{
	start();
	living(0);
	lb_graft_keeper_cut(fx.keeper, LB_FLOWS_OF_RULE(8), LB_REASON_DRAINED);
	assert_false(fx.lines);
}

static void a_pair_that_a_session_still_owns_is_left_alone(void **state)
{
	struct lb_graft *g;

	start();
	g = living(0);
	g->counted = LB_GRAFT_SESSION;
	close_both_ways(g);
	tell(0);
	advance(5000);
	lb_graft_keeper_cut(fx.keeper, LB_FLOWS_ALL, LB_REASON_DRAINED);
	assert_true(!fx.lines && !fx.resets_count);
}

static void bytes_are_folded_once(void **state)
{
	struct lb_graft *g;

	start();
	g = living(0);
	g->folded[0] = 100; /* the session's */
	lb_graft_keeper_fold(fx.keeper);
	lb_graft_keeper_fold(fx.keeper);
	assert_int_equal(fx.counters[0].bytes[0], 600);
	assert_int_equal(fx.counters[0].bytes[1], 900);
	g->leg[0].bytes += 50;
	close_both_ways(g);
	tell(0);
	assert_int_equal(fx.counters[0].bytes[0], 650);
	assert_int_equal(fx.counters[0].carrier_bytes[LB_CARRIER_GRAFT], 1550);
}

/* Of flows whose backend spoke when no session was there any more. */
static void a_first_byte_is_counted_once_if_the_session_has_not(void **state)
{
	struct lb_graft *g;

	start();
	g = living(0);
	g->leg[1].connected_us = 2000000;
	lb_graft_keeper_fold(fx.keeper);
	assert_int_equal(fx.counters[0].first_byte_sum_us, 0);
	g->leg[1].first_ns = g->accept_ns + 2 * SECOND + 30000000;
	lb_graft_keeper_fold(fx.keeper);
	lb_graft_keeper_fold(fx.keeper);
	assert_int_equal(fx.counters[0].first_byte_sum_us, 30000);
	assert_int_equal(fx.counters[0].first_bytes[6], 1);
	close_both_ways(g);
	tell(0);
	assert_int_equal(fx.counters[0].first_byte_sum_us, 30000);
	assert_non_null(strstr(fx.line, " first_byte_ms=30.0 "));

	g = living(1);
	g->leg[1].first_ns = g->accept_ns;
	g->first_told = true;
	lb_graft_keeper_fold(fx.keeper);
	assert_int_equal(fx.counters[0].first_byte_sum_us, 30000);
	assert_int_equal(fx.counters[0].first_bytes[0], 0);
}

static void a_new_daemon_takes_over_what_is_grafted(void **state)
{
	struct lb_graft *g = graft(3);

	g->due_ns = 7;
	start();
	assert_int_equal(lb_graft_keeper_adopted(fx.keeper), 1);
	assert_int_equal(fx.counters[0].active, 1);
	assert_int_equal(fx.backend.active, 1);
	assert_false(lb_ports_may_graft(fx.ports, 20003));
	close_both_ways(g);
	tell(3);
	assert_counted_out(LB_REASON_DONE);
}

static void what_ended_while_no_daemon_ran_is_written_down(void **state)
{
	close_both_ways(graft(3));
	start();
	/* Not before it is sure that this daemon comes up: the next one would do it again. */
	assert_int_equal(fx.lines, 0);
	advance(1100);
	assert_counted_out(LB_REASON_DONE);
	advance(1100);
	assert_gone(3);
}

static void a_flow_of_a_rule_that_is_gone_lives_on_without_a_name(void **state)
{
	struct lb_graft *g = graft(2);

	g->rule_hash++;
	start();
	assert_int_equal(lb_graft_keeper_adopted(fx.keeper), 1);
	assert_int_equal(fx.counters[0].active, 0);
	close_both_ways(g);
	tell(2);
	assert_int_equal(fx.lines, 1);
	assert_non_null(strstr(fx.line, " rule=- client=192.0.2.9:4000 backend=192.0.2.1:80 "));
}

static void what_was_not_grafted_yet_died_with_its_daemon(void **state)
{
	graft(1)->stage = LB_GRAFT_PASS;
	graft(2)->stage = LB_GRAFT_SPLIT;
	graft(4)->counted = LB_GRAFT_LINGERS;
	start();
	assert_int_equal(lb_graft_keeper_adopted(fx.keeper), 0);
	for (uint32_t i = 0; i < PAIRS; i++) {
		assert_int_equal(fx.table[i].stage, LB_GRAFT_FREE);
		assert_false(fx.hooked[i * 2] || fx.hooked[i * 2 + 1]);
	}
	/* In PASS the kernel has told the peers; in SPLIT only we can. */
	assert_true(fx.resets_count == 2 && !fx.lines);
	for (uint32_t i = 0, pair; i < PAIRS; i++)
		assert_int_equal(lb_grafts_get(fx.grafts, &pair), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void of_one_backend_only_its_own_are_cut(void **state)
{
	start();
	living(0);
	lb_graft_keeper_cut(fx.keeper, LB_FLOWS_OF_BACKEND(12), LB_REASON_BACKEND_DOWN);
	assert_int_equal(fx.counters[0].ends[LB_REASON_BACKEND_DOWN], 0);
	lb_graft_keeper_cut(fx.keeper, LB_FLOWS_OF_BACKEND(11), LB_REASON_BACKEND_DOWN);
	assert_int_equal(fx.counters[0].ends[LB_REASON_BACKEND_DOWN], 1);
}

static void a_graft_counts_for_its_client_until_its_end(void **state)
{
	struct lb_client_connection_limit *limit;
	struct lb_addr client;

	assert_int_equal(lb_client_connection_limit_new(&limit, 1), 0);
	assert_int_equal(lb_addr_parse("192.0.2.9:1", &client), 0);
	fx.rule.client_connection_limit = limit;
	graft(0);
	start();
	assert_int_equal(lb_client_connection_limit_clients(limit), 1);
	assert_false(lb_client_connection_limit_take(limit, &client, 0));
	lb_graft_keeper_cut(fx.keeper, LB_FLOWS_ALL, LB_REASON_DRAINED);
	advance(2000);
	assert_int_equal(lb_client_connection_limit_clients(limit), 0);
	lb_client_connection_limit_free(&limit);
}

static void a_client_that_a_header_named_is_counted_and_written_down(void **state)
{
	static const char *const texts[] = {"198.51.100.7:5", "[2001:db8::7]:5"};

	for (uint32_t i = 0; i < LB_ARRAY_SIZE(texts); i++) {
		struct lb_client_connection_limit *limit;
		struct lb_addr client;
		char want[128];

		teardown(state);
		setup(state);
		assert_int_equal(lb_client_connection_limit_new(&limit, 1), 0);
		assert_int_equal(lb_addr_parse(texts[i], &client), 0);
		fx.rule.client_connection_limit = limit;
		lb_graft_set_client(graft(0), &client);
		start();
		assert_false(lb_client_connection_limit_take(limit, &client, 0));
		lb_graft_keeper_cut(fx.keeper, LB_FLOWS_ALL, LB_REASON_DRAINED);
		advance(2000);
		assert_int_equal(lb_client_connection_limit_clients(limit), 0);
		snprintf(want, sizeof(want), " client=%s backend=", texts[i]);
		assert_non_null(strstr(fx.line, want));
		lb_client_connection_limit_free(&limit);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(two_acknowledged_fins_are_written_down_at_once_and_linger),
		TEST(a_half_closed_flow_lives),
		TEST(a_reset_is_believed_after_silence),
		TEST(a_reset_that_the_flow_survives_is_taken_back),
		TEST(a_peer_that_speaks_on_takes_no_reset_back),
		TEST(an_event_that_was_lost_is_found_by_the_sweep),
		TEST(an_idle_flow_is_reset_with_the_numbers_its_peers_expect),
		TEST(data_keeps_a_flow_alive_and_bare_packets_do_not),
		TEST(a_flow_ends_at_its_lifetime),
		TEST(a_cut_ends_what_lives_and_leaves_what_has_ended),
		TEST(a_cut_of_another_rule_cuts_nobody),
		TEST(of_one_backend_only_its_own_are_cut),
		TEST(a_graft_counts_for_its_client_until_its_end),
		TEST(a_client_that_a_header_named_is_counted_and_written_down),
		TEST(a_pair_that_a_session_still_owns_is_left_alone),
		TEST(bytes_are_folded_once),
		TEST(a_first_byte_is_counted_once_if_the_session_has_not),
		TEST(a_new_daemon_takes_over_what_is_grafted),
		TEST(what_ended_while_no_daemon_ran_is_written_down),
		TEST(a_flow_of_a_rule_that_is_gone_lives_on_without_a_name),
		TEST(what_was_not_grafted_yet_died_with_its_daemon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
