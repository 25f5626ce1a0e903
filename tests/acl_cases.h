/* SPDX-License-Identifier: MIT */
/*
 * One table of access lists and verdicts for the daemon and for the programs: both searches are run
 * over all of it.
 */
#ifndef TESTS_ACL_CASES_H
#define TESTS_ACL_CASES_H

#include <stdbool.h>

#define ACL_CASE_LIST 6

struct acl_case {
	const char *allow[ACL_CASE_LIST], *deny[ACL_CASE_LIST];
	const char *client; /* with any port */
	bool allowed;
};

#define PRIVATE                                \
	{                                      \
		"10.0.0.0/8", "192.168.0.0/16" \
	}

static const struct acl_case acl_cases[] = {
	/* Nothing said: everybody. */
	{{0}, {0}, "203.0.113.9:1", true},
	{{0}, {0}, "[2001:db8::9]:1", true},
	/* allow_list alone: nobody else, of either family. */
	{PRIVATE, {0}, "9.255.255.255:1", false},
	{PRIVATE, {0}, "10.0.0.0:1", true},
	{PRIVATE, {0}, "10.255.255.255:1", true},
	{PRIVATE, {0}, "11.0.0.0:1", false},
	{PRIVATE, {0}, "192.168.3.4:1", true},
	{PRIVATE, {0}, "192.169.0.0:1", false},
	{PRIVATE, {0}, "[::1]:1", false},
	{PRIVATE, {0}, "[::ffff:10.1.2.3]:1", true},
	{PRIVATE, {0}, "[::ffff:11.1.2.3]:1", false},
	/* deny_list alone: everybody else. */
	{{0}, PRIVATE, "10.1.2.3:1", false},
	{{0}, PRIVATE, "11.0.0.0:1", true},
	{{0}, PRIVATE, "[2001:db8::9]:1", true},
	{{0}, PRIVATE, "[::ffff:10.1.2.3]:1", false},
	/* deny_list wins, whichever of the two is narrower. */
	{{"10.0.0.0/8"}, {"10.1.0.0/16"}, "10.1.2.3:1", false},
	{{"10.0.0.0/8"}, {"10.1.0.0/16"}, "10.0.255.255:1", true},
	{{"10.0.0.0/8"}, {"10.1.0.0/16"}, "10.2.0.0:1", true},
	{{"10.1.0.0/16"}, {"10.0.0.0/8"}, "10.1.2.3:1", false},
	{{"10.1.2.3"}, {"10.1.2.3"}, "10.1.2.3:1", false},
	{{"0.0.0.0/0"}, {"0.0.0.0/0"}, "10.1.2.3:1", false},
	/* Neighbours, overlaps, doubles, out of order. */
	{{"10.0.0.128/25", "10.0.0.0/25"}, {0}, "10.0.0.127:1", true},
	{{"10.0.0.128/25", "10.0.0.0/25"}, {0}, "10.0.0.128:1", true},
	{{"10.0.0.0/24", "10.0.0.7", "10.0.0.0/24"}, {0}, "10.0.0.8:1", true},
	{{"10.0.2.0/24", "10.0.0.0/24"}, {0}, "10.0.1.0:1", false},
	{{"10.0.0.0/8"}, {"10.0.0.0/9", "10.128.0.0/9"}, "10.200.0.0:1", false},
	/* Both ends of what there is. */
	{{"0.0.0.0"}, {0}, "0.0.0.0:1", true},
	{{"0.0.0.0"}, {0}, "0.0.0.1:1", false},
	{{"255.255.255.255"}, {0}, "255.255.255.255:1", true},
	{{"255.255.255.255"}, {0}, "255.255.255.254:1", false},
	{{0}, {"255.255.255.255"}, "255.255.255.255:1", false},
	{{0}, {"255.255.255.255"}, "255.255.255.254:1", true},
	{{0}, {"128.0.0.0/1"}, "127.255.255.255:1", true},
	{{0}, {"128.0.0.0/1"}, "255.255.255.255:1", false},
	{{"0.0.0.0/0"}, {0}, "255.255.255.255:1", true},
	{{"0.0.0.0/0"}, {0}, "[::]:1", false},
	{{"::/0"}, {0}, "10.1.2.3:1", false},
	{{"::/0"}, {0}, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:1", true},
	{{"::/0"}, {"8000::/1"}, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:1", false},
	{{"::/0"}, {"8000::/1"}, "[7fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:1", true},
	/* IPv6 on both sides of the middle of an address. */
	{{"2001:db8::/32"}, {0}, "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:1", true},
	{{"2001:db8::/32"}, {0}, "[2001:db9::]:1", false},
	{{"2001:db8::/32"}, {"2001:db8:0:1::/64"}, "[2001:db8:0:1::]:1", false},
	{{"2001:db8::/32"}, {"2001:db8:0:1::/64"}, "[2001:db8:0:1:ffff:ffff:ffff:ffff]:1", false},
	{{"2001:db8::/32"}, {"2001:db8:0:1::/64"}, "[2001:db8:0:2::]:1", true},
	{{"2001:db8::/32"}, {"2001:db8:0:1::/64"}, "[2001:db8::ffff:ffff:ffff:ffff]:1", true},
	{{"2001:db8::8/126"}, {0}, "[2001:db8::b]:1", true},
	{{"2001:db8::8/126"}, {0}, "[2001:db8::c]:1", false},
	{{"2001:db8::8/126"}, {0}, "[2001:db8::7]:1", false},
	{{"2001:db8::1"}, {0}, "[2001:db8::1]:1", true},
	{{"2001:db8::1"}, {0}, "[2001:db8:0:0:1::1]:1", false},
	/* A prefix of mapped addresses is one of IPv4. */
	{{"::ffff:10.0.0.0/104"}, {0}, "10.200.0.1:1", true},
	{{"::ffff:10.0.0.0/104"}, {0}, "11.0.0.1:1", false},
};

#undef PRIVATE

/* The entries of <list> in <ret>. How many. */
static inline size_t acl_case_parse(const char *const list[ACL_CASE_LIST],
				    struct lb_prefix ret[ACL_CASE_LIST])
{
	size_t n = 0;

	for (; n < ACL_CASE_LIST && list[n]; n++)
		assert_int_equal(lb_prefix_parse(list[n], &ret[n]), 0);
	return n;
}

static inline struct lb_acl *acl_case_build(const struct acl_case *c)
{
	struct lb_prefix allow[ACL_CASE_LIST], deny[ACL_CASE_LIST];
	size_t allow_count = acl_case_parse(c->allow, allow);
	size_t deny_count = acl_case_parse(c->deny, deny);
	struct lb_acl *acl;

	assert_int_equal(lb_acl_new(&acl, allow, allow_count, deny, deny_count), 0);
	return acl;
}

/*
 * A list that makes a tree of several levels: <count> addresses, or prefixes, of <family>, spread
 * by <seed>.
 */
static inline void acl_case_many(struct lb_prefix *ret, size_t count, int family, uint64_t seed)
{
	for (size_t i = 0; i < count; i++) {
		struct lb_prefix p = {.family = (uint8_t)family};

		for (size_t at = 0; at < 16; at += 8) {
			uint64_t word = lb_random_next(&seed);

			memcpy(p.bytes + at, &word, sizeof(word));
		}
		p.bits = (uint8_t)(family == AF_INET ? 12 + lb_random_next(&seed) % 21
						     : 20 + lb_random_next(&seed) % 109);
		if (family == AF_INET)
			memset(p.bytes + 4, 0, 12);
		else
			p.bytes[0] = 0x20;
		for (size_t bit = p.bits; bit < 128; bit++)
			p.bytes[bit / 8] &= (uint8_t) ~(0x80 >> bit % 8);
		ret[i] = p;
	}
}

#endif
