/* SPDX-License-Identifier: MIT */
/* The waiting itself is tested where it happens: relay.c, and end to end. */
#include "flow/throttle.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

static struct lb_carrier_env env;
static struct lb_pair pair;
static struct lb_bucket client, backend;
static struct lb_budget budget;
static int peer;

static int setup(void **state)
{
	int sv[2];

	memset(&pair, 0, sizeof(pair));
	env.scratch = malloc(LB_SCRATCH_BYTES);
	assert_non_null(env.scratch);
	assert_int_equal(lb_loop_new(&env.loop), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, sv), 0);
	peer = sv[0];
	pair.env = &env;
	pair.leg[0].watch.fd = sv[1];
	pair.leg[1].watch.fd = -1;
	budget = (struct lb_budget){.bucket = {&client, &backend}};
	pair.dir[0].budget = &budget;
	return 0;
}

static int teardown(void **state)
{
	close(pair.leg[0].watch.fd);
	if (peer >= 0)
		close(peer);
	lb_loop_free(env.loop);
	free(env.scratch);
	return 0;
}

static uint32_t window(uint64_t client_rate, uint64_t backend_rate)
{
	lb_bucket_init(&client, client_rate);
	lb_bucket_init(&backend, backend_rate);
	return lb_throttle_window(&pair, 0);
}

static void a_source_is_promised_a_quarter_of_a_second_within_bounds(void **state)
{
	assert_int_equal(window(0, 0), UINT32_MAX);
	assert_int_equal(window(1, 0), 65536);
	assert_int_equal(window(100000, 0), 65536);
	assert_int_equal(window(4000000, 0), 1000000);
	assert_int_equal(window(0, 4000000), 1000000);
	assert_int_equal(window(8000000, 4000000), 1000000);
	assert_int_equal(window(1000000000, 0), UINT32_MAX);
	assert_int_equal(lb_throttle_window(&pair, 1), UINT32_MAX);
}

/* Out of budget for a second and more. */
static void owe(void)
{
	lb_bucket_init(&client, 1000);
	lb_bucket_init(&backend, 0);
	client.tat = lb_clock_ns() + 1000000000;
}

static void what_has_to_wait_is_not_read(void **state)
{
	char buf[8];
	ssize_t peeked;

	owe();
	assert_int_equal(send(peer, "bytes", 5, 0), 5);
	assert_int_equal(lb_throttle_room(&pair, 0, &peeked), 0);
	assert_int_equal(peeked, 5);
	assert_int_equal(budget.reserved, 5);
	assert_in_range(lb_throttle_wait_ms(&pair), 900, 1000);
	/* Asking again takes no second place. */
	assert_int_equal(lb_throttle_room(&pair, 0, &peeked), 0);
	assert_int_equal(peeked, 1);
	assert_int_equal(budget.waits, 1);
	assert_int_equal(recv(pair.leg[0].watch.fd, buf, sizeof(buf), 0), 5);
}

static void without_bytes_no_place_is_taken(void **state)
{
	uint64_t tat;
	ssize_t peeked;

	owe();
	tat = client.tat;
	assert_int_equal(lb_throttle_room(&pair, 0, &peeked), 0);
	assert_int_equal(peeked, -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(lb_throttle_wait_ms(&pair), 0);
	assert_int_equal(client.tat, tat);
}

static void an_end_is_seen_without_budget(void **state)
{
	ssize_t peeked;

	owe();
	close(peer);
	peer = -1;
	assert_int_equal(lb_throttle_room(&pair, 0, &peeked), 0);
	assert_int_equal(peeked, 0);
}

static void without_a_limit_nothing_is_asked(void **state)
{
	ssize_t peeked;

	pair.dir[0].budget = NULL;
	assert_int_equal(lb_throttle_room(&pair, 0, &peeked), SIZE_MAX);
	assert_false(lb_throttle_is_short(&pair, 0));
	lb_throttle_charge(&pair, 0, 1000);
	assert_int_equal(lb_throttle_wait_ms(&pair), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(a_source_is_promised_a_quarter_of_a_second_within_bounds),
		TEST(what_has_to_wait_is_not_read),
		TEST(without_bytes_no_place_is_taken),
		TEST(an_end_is_seen_without_budget),
		TEST(without_a_limit_nothing_is_asked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
