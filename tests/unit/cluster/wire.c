/* SPDX-License-Identifier: MIT */
#include "cluster/wire.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

static struct lb_wire_update update(const char *name, const char *addr)
{
	struct lb_wire_update u = {
		.id = lb_wire_id(name),
		.incarnation = 0x0102030405060708,
		.state = LB_MEMBER_SUSPECT,
		.accusers_count = 2,
		.accusers = {1, 0xfffffffe},
		.has_identity = true,
		.identity = {.config_hash = 77, .version = "1.2.3-rc~1"},
	};

	strcpy(u.identity.name, name);
	assert_int_equal(lb_addr_parse(addr, &u.identity.addr), 0);
	return u;
}

static struct lb_wire_out sample(void)
{
	struct lb_wire_head head = {.kind = LB_WIRE_PING_REQ,
				    .seq = 9,
				    .sender = 5,
				    .incarnation = 6,
				    .target = 7,
				    .subject = 8};
	struct lb_wire_update u = update("a", "1.2.3.4:5"), v = update("b.c", "[2001:db8::1]:6");
	struct lb_wire_out out;

	assert_int_equal(lb_addr_parse("[::1]:80", &head.subject_addr), 0);
	lb_wire_begin(&out, &head);
	assert_true(lb_wire_add_update(&out, &u));
	v.state = LB_MEMBER_ALIVE;
	v.accusers_count = 0;
	assert_true(lb_wire_add_update(&out, &v));
	v.state = LB_MEMBER_LEFT;
	v.has_identity = false;
	assert_true(lb_wire_add_update(&out, &v));
	assert_true(lb_wire_add_section(&out, (enum lb_wire_section)99, (const uint8_t *)"?", 1));
	assert_true(lb_wire_add_section(&out, LB_WIRE_SHARES, (const uint8_t *)"share", 5));
	return out;
}

static void what_is_said_is_what_is_heard(void **state)
{
	struct lb_wire_out out = sample();
	struct lb_wire_update u, want = update("a", "1.2.3.4:5");
	struct lb_wire_in in;

	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), 0);
	assert_int_equal(in.head.kind, LB_WIRE_PING_REQ);
	assert_int_equal(in.head.seq, 9);
	assert_int_equal(in.head.sender, 5);
	assert_int_equal(in.head.incarnation, 6);
	assert_int_equal(in.head.target, 7);
	assert_int_equal(in.head.subject, 8);
	assert_int_equal(lb_addr_port(&in.head.subject_addr), 80);
	assert_int_equal(in.shares_len, 5);
	assert_memory_equal(in.shares, "share", 5);

	assert_true(lb_wire_next_update(&in, &u));
	assert_int_equal(u.id, want.id);
	assert_int_equal(u.incarnation, want.incarnation);
	assert_int_equal(u.state, LB_MEMBER_SUSPECT);
	assert_int_equal(u.accusers_count, 2);
	assert_int_equal(u.accusers[1], 0xfffffffe);
	assert_true(lb_addr_equal(&u.identity.addr, &want.identity.addr));
	assert_int_equal(u.identity.config_hash, 77);
	assert_string_equal(u.identity.version, "1.2.3-rc~1");
	assert_string_equal(u.identity.name, "a");
	assert_true(lb_wire_next_update(&in, &u));
	assert_int_equal(u.identity.addr.sa.sa_family, AF_INET6);
	assert_true(lb_wire_next_update(&in, &u));
	assert_int_equal(u.state, LB_MEMBER_LEFT);
	assert_false(u.has_identity);
	assert_false(lb_wire_next_update(&in, &u));
}

static void a_piece_of_a_datagram_is_none(void **state)
{
	struct lb_wire_out out = sample();
	struct lb_wire_in in = {};
	size_t good = 0;

	/* Cut between two sections it is good, for it says no length of its own. */
	for (size_t len = 0; len < out.len; len++)
		good += lb_wire_open(&in, out.bytes, len) == 0;
	assert_int_equal(good, 3);
}

static void refused(size_t at, uint8_t value, int err)
{
	struct lb_wire_out out = sample();
	struct lb_wire_in in = {.shares_len = 3};

	assert_true(at < out.len && out.bytes[at] != value);
	out.bytes[at] = value;
	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), err);
	assert_int_equal(in.shares_len, 3);
}

static void what_is_wrong_is_refused(void **state)
{
	const size_t first = 30 + 8 + 19 + 3; /* byte of the first update */

	refused(0, 2, -EPROTONOSUPPORT);
	refused(1, 0, -EPROTONOSUPPORT);
	refused(1, LB_WIRE_KINDS, -EPROTONOSUPPORT);
	refused(38, 5, -EBADMSG);                            /* no address family */
	refused(first, 0xa5, -EBADMSG);                      /* a bit that is not used */
	refused(first, 0x75, -EBADMSG);                      /* seven accusers */
	refused(first + 1, 0, -EBADMSG);                     /* an id that is not of the name */
	refused(first + 17 + 8 + 6 + 4, 16, -EBADMSG);       /* a version that is too long */
	refused(first + 17 + 8 + 6 + 4 + 1, '\n', -EBADMSG); /* or is no word */
	refused(first - 1, 0xff, -EBADMSG);                  /* a section beyond the end */
}

static void a_section_is_there_once(void **state)
{
	struct lb_wire_head head = {.kind = LB_WIRE_GOSSIP, .sender = 1};
	struct lb_wire_out out;
	struct lb_wire_in in;

	lb_wire_begin(&out, &head);
	assert_true(lb_wire_add_section(&out, LB_WIRE_SHARES, (const uint8_t *)"a", 1));
	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), 0);
	assert_true(lb_wire_add_section(&out, LB_WIRE_SHARES, (const uint8_t *)"b", 1));
	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), -EBADMSG);
}

static void a_range_does_not_end_before_it_begins(void **state)
{
	struct lb_wire_head head = {.kind = LB_WIRE_SYNC, .sender = 1, .first = 5, .last = 5};
	struct lb_wire_out out;
	struct lb_wire_in in;

	lb_wire_begin(&out, &head);
	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), 0);
	lb_wire_set_last(&out, 9);
	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), 0);
	assert_int_equal(in.head.last, 9);
	lb_wire_set_last(&out, 4);
	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), -EBADMSG);
}

static void a_datagram_that_is_full_stays_as_it_is(void **state)
{
	struct lb_wire_head head = {.kind = LB_WIRE_GOSSIP, .sender = 1};
	struct lb_wire_update u = update("a-name", "[2001:db8::1]:6");
	static const uint8_t much[LB_WIRE_PLAIN_MAX];
	struct lb_wire_out out;
	struct lb_wire_in in;
	size_t count = 0, len;

	lb_wire_begin(&out, &head);
	while (lb_wire_add_update(&out, &u))
		count++;
	assert_true(count >= 20 && out.len <= LB_WIRE_PLAIN_MAX);
	len = out.len;
	assert_false(lb_wire_add_section(&out, LB_WIRE_SHARES, much, lb_wire_room(&out) + 1));
	assert_int_equal(out.len, len);
	assert_true(lb_wire_add_section(&out, LB_WIRE_SHARES, much, lb_wire_room(&out)));
	assert_int_equal(out.len, LB_WIRE_PLAIN_MAX);
	assert_int_equal(lb_wire_open(&in, out.bytes, out.len), 0);
	while (lb_wire_next_update(&in, &u))
		count--;
	assert_int_equal(count, 0);
}

static void names_are_words(void **state)
{
	char longest[LB_WIRE_NAME_MAX + 1];

	memset(longest, 'x', sizeof(longest));
	longest[LB_WIRE_NAME_MAX - 1] = '\0';
	assert_true(lb_wire_name_valid(longest));
	longest[LB_WIRE_NAME_MAX - 1] = 'x';
	longest[LB_WIRE_NAME_MAX] = '\0';
	assert_false(lb_wire_name_valid(longest));
	assert_true(lb_wire_name_valid("lb-1.example_net"));
	assert_false(lb_wire_name_valid(""));
	assert_false(lb_wire_name_valid("two words"));
	assert_false(lb_wire_name_valid("\xc3\xa4"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_said_is_what_is_heard),
		cmocka_unit_test(a_piece_of_a_datagram_is_none),
		cmocka_unit_test(what_is_wrong_is_refused),
		cmocka_unit_test(a_section_is_there_once),
		cmocka_unit_test(a_range_does_not_end_before_it_begins),
		cmocka_unit_test(a_datagram_that_is_full_stays_as_it_is),
		cmocka_unit_test(names_are_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
