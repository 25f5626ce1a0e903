/* SPDX-License-Identifier: MIT */
/* Flows that go from one daemon to another, in every state that relay may have them in. */
#include "unit/flow/handover.h"

#include <signal.h>

static void assert_totals(uint64_t bytes_up, uint64_t bytes_down)
{
	const struct lb_counters *a = &old.counters[0], *b = &new.counters[0];

	assert_int_equal(a->bytes[0] + b->bytes[0], bytes_up);
	assert_int_equal(a->bytes[1] + b->bytes[1], bytes_down);
	assert_int_equal(a->carrier_bytes[LB_CARRIER_RELAY] + b->carrier_bytes[LB_CARRIER_RELAY],
			 bytes_up + bytes_down);
	assert_int_equal(a->connections + b->connections, 1);
	assert_int_equal(a->ends[LB_REASON_DONE] + b->ends[LB_REASON_DONE], 1);
	assert_int_equal(a->flows[LB_CARRIER_RELAY] + b->flows[LB_CARRIER_RELAY], 1);
	for (unsigned int d = 0; d < 2; d++)
		assert_int_equal(backend_of(&old)->counts.bytes[d] +
					 backend_of(&new)->counts.bytes[d],
				 d ? bytes_down : bytes_up);
}

/* Flows whose backend has spoken, however long that took. */
static uint64_t first_bytes(const struct daemon *d)
{
	uint64_t n = 0;

	for (size_t i = 0; i <= LB_FIRST_BYTE_BUCKETS; i++)
		n += d->counters[0].first_bytes[i];
	return n;
}

static void an_idle_flow_lives_on_and_is_counted_and_told_once(void **state)
{
	char want[256];

	e = open_flow(&old);
	streams(1000, 2000);
	run(&old, all_arrived);
	thaw(&new, freeze(&old));
	assert_int_equal(old.counters[0].active, 0);
	assert_int_equal(new.counters[0].active, 1);
	assert_int_equal(backend_of(&old)->active, 0);
	assert_int_equal(backend_of(&new)->active, 1);
	up.to_send += 3000;
	down.to_send += 500;
	run(&new, all_arrived);
	end_well(&new);
	assert_totals(4000, 2500);
	assert_int_equal(new.counters[0].connections, 0);
	assert_int_equal(first_bytes(&old) + first_bytes(&new), 1);
	assert_int_equal(old.lines, 0);
	assert_int_equal(new.lines, 1);
	snprintf(want, sizeof(want), "backend=%s", backend_name);
	assert_non_null(strstr(new.line, want));
	assert_non_null(strstr(new.line, "rule=web"));
}

/* What all epolls of this process look at. */
static unsigned int count_registered(void)
{
	char line[256], path[64];
	unsigned int n = 0;

	for (int fd = 0; fd < 256; fd++) {
		LB_AUTO_FCLOSE FILE *info = NULL;

		snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
		info = fopen(path, "re");
		while (info && fgets(line, sizeof(line), info))
			n += !strncmp(line, "tfd:", 4);
	}
	return n;
}

/* Or events would come of a flow that is no more. */
static void a_socket_that_the_other_one_has_not_closed_yet_is_let_go(void **state)
{
	unsigned int before = count_registered();
	struct lb_handover *h;
	int theirs[2];

	e = open_flow(&old);
	streams(100, 100);
	run(&old, all_arrived);
	h = freeze(&old);
	for (int i = 0; i < 2; i++)
		theirs[i] = dup(h->leg[i].fd);
	thaw(&new, h);
	shutdown(e.client, SHUT_WR);
	shutdown(e.server, SHUT_WR);
	run(&new, has_none);
	assert_int_equal(count_registered(), before);
	for (int i = 0; i < 2; i++)
		close(theirs[i]);
	close_ends(&e);
}

static void a_flow_that_has_said_nothing_yet_is_as_new(void **state)
{
	e = open_flow(&old);
	streams(0, 0);
	thaw(&new, freeze(&old));
	up.to_send = down.to_send = 100;
	run(&new, all_arrived);
	end_well(&new);
	assert_totals(100, 100);
}

/* Each time some bytes later, in the middle of everything. */
static size_t pause_at;

static bool at_pause(struct daemon *d)
{
	return all_arrived(d) || up.received + down.received >= pause_at;
}

static void bytes_under_way_both_ways_arrive_once_however_often_it_moves(void **state)
{
	struct daemon *at = &old;
	int moves = 0;

	e = open_flow(at);
	streams(48 << 20, 32 << 20);
	for (pause_at = 1; up.received + down.received < (80 << 20); moves++) {
		run(at, at_pause);
		pause_at = up.received + down.received + 150001;
		if (all_arrived(at))
			break;
		thaw(at == &old ? &new : &old, freeze(at));
		at = at == &old ? &new : &old;
	}
	assert_true(moves > 20);
	end_well(at);
	assert_totals(48 << 20, 32 << 20);
}

/* The last portion has been read, whole: none ever fills the buffer, so relay does not splice. */
static bool portion_is_read(struct daemon *d)
{
	const struct lb_direction *dir = &session_of(d)->pair.dir[0];

	return dir->held || dir->bytes == up.sent;
}

static void held_bytes_go_along(void **state)
{
	const struct lb_direction *dir;
	struct lb_handover *h;

	e = open_flow(&old);
	streams(0, 0);
	up.reads = false;
	for (dir = &session_of(&old)->pair.dir[0]; !dir->held; run(&old, portion_is_read)) {
		up.to_send += 30000;
		(void)pump(&up);
	}
	assert_null(dir->pipe);
	h = freeze(&old);
	assert_true(h->dir[0].held_size > 0);
	thaw(&new, h);
	up.reads = true;
	run(&new, all_arrived);
	end_well(&new);
	assert_totals(up.to_send, 0);
}

static void what_is_in_a_pipe_goes_along(void **state)
{
	struct lb_handover *h;
	uint32_t piped;

	e = open_flow(&old);
	stall(&old);
	piped = session_of(&old)->pair.dir[0].piped;
	assert_true(piped > 0);
	h = freeze(&old);
	assert_int_equal(h->dir[0].held_size, piped);
	thaw(&new, h);
	run(&new, all_arrived);
	end_well(&new);
	assert_totals(up.to_send, 0);
}

static void who_has_closed_one_way_stays_so(void **state)
{
	for (int leg = 0; leg < 2; leg++) {
		e = open_flow(&old);
		streams(500, 700);
		run(&old, all_arrived);
		shutdown(leg ? e.server : e.client, SHUT_WR);
		run(&old, leg ? down_ended : up_ended);
		thaw(&new, freeze(&old));
		assert_true(session_of(&new)->pair.dir[leg].shut);
		if (leg)
			up.to_send += 90000;
		else
			down.to_send += 90000;
		run(&new, all_arrived);
		assert_false(has_none(&new));
		shutdown(leg ? e.client : e.server, SHUT_WR);
		run(&new, both_ended);
		assert_true(has_none(&new));
		close_ends(&e);
	}
	assert_int_equal(new.counters[0].ends[LB_REASON_DONE], 2);
}

/* The end is read and not passed on, for there are bytes before it. */
static void an_end_behind_held_bytes_goes_along(void **state)
{
	e = open_flow(&old);
	stall(&old);
	shutdown(e.client, SHUT_WR);
	thaw(&new, freeze(&old));
	run(&new, up_ended);
	assert_int_equal(up.received, up.to_send);
	end_well(&new);
	assert_totals(up.to_send, 0);
}

static void what_comes_while_nobody_watches_is_seen(void **state)
{
	struct lb_handover *h;

	e = open_flow(&old);
	streams(10, 10);
	run(&old, all_arrived);
	h = freeze(&old);
	up.to_send = 50000;
	down.to_send = 60000;
	(void)pump(&up);
	(void)pump(&down);
	shutdown(e.client, SHUT_WR);
	shutdown(e.server, SHUT_WR);
	thaw(&new, h);
	run(&new, both_ended);
	assert_int_equal(up.received, 50000);
	assert_int_equal(down.received, 60000);
	assert_true(has_none(&new));
	assert_totals(50000, 60000);
	close_ends(&e);
}

/* Read before, by the daemon that froze: the event of it does not come again. */
static void bytes_that_were_announced_before_are_seen(void **state)
{
	struct lb_handover *h;

	e = open_flow(&old);
	streams(20, 0);
	(void)pump(&up);
	h = freeze(&old);
	thaw(&new, h);
	run(&new, all_arrived);
	end_well(&new);
}

static bool server_was_reset(struct daemon *d)
{
	char c;

	return recv(e.server, &c, 1, 0) < 0 && errno == ECONNRESET;
}

static void a_reset_that_came_meanwhile_is_passed_on(void **state)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	struct lb_handover *h;

	e = open_flow(&old);
	streams(10, 10);
	run(&old, all_arrived);
	h = freeze(&old);
	assert_int_equal(setsockopt(e.client, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
	close(e.client);
	e.client = -1;
	thaw(&new, h);
	run(&new, has_none);
	run(&new, server_was_reset);
	assert_int_equal(new.counters[0].ends[LB_REASON_RESET_BY_CLIENT], 1);
	close_ends(&e);
}

/* --- what goes on from where it was ----------------------------------------------------------- */

#define IDLE_NS 8000000000ull

static void times_go_on(void **state)
{
	struct lb_handover *h;
	uint64_t begun;

	new.config.timeouts.idle_ms = 8000;
	e = open_flow(&old);
	begun = session_of(&old)->accept_ns;
	h = freeze(&old);
	assert_int_equal(h->accept_ns, begun);
	/* It has been idle for so long. */
	h->accept_ns -= IDLE_NS;
	h->try_ns = h->connected_ns = h->start_ns = h->last_ns = h->accept_ns;
	thaw(&new, h);
	assert_int_equal(session_of(&new)->accept_ns, begun - IDLE_NS);
	run(&new, has_none);
	assert_int_equal(new.counters[0].ends[LB_REASON_IDLE], 1);
	assert_in_range(new.counters[0].duration_sum_ms, 8000, 15999);
	close_ends(&e);
}

static void limits_are_taken_and_may_be_exceeded(void **state)
{
	struct lb_addr client;

	lb_client_connection_limit_set(new.rule.client_connection_limit, 1);
	backend_of(&new)->limit = 1;
	assert_int_equal(lb_addr_parse("127.0.0.1:1", &client), 0);
	assert_true(lb_client_connection_limit_take(new.rule.client_connection_limit, &client, 0));
	lb_select_adopt(new.rule.select, backend_of(&new));
	e = open_flow(&old);
	thaw(&new, freeze(&old));
	assert_int_equal(backend_of(&new)->active, 2);
	assert_false(lb_client_connection_limit_take(new.rule.client_connection_limit, &client, 0));
	lb_client_connection_limit_release(new.rule.client_connection_limit, &client);
	assert_int_equal(lb_client_connection_limit_clients(new.rule.client_connection_limit), 1);
	lb_select_release(new.rule.select, backend_of(&new));
	streams(1, 1);
	run(&new, all_arrived);
	end_well(&new);
	assert_int_equal(backend_of(&new)->active, 0);
}

static void a_backend_that_is_gone_lives_on_for_its_flow(void **state)
{
	struct lb_addr addr = address_of(front); /* some other */
	struct lb_backend *b = backend_of(&new), *elsewhere;
	const struct lb_backend_config other = {
		.addr = (char *)"other:1", .host = (char *)"other", .weight = 1};
	struct lb_pool_entry *entry;

	assert_int_equal(lb_pool_new_entry(new.rule.pool, &other, &entry), 0);
	lb_pool_list_entry(entry);
	lb_pool_remove_entry(b->entry);
	assert_int_equal(lb_pool_new_backend(entry, &new.config, &addr, false, &elsewhere), 0);
	assert_int_equal(lb_select_change(new.rule.select, &elsewhere, 1, 0), 0);
	lb_pool_put(&elsewhere);
	e = open_flow(&old);
	thaw(&new, freeze(&old));
	b = session_of(&new)->backend;
	assert_int_equal(b->out, LB_BACKEND_LEFT);
	assert_string_equal(b->config->addr, backend_name);
	assert_int_equal(b->active, 1);
	streams(7, 7);
	run(&new, all_arrived);
	shutdown(e.client, SHUT_WR);
	shutdown(e.server, SHUT_WR);
	run(&new, both_ended);
	assert_non_null(strstr(new.line, backend_name));
	assert_true(lb_list_empty(&new.rule.pool->left));
	close_ends(&e);
}

static void a_rule_that_is_gone_or_another_takes_no_flow(void **state)
{
	struct lb_handover *h;

	e = open_flow(&old);
	h = freeze(&old);
	new.config.name = (char *)"another";
	assert_null(lb_handover_rule(&new.rule, 1, h));
	new.config.name = (char *)"web";
	new.rule.tls = (struct lb_tls *)&new;
	assert_null(lb_handover_rule(&new.rule, 1, h));
	new.rule.tls = NULL;
	/* A place that has no rule. */
	new.rule.config = NULL;
	assert_null(lb_handover_rule(&new.rule, 1, h));
	new.rule.config = &new.config;
	/* Nobody wants it: it thaws where it froze. */
	thaw(&old, h);
	streams(1, 1);
	run(&old, all_arrived);
	end_well(&old);
	assert_int_equal(old.lines, 1);
}

/* --- what does not go ------------------------------------------------------------------------- */

static void assert_stays(int err)
{
	struct lb_handover *h = NULL;

	assert_int_equal(lb_handover_freeze(session_of(&old), &h), err);
	assert_null(h);
	assert_false(has_none(&old));
}

static void who_cannot_go_stays_as_it_is(void **state)
{
	e = open_flow(&old);
	old.rule.tls = (struct lb_tls *)&old;
	assert_stays(-EOPNOTSUPP);
	old.rule.tls = NULL;
	session_of(&old)->pair.bypassed = true;
	assert_stays(-EOPNOTSUPP);
	session_of(&old)->pair.bypassed = false;
	session_of(&old)->pair.carrier = &lb_graft;
	assert_stays(-EAGAIN);
	session_of(&old)->pair.carrier = &lb_relay;
	session_of(&old)->carrying = false;
	assert_stays(-EAGAIN);
	session_of(&old)->carrying = true;
	streams(100, 100);
	run(&old, all_arrived);
	end_well(&old);
}

static void a_thaw_that_fails_leaves_the_record_whole(void **state)
{
	struct lb_handover *h;
	const struct lb_rule *rule;
	int fd;

	e = open_flow(&old);
	stall(&old);
	h = freeze(&old);
	rule = lb_handover_rule(&new.rule, 1, h);
	fd = h->leg[1].fd;
	h->leg[1].fd = -1; /* EBADF, after leg 0 was registered */
	assert_int_equal(lb_handover_thaw(&new.env, rule, &h), -EBADF);
	assert_non_null(h);
	assert_true(has_none(&new));
	assert_int_equal(new.counters[0].active, 0);
	assert_int_equal(backend_of(&new)->active, 0);
	assert_int_equal(new.limits.sessions, 0);
	h->leg[1].fd = fd;
	thaw(&old, h);
	run(&old, all_arrived);
	end_well(&old);
	assert_totals(up.to_send, 0);
}

static bool both_were_reset(struct daemon *d)
{
	char c;

	return server_was_reset(d) && recv(e.client, &c, 1, 0) < 0 && errno == ECONNRESET;
}

static void one_that_nobody_takes_is_reset(void **state)
{
	struct lb_handover *h;

	e = open_flow(&old);
	h = freeze(&old);
	lb_handover_reset(&h);
	assert_null(h);
	assert_true(both_were_reset(&old));
	close_ends(&e);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(an_idle_flow_lives_on_and_is_counted_and_told_once),
		TEST(a_socket_that_the_other_one_has_not_closed_yet_is_let_go),
		TEST(a_flow_that_has_said_nothing_yet_is_as_new),
		TEST(bytes_under_way_both_ways_arrive_once_however_often_it_moves),
		TEST(held_bytes_go_along),
		TEST(what_is_in_a_pipe_goes_along),
		TEST(who_has_closed_one_way_stays_so),
		TEST(an_end_behind_held_bytes_goes_along),
		TEST(what_comes_while_nobody_watches_is_seen),
		TEST(bytes_that_were_announced_before_are_seen),
		TEST(a_reset_that_came_meanwhile_is_passed_on),
		TEST(times_go_on),
		TEST(limits_are_taken_and_may_be_exceeded),
		TEST(a_backend_that_is_gone_lives_on_for_its_flow),
		TEST(a_rule_that_is_gone_or_another_takes_no_flow),
		TEST(who_cannot_go_stays_as_it_is),
		TEST(a_thaw_that_fails_leaves_the_record_whole),
		TEST(one_that_nobody_takes_is_reset),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
