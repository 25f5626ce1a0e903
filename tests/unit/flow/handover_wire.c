/* SPDX-License-Identifier: MIT */
#include "flow/handover.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define HELD 5

/* Where things stand in a record; see handover_wire.c. */
enum place {
	VERSION = 8,
	SIZE = 12,
	HELD_SIZE = 32,
	ACCEPT = 64,
	LAST = 96,
	FIRST = 104,
	CLIENT_FAMILY = 112,
	CLIENT_BYTES = 120,
	EOF_READ = 160,
	SHUT = 162,
	FLAGS = 166,
	TRIES = 170,
	ACCELERATION = 171,
	WHY = 172,
	PAD = 173,
	RULE = 240,
	BACKEND = 624,
};

static struct lb_handover flow;
static uint8_t *bytes;
static size_t size;

static int setup(void **state)
{
	flow = (struct lb_handover){
		.leg = {{.fd = -1, .lead_in = 28}, {.fd = -1, .lead_out = 30, .throttled = 70000}},
		.dir = {{.bytes = 1000, .eof = true}, {.bytes = 1ull << 40}},
		.rule = "web/a.example",
		.backend = "[2001:db8::1]:80",
		.client_named = true,
		.first_counted = true,
		.tries = 2,
		.acceleration = 1,
		.why = 3,
		.accept_ns = 1,
		.try_ns = 2,
		.connected_ns = 3,
		.start_ns = 4,
		.last_ns = 5,
		.first_ns = 4,
	};
	assert_int_equal(lb_addr_parse("192.0.2.1:4711", &flow.client), 0);
	assert_int_equal(lb_addr_parse("[2001:db8::1]:80", &flow.backend_addr), 0);
	flow.dir[0].held = strdup("bytes");
	flow.dir[0].held_size = HELD;
	size = lb_handover_size(&flow);
	assert_int_equal(size, LB_HANDOVER_HEAD_BYTES + HELD);
	bytes = malloc(size);
	assert_non_null(bytes);
	lb_handover_encode(&flow, bytes);
	return 0;
}

static int teardown(void **state)
{
	free(flow.dir[0].held);
	free(bytes);
	return 0;
}

static void what_is_written_is_read_back(void **state)
{
	LB_AUTO(lb_handover_forget) struct lb_handover *h = NULL;

	assert_int_equal(lb_handover_decode(bytes, size, &h), 0);
	assert_true(lb_list_empty(&h->node));
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(h->leg[i].fd, -1);
		assert_int_equal(h->leg[i].lead_in, flow.leg[i].lead_in);
		assert_int_equal(h->leg[i].lead_out, flow.leg[i].lead_out);
		assert_int_equal(h->leg[i].throttled, flow.leg[i].throttled);
		assert_int_equal(h->dir[i].bytes, flow.dir[i].bytes);
		assert_int_equal(h->dir[i].held_size, flow.dir[i].held_size);
		assert_int_equal(h->dir[i].eof, flow.dir[i].eof);
		assert_int_equal(h->dir[i].shut, flow.dir[i].shut);
	}
	assert_memory_equal(h->dir[0].held, "bytes", HELD);
	assert_null(h->dir[1].held);
	assert_string_equal(h->rule, flow.rule);
	assert_string_equal(h->backend, flow.backend);
	assert_true(lb_addr_equal(&h->client, &flow.client));
	assert_true(lb_addr_equal(&h->backend_addr, &flow.backend_addr));
	assert_true(h->client_named && h->first_counted && !h->distressed && !h->port_ours);
	assert_int_equal(h->tries, 2);
	assert_int_equal(h->acceleration, 1);
	assert_int_equal(h->why, 3);
	assert_int_equal(h->accept_ns, 1);
	assert_int_equal(h->try_ns, 2);
	assert_int_equal(h->connected_ns, 3);
	assert_int_equal(h->start_ns, 4);
	assert_int_equal(h->last_ns, 5);
	assert_int_equal(h->first_ns, 4);
}

static void assert_refused(void)
{
	struct lb_handover *h = NULL;

	assert_int_equal(lb_handover_decode(bytes, size, &h), -EPROTO);
	assert_null(h);
}

static void a_part_of_a_record_is_none(void **state)
{
	struct lb_handover *h = NULL;

	for (size_t n = 0; n < size; n++) {
		assert_int_equal(lb_handover_decode(bytes, n, &h), -EPROTO);
		assert_int_equal(lb_handover_peek(bytes, n), n < LB_HANDOVER_HEAD_BYTES ? 0 : size);
	}
	assert_null(h);
}

static void another_version_is_not_read(void **state)
{
	bytes[VERSION]++;
	assert_int_equal(lb_handover_peek(bytes, size), -EPROTO);
	assert_refused();
}

/* Each of them alone makes it no record. */
static const struct {
	enum place place;
	uint8_t value;
} lies[] = {
	{0, 'L'},
	{SIZE, 0},
	{SIZE + 3, 1},
	{HELD_SIZE, HELD - 1},
	{HELD_SIZE + 3, 1},
	{ACCEPT, 0},        /* no time */
	{ACCEPT, 3},        /* after it began to connect */
	{LAST, 3},          /* before carrying began */
	{LAST + 7, 0xff},   /* that is still to come */
	{FIRST + 7, 0xff},  /* .. */
	{CLIENT_FAMILY, 0}, /* nobody */
	{CLIENT_FAMILY, 1}, /* not of this world */
	{CLIENT_BYTES + 4, 1},
	{EOF_READ, 2},
	{SHUT, 1},     /* with bytes held before it */
	{SHUT + 1, 1}, /* and no end was read */
	{FLAGS, 2},
	{FLAGS + 3, 0xff},
	{TRIES, 0},
	{TRIES, 17},
	{ACCELERATION, 4},
	{WHY, 0xff},
	{PAD, 1},
	{RULE - 1, 1},
	{RULE, 0},
	{RULE + 1, '\n'},
	{BACKEND - 1, 1}, /* behind the rule's end */
	{BACKEND, 0},
	{BACKEND + 2, 0x7f},
	{LB_HANDOVER_HEAD_BYTES - 1, 1},
};

static void what_cannot_be_is_refused(void **state)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(lies); i++) {
		uint8_t was = bytes[lies[i].place];

		assert_int_not_equal(was, lies[i].value);
		bytes[lies[i].place] = lies[i].value;
		assert_refused();
		bytes[lies[i].place] = was;
	}
}

static void a_name_without_an_end_is_refused(void **state)
{
	memset(bytes + RULE, 'a', BACKEND - RULE);
	assert_refused();
}

static void a_flow_that_is_over_is_none(void **state)
{
	struct lb_handover *h = NULL;

	memset(bytes + HELD_SIZE, 0, 4);
	bytes[SIZE] -= HELD;
	size -= HELD;
	memset(bytes + EOF_READ, 1, 4);
	assert_refused();
	/* With one end to come it is one. */
	bytes[SHUT + 1] = 0;
	assert_int_equal(lb_handover_decode(bytes, size, &h), 0);
	lb_handover_forget(&h);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(what_is_written_is_read_back),     TEST(a_part_of_a_record_is_none),
		TEST(another_version_is_not_read),      TEST(what_cannot_be_is_refused),
		TEST(a_name_without_an_end_is_refused), TEST(a_flow_that_is_over_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
