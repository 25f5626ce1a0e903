/* SPDX-License-Identifier: MIT */
/*
 * Decides what an entry of an access list stands for. It must never accept a text it does not
 * understand completely: a misread entry is a hole in somebody's fence.
 */
#include "config/prefix.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "config/units.h"

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

static void clear_host_bits(struct lb_prefix *p)
{
	size_t whole = p->bits / 8;

	if (p->bits % 8) {
		p->bytes[whole] &= (uint8_t)(0xff << (8 - p->bits % 8));
		whole++;
	}
	memset(p->bytes + whole, 0, sizeof(p->bytes) - whole);
}

/* ::ffff:10.0.0.0/104 names IPv4 clients, whose addresses we see as IPv4. */
static void unmap(struct lb_prefix *p)
{
	if (p->family != AF_INET6 || p->bits < 96 || memcmp(p->bytes, mapped, sizeof(mapped)) != 0)
		return;
	p->family = AF_INET;
	p->bits -= 96;
	memmove(p->bytes, p->bytes + 12, 4);
}

int lb_prefix_parse(const char *text, struct lb_prefix *ret)
{
	struct lb_prefix p = {0};
	char host[INET6_ADDRSTRLEN];
	size_t length = strcspn(text, "/");
	uint64_t bits;

	if (length >= sizeof(host))
		return -EINVAL;
	memcpy(host, text, length);
	host[length] = '\0';
	if (inet_pton(AF_INET, host, &p.in4) == 1)
		p.family = AF_INET;
	else if (inet_pton(AF_INET6, host, &p.in6) == 1)
		p.family = AF_INET6;
	else
		return -EINVAL;

	bits = p.family == AF_INET ? 32 : 128;
	if (text[length] == '/') {
		uint64_t n;

		if (lb_units_parse_number(text + length + 1, &n) || n > bits)
			return -EINVAL;
		bits = n;
	}
	p.bits = (uint8_t)bits;
	unmap(&p);
	clear_host_bits(&p);
	*ret = p;
	return 0;
}

const char *lb_prefix_format(const struct lb_prefix *p, char buf[LB_PREFIX_STR_MAX])
{
	char host[INET6_ADDRSTRLEN];

	inet_ntop(p->family, p->bytes, host, sizeof(host));
	snprintf(buf, LB_PREFIX_STR_MAX, "%s/%u", host, p->bits);
	return buf;
}

bool lb_prefix_contains(const struct lb_prefix *outer, const struct lb_prefix *inner)
{
	struct lb_prefix cut = *inner;

	if (outer->family != inner->family || outer->bits > inner->bits)
		return false;
	cut.bits = outer->bits;
	clear_host_bits(&cut);
	return memcmp(cut.bytes, outer->bytes, sizeof(cut.bytes)) == 0;
}
