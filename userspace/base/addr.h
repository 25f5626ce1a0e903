/* SPDX-License-Identifier: MIT */
/*
 * Socket addresses: IPv4 and IPv6 with a port, parsed from and printed as "1.2.3.4:80" and
 * "[2001:db8::1]:80". Pure: no name lookups here (backend/resolve does those).
 */
#ifndef LB_BASE_ADDR_H
#define LB_BASE_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

struct lb_addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in in4;
		struct sockaddr_in6 in6;
	};
};

/* "[2001:db8:ffff:ffff:ffff:ffff:255.255.255.255%scope]:65535" and its NUL fit. */
#define LB_ADDR_STR_MAX 96

/* Numeric only. 0, or -EINVAL with *ret untouched. An empty host (":80") means 0.0.0.0. */
int lb_addr_parse(const char *text, struct lb_addr *ret);

/*
 * Split "host:port" / "[v6]:port" without resolving. <host> gets at most <size> bytes with its NUL.
 * 0, -EINVAL for a malformed text or a port outside 1..65535, -ENAMETOOLONG for the host.
 */
int lb_addr_split(const char *text, char *host, size_t size, uint16_t *port);

socklen_t lb_addr_len(const struct lb_addr *a);
uint16_t lb_addr_port(const struct lb_addr *a);
bool lb_addr_equal(const struct lb_addr *a, const struct lb_addr *b);
/* 0.0.0.0 or :: */
bool lb_addr_is_any(const struct lb_addr *a);
bool lb_addr_is_loopback(const struct lb_addr *a);

/* Writes at most LB_ADDR_STR_MAX bytes; v4-mapped addresses print as IPv4. Returns <buf>. */
const char *lb_addr_format(const struct lb_addr *a, char buf[LB_ADDR_STR_MAX]);

#endif
