/* SPDX-License-Identifier: MIT */
/*
 * Decides what counts as a socket address in text. Strict on purpose: what the resolver library
 * would still accept ("127.1", "0x7f.0.0.1", "::1:80") is refused, because an operator who wrote it
 * probably meant something else. Must never look up a host name.
 */
#include "base/addr.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

/* Decimal digits only, 1..65535. */
static int parse_port(const char *text, uint16_t *ret)
{
	unsigned value = 0;
	size_t len = strlen(text);

	if (len < 1 || len > 5)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EINVAL;
		value = value * 10 + (unsigned)(text[i] - '0');
	}
	if (value < 1 || value > 65535)
		return -EINVAL;
	*ret = (uint16_t)value;
	return 0;
}

/* What may stand in a host: no spaces or controls, nothing of a URL or of another bracket. */
static bool host_ok(const char *host, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (!isgraph((unsigned char)host[i]) || strchr("[]/@\"'", host[i]))
			return false;
	}
	return true;
}

int lb_addr_split(const char *text, char *host, size_t size, uint16_t *port)
{
	const char *start = text, *end, *colon;
	uint16_t value;
	int err;

	if (*text == '[') {
		start = text + 1;
		end = strchr(start, ']');
		/* Brackets are for IPv6, whose text always holds a colon. */
		if (!end || !memchr(start, ':', (size_t)(end - start)))
			return -EINVAL;
		colon = end + 1;
	} else {
		end = colon = strchr(text, ':');
	}
	if (!colon || *colon != ':' || !host_ok(start, (size_t)(end - start)))
		return -EINVAL;
	err = parse_port(colon + 1, &value);
	if (err)
		return err;
	if ((size_t)(end - start) >= size)
		return -ENAMETOOLONG;

	memcpy(host, start, (size_t)(end - start));
	host[end - start] = '\0';
	*port = value;
	return 0;
}

/* <scope> is an interface's name or index. */
static int parse_scope(const char *scope, uint32_t *ret)
{
	uint64_t index = 0;

	for (const char *c = scope; *c; c++) {
		if (*c < '0' || *c > '9') {
			*ret = if_nametoindex(scope);
			return *ret ? 0 : -EINVAL;
		}
		index = index * 10 + (uint64_t)(*c - '0');
		if (index > UINT32_MAX)
			return -EINVAL;
	}
	*ret = (uint32_t)index;
	return index ? 0 : -EINVAL;
}

static int parse_v6(char *host, struct sockaddr_in6 *in6)
{
	char *scope = strchr(host, '%');

	if (scope) {
		*scope++ = '\0';
		if (parse_scope(scope, &in6->sin6_scope_id))
			return -EINVAL;
	}
	in6->sin6_family = AF_INET6;
	return inet_pton(AF_INET6, host, &in6->sin6_addr) == 1 ? 0 : -EINVAL;
}

int lb_addr_parse(const char *text, struct lb_addr *ret)
{
	struct lb_addr addr;
	char host[LB_ADDR_STR_MAX];
	uint16_t port;

	memset(&addr, 0, sizeof(addr));
	if (lb_addr_split(text, host, sizeof(host), &port))
		return -EINVAL;
	if (*text == '[') {
		if (parse_v6(host, &addr.in6))
			return -EINVAL;
		addr.in6.sin6_port = htons(port);
	} else {
		addr.in4.sin_family = AF_INET;
		addr.in4.sin_port = htons(port);
		if (*host && inet_pton(AF_INET, host, &addr.in4.sin_addr) != 1)
			return -EINVAL;
	}
	*ret = addr;
	return 0;
}

int lb_addr_parse_host(int family, const char *text, struct lb_addr *ret)
{
	struct lb_addr addr;

	memset(&addr, 0, sizeof(addr));
	addr.sa.sa_family = (sa_family_t)family;
	if (family == AF_INET && inet_pton(AF_INET, text, &addr.in4.sin_addr) != 1)
		return -EINVAL;
	if (family == AF_INET6 && inet_pton(AF_INET6, text, &addr.in6.sin6_addr) != 1)
		return -EINVAL;
	*ret = addr;
	return 0;
}

socklen_t lb_addr_len(const struct lb_addr *a)
{
	switch (a->sa.sa_family) {
	case AF_INET:
		return sizeof(a->in4);
	case AF_INET6:
		return sizeof(a->in6);
	default:
		return 0;
	}
}

uint16_t lb_addr_port(const struct lb_addr *a)
{
	switch (a->sa.sa_family) {
	case AF_INET:
		return ntohs(a->in4.sin_port);
	case AF_INET6:
		return ntohs(a->in6.sin6_port);
	default:
		return 0;
	}
}

void lb_addr_set_port(struct lb_addr *a, uint16_t port)
{
	if (a->sa.sa_family == AF_INET)
		a->in4.sin_port = htons(port);
	else if (a->sa.sa_family == AF_INET6)
		a->in6.sin6_port = htons(port);
}

bool lb_addr_equal(const struct lb_addr *a, const struct lb_addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family || lb_addr_port(a) != lb_addr_port(b))
		return false;
	switch (a->sa.sa_family) {
	case AF_INET:
		return a->in4.sin_addr.s_addr == b->in4.sin_addr.s_addr;
	case AF_INET6:
		return a->in6.sin6_scope_id == b->in6.sin6_scope_id &&
		       IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr);
	default:
		return true;
	}
}

/* The IPv4 address of <a>, also of a v4-mapped one. False, *ret untouched: <a> is no IPv4. */
static bool get_v4(const struct lb_addr *a, struct in_addr *ret)
{
	if (a->sa.sa_family == AF_INET) {
		*ret = a->in4.sin_addr;
		return true;
	}
	if (a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr)) {
		memcpy(ret, &a->in6.sin6_addr.s6_addr[12], sizeof(*ret));
		return true;
	}
	return false;
}

void lb_addr_unmap(struct lb_addr *a)
{
	uint16_t port = lb_addr_port(a);
	struct in_addr v4;

	if (a->sa.sa_family != AF_INET6 || !get_v4(a, &v4))
		return;
	memset(a, 0, sizeof(*a));
	a->in4.sin_family = AF_INET;
	a->in4.sin_port = htons(port);
	a->in4.sin_addr = v4;
}

void lb_addr_map(struct lb_addr *a)
{
	struct in_addr v4 = a->in4.sin_addr;
	uint16_t port = lb_addr_port(a);

	if (a->sa.sa_family != AF_INET)
		return;
	memset(a, 0, sizeof(*a));
	a->in6.sin6_family = AF_INET6;
	a->in6.sin6_port = htons(port);
	a->in6.sin6_addr.s6_addr[10] = a->in6.sin6_addr.s6_addr[11] = 0xff;
	memcpy(&a->in6.sin6_addr.s6_addr[12], &v4, sizeof(v4));
}

void lb_addr_to_bytes(const struct lb_addr *a, uint8_t bytes[16])
{
	struct lb_addr mapped = *a;

	lb_addr_map(&mapped);
	memset(bytes, 0, 16);
	if (mapped.sa.sa_family == AF_INET6)
		memcpy(bytes, &mapped.in6.sin6_addr, 16);
}

void lb_addr_from_bytes(struct lb_addr *ret, const uint8_t bytes[16], uint16_t port)
{
	memset(ret, 0, sizeof(*ret));
	ret->in6.sin6_family = AF_INET6;
	ret->in6.sin6_port = htons(port);
	memcpy(&ret->in6.sin6_addr, bytes, 16);
	lb_addr_unmap(ret);
}

bool lb_addr_is_any(const struct lb_addr *a)
{
	struct in_addr v4;

	if (get_v4(a, &v4))
		return v4.s_addr == htonl(INADDR_ANY);
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a->in6.sin6_addr);
}

bool lb_addr_is_loopback(const struct lb_addr *a)
{
	struct in_addr v4;

	if (get_v4(a, &v4))
		return ntohl(v4.s_addr) >> 24 == 127;
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

const char *lb_addr_format(const struct lb_addr *a, char buf[LB_ADDR_STR_MAX])
{
	char host[INET6_ADDRSTRLEN], scope[sizeof("%4294967295")] = "";
	struct in_addr v4;

	if (get_v4(a, &v4)) {
		inet_ntop(AF_INET, &v4, host, sizeof(host));
		snprintf(buf, LB_ADDR_STR_MAX, "%s:%u", host, lb_addr_port(a));
	} else if (a->sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a->in6.sin6_addr, host, sizeof(host));
		if (a->in6.sin6_scope_id)
			snprintf(scope, sizeof(scope), "%%%u", a->in6.sin6_scope_id);
		snprintf(buf, LB_ADDR_STR_MAX, "[%s%s]:%u", host, scope, lb_addr_port(a));
	} else {
		snprintf(buf, LB_ADDR_STR_MAX, "-");
	}
	return buf;
}

const char *lb_addr_format_host(const struct lb_addr *a, char buf[LB_ADDR_STR_MAX])
{
	snprintf(buf, LB_ADDR_STR_MAX, "-");
	if (a->sa.sa_family == AF_INET)
		inet_ntop(AF_INET, &a->in4.sin_addr, buf, LB_ADDR_STR_MAX);
	else if (a->sa.sa_family == AF_INET6)
		inet_ntop(AF_INET6, &a->in6.sin6_addr, buf, LB_ADDR_STR_MAX);
	return buf;
}
