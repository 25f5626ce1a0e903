/* SPDX-License-Identifier: MIT */
/*
 * Flows on sockmap that go from one daemon to another and are promoted there anew. Each daemon has
 * programs and tables of its own.
 */
#include <signal.h>

#include "flow/sockmap.h"
#include "flow/sockmap_leave.h"
#include "flow/sockmap_slots.h"
#include "room.h"
#include "unit/flow/handover.h"

#define PAIRS 8u
/* It spins: so often it asks in a second or two. */
#define ASKED_MAX 100000u

/* What a daemon needs for sockmap, beside the fixture's. */
struct sockmap {
	struct daemon *of;
	struct lb_watch ring;
};

static struct sockmap sockmaps[2];

static void on_ring(struct lb_watch *w, uint32_t events)
{
	lb_sockmap_ring_event(&lb_container_of(w, struct sockmap, ring)->of->env.carrier);
}

static void open_sockmap(struct sockmap *s, struct daemon *d, const char *instance)
{
	const struct lb_kernel_opts opts = {
		.instance = instance, .pairs = PAIRS, .workers = 1, .buckets = 1};
	struct lb_carrier_env *env = &d->env.carrier;
	struct lb_kernel_report report;

	*s = (struct sockmap){.of = d, .ring.fd = -1};
	assert_int_equal(lb_kernel_open(&env->kernel, &opts, &report), 0);
	assert_int_equal(lb_sockmap_slots_new(&env->slots, PAIRS), 0);
	assert_int_equal(
		lb_watch_add(env->loop, &s->ring, lb_ring_fd(env->kernel, 0), EPOLLIN, on_ring), 0);
	d->config.acceleration = LB_ACCELERATION_SOCKMAP;
}

static void close_sockmap(struct sockmap *s)
{
	struct lb_carrier_env *env = &s->of->env.carrier;

	lb_session_close_all(&s->of->env, LB_FLOWS_ALL, LB_REASON_DRAINED);
	assert_int_equal(lb_sockmap_slots_used(env->slots), 0);
	lb_watch_remove(env->loop, &s->ring, false);
	lb_sockmap_slots_free(&env->slots);
	lb_kernel_close(env->kernel);
}

static int setup_sockmap(void **state)
{
	if (room_missing[0])
		return 0;
	setup(state);
	open_sockmap(&sockmaps[0], &old, "old");
	open_sockmap(&sockmaps[1], &new, "new");
	return 0;
}

static int teardown_sockmap(void **state)
{
	if (room_missing[0])
		return 0;
	close_sockmap(&sockmaps[0]);
	close_sockmap(&sockmaps[1]);
	return teardown(state);
}

static bool is_on_sockmap(struct daemon *d)
{
	(void)all_arrived(d);
	return session_of(d)->pair.carrier == &lb_sockmap;
}

/* Asks until it can go, as a daemon's sweeps do. */
static struct lb_handover *frozen;
static unsigned int asked;

static bool is_frozen(struct daemon *d)
{
	int err = lb_handover_freeze(session_of(d), &frozen);

	assert_true(!err || err == -EAGAIN);
	assert_true(++asked < ASKED_MAX);
	return !err;
}

static void move_over(struct daemon *from, struct daemon *to)
{
	asked = 0;
	run(from, is_frozen);
	assert_int_equal(lb_sockmap_slots_used(from->env.carrier.slots), 0);
	thaw(to, carry_over(LB_TAKE_PTR(frozen)));
}

static void assert_totals(uint64_t bytes_up, uint64_t bytes_down)
{
	const struct lb_counters *a = &old.counters[0], *b = &new.counters[0];
	uint64_t by_carrier = 0;

	assert_int_equal(a->bytes[0] + b->bytes[0], bytes_up);
	assert_int_equal(a->bytes[1] + b->bytes[1], bytes_down);
	for (unsigned int c = 0; c < LB_CARRIER_MAX_; c++)
		by_carrier += a->carrier_bytes[c] + b->carrier_bytes[c];
	assert_int_equal(by_carrier, bytes_up + bytes_down);
	assert_int_equal(a->ends[LB_REASON_DONE] + b->ends[LB_REASON_DONE], 1);
	assert_int_equal(old.lines + new.lines, 1);
}

static void open_on_sockmap(void)
{
	e = open_flow(&old);
	streams(5000, 7000);
	run(&old, all_arrived);
	run(&old, is_on_sockmap);
}

static void an_idle_flow_is_on_sockmap_again_elsewhere(void **state)
{
	room_required();
	open_on_sockmap();
	move_over(&old, &new);
	run(&new, is_on_sockmap);
	up.to_send += 100000;
	down.to_send += 200000;
	run(&new, all_arrived);
	assert_true(new.counters[0].carrier_bytes[LB_CARRIER_SOCKMAP] +
			    old.counters[0].carrier_bytes[LB_CARRIER_SOCKMAP] <=
		    312000);
	end_well(&new);
	assert_totals(105000, 207000);
}

/* Messages of one side, each after what it has caused: never at rest, nor bulk. */
static size_t pause_at;

static bool at_pause(struct daemon *d)
{
	return all_arrived(d) || up.received + down.received >= pause_at;
}

static void bytes_under_way_both_ways_arrive_once_however_often_it_moves(void **state)
{
	struct daemon *at = &old;
	unsigned int moves = 0, on_sockmap = 0;

	room_required();
	e = open_flow(at);
	streams(160 << 20, 120 << 20);
	for (pause_at = 1; !all_arrived(at); moves++) {
		run(at, at_pause);
		pause_at = up.received + down.received + 3000001;
		if (all_arrived(at))
			break;
		on_sockmap += session_of(at)->pair.carrier == &lb_sockmap;
		move_over(at, at == &old ? &new : &old);
		at = at == &old ? &new : &old;
	}
	print_message("%u moves, %u of them from sockmap\n", moves, on_sockmap);
	assert_true(moves > 10);
	end_well(at);
	assert_totals(160 << 20, 120 << 20);
}

/* Talk: each message waits for the one before it, so there are quiet points. */
static bool talks(struct daemon *d)
{
	if (all_arrived(d) && up.to_send < pause_at) {
		up.to_send += 3000;
		down.to_send += 2000;
	}
	return all_arrived(d) && up.to_send >= pause_at;
}

static void talk_goes_on_through_many_moves(void **state)
{
	struct daemon *at = &old;
	unsigned int asked_most = 0;

	room_required();
	open_on_sockmap();
	for (int i = 0; i < 50; i++) {
		pause_at = up.to_send + 300000;
		run(at, talks);
		assert_ptr_equal(session_of(at)->pair.carrier, &lb_sockmap);
		/* In the middle of the next one. */
		up.to_send += 3000;
		down.to_send += 2000;
		(void)pump(&up);
		(void)pump(&down);
		move_over(at, at == &old ? &new : &old);
		at = at == &old ? &new : &old;
		asked_most = asked > asked_most ? asked : asked_most;
		run(at, all_arrived);
		run(at, is_on_sockmap);
	}
	print_message("asked %u times at most\n", asked_most);
	end_well(at);
	assert_totals(up.to_send, down.to_send);
}

static void who_has_closed_one_way_stays_so(void **state)
{
	for (int leg = 0; leg < 2; leg++) {
		room_required();
		open_on_sockmap();
		shutdown(leg ? e.server : e.client, SHUT_WR);
		run(&old, leg ? down_ended : up_ended);
		assert_ptr_equal(session_of(&old)->pair.carrier, &lb_sockmap);
		move_over(&old, &new);
		if (leg)
			up.to_send += 90000;
		else
			down.to_send += 90000;
		run(&new, all_arrived);
		shutdown(leg ? e.client : e.server, SHUT_WR);
		run(&new, both_ended);
		assert_true(has_none(&new));
		close_ends(&e);
	}
	assert_int_equal(new.counters[0].ends[LB_REASON_DONE], 2);
}

static void an_end_that_came_just_before_is_seen(void **state)
{
	room_required();
	open_on_sockmap();
	up.to_send += 30000;
	(void)pump(&up);
	shutdown(e.client, SHUT_WR);
	move_over(&old, &new);
	run(&new, up_ended);
	assert_int_equal(up.received, up.to_send);
	end_well(&new);
	assert_totals(35000, 7000);
}

/*
 * What is in a socket's queue when it joins the map, and is redirected while recv(2) has the lock,
 * the kernel counts as unread for ever (tcp_bpf_recvmsg_parser). Such a flow could not leave.
 */
static void what_came_just_before_it_began_is_no_hindrance(void **state)
{
	struct lb_pair *p;

	room_required();
	old.config.acceleration = LB_ACCELERATION_RELAY;
	e = open_flow(&old);
	p = &session_of(&old)->pair;
	streams(5000, 7000);
	run(&old, all_arrived);
	assert_ptr_equal(p->carrier, &lb_relay);
	up.to_send += 3000;
	down.to_send += 4000;
	(void)pump(&up);
	(void)pump(&down);
	p->sockmap_off = false;
	p->acceleration = LB_ACCELERATION_SOCKMAP; /* at once */
	assert_true(lb_carrier_promote(p));
	run(&old, all_arrived);
	move_over(&old, &new);
	end_well(&new);
	assert_totals(8000, 11000);
}

static bool no_longer_leaves(struct daemon *d)
{
	(void)all_arrived(d);
	return !session_of(d)->pair.leave_ns;
}

/* Whoever asked has lost interest. */
static void one_that_is_not_asked_again_goes_on_as_before(void **state)
{
	struct lb_handover *h = NULL;

	room_required();
	open_on_sockmap();
	/* What keeps it from leaving at once. */
	session_of(&old)->pair.dir[0].written0++;
	assert_int_equal(lb_handover_freeze(session_of(&old), &h), -EAGAIN);
	assert_true(session_of(&old)->pair.leave_ns > 0);
	session_of(&old)->pair.dir[0].written0--;
	up.to_send += 50000;
	down.to_send += 50000;
	run(&old, no_longer_leaves);
	run(&old, all_arrived);
	assert_ptr_equal(session_of(&old)->pair.carrier, &lb_sockmap);
	end_well(&old);
	assert_totals(55000, 57000);
}

/* As if a verdict had come between the last look and the removal. */
static void a_flow_that_has_lost_a_byte_is_reset(void **state)
{
	struct lb_handover *h = NULL;

	room_required();
	open_on_sockmap();
	session_of(&old)->pair.leg[0].lead_in++;
	assert_int_equal(lb_handover_freeze(session_of(&old), &h), -ECONNABORTED);
	assert_null(h);
	assert_true(has_none(&old));
	assert_int_equal(old.counters[0].ends[LB_REASON_DRAINED], 1);
	close_ends(&e);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup_sockmap, teardown_sockmap)
	const struct CMUnitTest tests[] = {
		TEST(an_idle_flow_is_on_sockmap_again_elsewhere),
		TEST(bytes_under_way_both_ways_arrive_once_however_often_it_moves),
		TEST(talk_goes_on_through_many_moves),
		TEST(who_has_closed_one_way_stays_so),
		TEST(an_end_that_came_just_before_is_seen),
		TEST(what_came_just_before_it_began_is_no_hindrance),
		TEST(one_that_is_not_asked_again_goes_on_as_before),
		TEST(a_flow_that_has_lost_a_byte_is_reset),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, room_enter, NULL);
}
