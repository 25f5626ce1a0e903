/* SPDX-License-Identifier: MIT */
/*
 * See acl.h; bpf/acl.bpf.h is the twin of the search. Must never let in whom a list does not.
 *
 *	prefixes -> sorted -> ranges that neither touch nor overlap -> changes of verdict -> nodes
 *
 * For the building an address is a number of 128 bits in either family.
 */
#include "flow/acl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

typedef unsigned __int128 number;

struct range {
	number first, last;
};

struct ranges {
	struct range *all;
	size_t count;
};

/* At and after an address the verdict is another one than before. */
struct changes {
	number *at;
	size_t count;
	bool before_first; /* the verdict there; it alternates */
};

struct lb_acl {
	struct lb_acl_v4_node *v4;
	struct lb_acl_v6_node *v6;
	uint32_t v4_count, v6_count;
};

/* --- lists to changes ------------------------------------------------------------------------- */

static number number_of(const uint8_t *bytes, size_t count)
{
	number n = 0;

	for (size_t i = 0; i < count; i++)
		n = n << 8 | bytes[i];
	return n;
}

/* The greatest of all addresses with <bits> bits. */
static number greatest(unsigned int bits)
{
	return ~(number)0 >> (128 - bits);
}

static int by_first(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return (x->first > y->first) - (x->first < y->first);
}

static int collect(struct ranges *ret, const struct lb_prefix *list, size_t count, int family)
{
	unsigned int bits = family == AF_INET ? 32 : 128;
	size_t kept = 0;

	ret->all = calloc(count + 1, sizeof(*ret->all));
	if (!ret->all)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		const struct lb_prefix *p = &list[i];
		struct range *r = &ret->all[ret->count];

		if (p->family != family)
			continue;
		r->first = number_of(p->bytes, bits / 8);
		r->last = r->first;
		if (p->bits < bits)
			r->last |= greatest(bits - p->bits);
		ret->count++;
	}
	qsort(ret->all, ret->count, sizeof(*ret->all), by_first);
	for (size_t i = 0; i < ret->count; i++) {
		const struct range *r = &ret->all[i];
		struct range *to = kept ? &ret->all[kept - 1] : NULL;

		if (!to || (r->first > to->last && r->first - to->last > 1))
			ret->all[kept++] = *r;
		else if (r->last > to->last)
			to->last = r->last;
	}
	ret->count = kept;
	return 0;
}

/*
 * A list as a walk over the places where one gets in or out of it. Each is an address, but for the
 * way out of a range that goes to the very end: there is no address behind it.
 */
struct walk {
	const struct ranges *ranges;
	size_t at;
	bool inside;
};

/* False at the end. */
static bool walk_peek(const struct walk *w, number end, number *ret)
{
	if (w->at == w->ranges->count)
		return false;
	if (w->inside && w->ranges->all[w->at].last == end)
		return false;
	*ret = w->inside ? w->ranges->all[w->at].last + 1 : w->ranges->all[w->at].first;
	return true;
}

static void walk_step(struct walk *w)
{
	w->at += w->inside;
	w->inside = !w->inside;
}

static int combine(struct changes *ret, const struct ranges *allow, bool everyone,
		   const struct ranges *deny, number end)
{
	struct walk in = {.ranges = allow}, out = {.ranges = deny};
	bool verdict = everyone;

	ret->at = calloc(2 * (allow->count + deny->count) + 1, sizeof(*ret->at));
	if (!ret->at)
		return -ENOMEM;
	ret->before_first = verdict;
	for (;;) {
		number a, d, here;
		bool more_a = walk_peek(&in, end, &a), more_d = walk_peek(&out, end, &d), now;

		if (!more_a && !more_d)
			return 0;
		here = !more_d || (more_a && a < d) ? a : d;
		if (more_a && a == here)
			walk_step(&in);
		if (more_d && d == here)
			walk_step(&out);
		now = (everyone || in.inside) && !out.inside;
		if (now != verdict)
			ret->at[ret->count++] = here;
		verdict = now;
	}
}

/* --- changes to nodes ------------------------------------------------------------------------- */

/* The keys in order, padded with the greatest address. */
struct source {
	const struct changes *changes;
	size_t next;
	number end;
};

/* The verdict just before the next key; *key is it. */
static bool source_next(struct source *s, number *key)
{
	size_t at = s->next < s->changes->count ? s->next : s->changes->count;

	*key = s->next < s->changes->count ? s->changes->at[s->next] : s->end;
	s->next++;
	return s->changes->before_first ^ (at & 1);
}

/* As source_next(), of the place behind the last key that was taken. */
static bool source_verdict(const struct source *s)
{
	size_t at = s->next < s->changes->count ? s->next : s->changes->count;

	return s->changes->before_first ^ (at & 1);
}

static uint32_t nodes_for(size_t keys, uint32_t per_node)
{
	return keys ? (uint32_t)((keys + per_node - 1) / per_node) : 1;
}

/* In order: a child's keys lie between those of its parent. As deep as the tree. */
static void fill_v4(struct lb_acl *acl, uint64_t n, struct source *s)
{
	for (uint32_t i = 0; n < acl->v4_count && i <= LB_ACL_V4_KEYS; i++) {
		struct lb_acl_v4_node *node = &acl->v4[n];
		bool verdict;
		number key;

		fill_v4(acl, n * (LB_ACL_V4_KEYS + 1) + i + 1, s);
		if (i == LB_ACL_V4_KEYS) {
			node->verdicts |= (uint32_t)source_verdict(s) << i;
			return;
		}
		verdict = source_next(s, &key);
		node->key[i] = (uint32_t)key;
		node->verdicts |= (uint32_t)verdict << i;
	}
}

static void fill_v6(struct lb_acl *acl, uint64_t n, struct source *s)
{
	for (uint32_t i = 0; n < acl->v6_count && i <= LB_ACL_V6_KEYS; i++) {
		struct lb_acl_v6_node *node = &acl->v6[n];
		bool verdict;
		number key;

		fill_v6(acl, n * (LB_ACL_V6_KEYS + 1) + i + 1, s);
		if (i == LB_ACL_V6_KEYS) {
			node->verdicts |= (uint32_t)source_verdict(s) << i;
			return;
		}
		verdict = source_next(s, &key);
		node->key[i].high = (uint64_t)(key >> 64);
		node->key[i].low = (uint64_t)key;
		node->verdicts |= (uint32_t)verdict << i;
	}
}

static int build(struct lb_acl *acl, const struct changes *c, int family)
{
	struct source s = {.changes = c, .end = greatest(family == AF_INET ? 32 : 128)};

	if (family == AF_INET) {
		acl->v4_count = nodes_for(c->count, LB_ACL_V4_KEYS);
		acl->v4 = calloc(acl->v4_count, sizeof(*acl->v4));
		if (!acl->v4)
			return -ENOMEM;
		fill_v4(acl, 0, &s);
		return 0;
	}
	acl->v6_count = nodes_for(c->count, LB_ACL_V6_KEYS);
	acl->v6 = calloc(acl->v6_count, sizeof(*acl->v6));
	if (!acl->v6)
		return -ENOMEM;
	fill_v6(acl, 0, &s);
	return 0;
}

/* --- the lists -------------------------------------------------------------------------------- */

static int add_family(struct lb_acl *acl, const struct lb_prefix *allow, size_t allow_count,
		      const struct lb_prefix *deny, size_t deny_count, int family)
{
	struct ranges in = {}, out = {};
	struct changes changes = {};
	int err;

	err = collect(&in, allow, allow_count, family);
	if (!err)
		err = collect(&out, deny, deny_count, family);
	if (!err)
		err = combine(&changes, &in, !allow_count, &out,
			      greatest(family == AF_INET ? 32 : 128));
	if (!err)
		err = build(acl, &changes, family);
	free(in.all);
	free(out.all);
	free(changes.at);
	return err;
}

int lb_acl_new(struct lb_acl **ret, const struct lb_prefix *allow, size_t allow_count,
	       const struct lb_prefix *deny, size_t deny_count)
{
	LB_AUTO(lb_acl_free) struct lb_acl *acl = calloc(1, sizeof(*acl));
	int err;

	if (!acl)
		return -ENOMEM;
	err = add_family(acl, allow, allow_count, deny, deny_count, AF_INET);
	if (!err)
		err = add_family(acl, allow, allow_count, deny, deny_count, AF_INET6);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(acl);
	return 0;
}

void lb_acl_free(struct lb_acl **acl)
{
	if (!*acl)
		return;
	free((*acl)->v4);
	free((*acl)->v6);
	free(*acl);
	*acl = NULL;
}

/* What is said of all addresses decides how the nodes are. */
bool lb_acl_equal(const struct lb_acl *a, const struct lb_acl *b)
{
	return a->v4_count == b->v4_count && a->v6_count == b->v6_count &&
	       !memcmp(a->v4, b->v4, a->v4_count * sizeof(*a->v4)) &&
	       !memcmp(a->v6, b->v6, a->v6_count * sizeof(*a->v6));
}

const struct lb_acl_v4_node *lb_acl_v4_nodes(const struct lb_acl *acl, uint32_t *count)
{
	*count = acl->v4_count;
	return acl->v4;
}

const struct lb_acl_v6_node *lb_acl_v6_nodes(const struct lb_acl *acl, uint32_t *count)
{
	*count = acl->v6_count;
	return acl->v6;
}

/* --- the search ------------------------------------------------------------------------------- */

static bool v4_allows(const struct lb_acl *acl, uint32_t addr)
{
	uint64_t at = 0;
	bool allowed = false;

	while (at < acl->v4_count) {
		const struct lb_acl_v4_node *n = &acl->v4[at];
		uint32_t child = 0;

		for (int i = 0; i < LB_ACL_V4_KEYS; i++)
			child += addr >= n->key[i];
		allowed = n->verdicts >> child & 1;
		at = at * (LB_ACL_V4_KEYS + 1) + child + 1;
	}
	return allowed;
}

static bool v6_allows(const struct lb_acl *acl, uint64_t high, uint64_t low)
{
	uint64_t at = 0;
	bool allowed = false;

	while (at < acl->v6_count) {
		const struct lb_acl_v6_node *n = &acl->v6[at];
		uint32_t child = 0;

		for (int i = 0; i < LB_ACL_V6_KEYS; i++)
			child += high > n->key[i].high ||
				 (high == n->key[i].high && low >= n->key[i].low);
		allowed = n->verdicts >> child & 1;
		at = at * (LB_ACL_V6_KEYS + 1) + child + 1;
	}
	return allowed;
}

bool lb_acl_allows(const struct lb_acl *acl, const struct lb_addr *client)
{
	struct lb_addr addr = *client;
	number n;

	lb_addr_unmap(&addr);
	if (addr.sa.sa_family == AF_INET)
		return v4_allows(acl, ntohl(addr.in4.sin_addr.s_addr));
	if (addr.sa.sa_family != AF_INET6)
		return false;
	n = number_of(addr.in6.sin6_addr.s6_addr, 16);
	return v6_allows(acl, (uint64_t)(n >> 64), (uint64_t)n);
}
