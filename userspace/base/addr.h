/* SPDX-License-Identifier: MIT */
/*
 * Socket addresses: IPv4 and IPv6 with a port, parsed from and printed as "1.2.3.4:80" and
 * "[2001:db8::1]:80". Any thread may call everything here. No name lookups: backend/resolve does
 * those.
 */
#ifndef LB_BASE_ADDR_H
#define LB_BASE_ADDR_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* The family is AF_INET, AF_INET6 or, when all zero, none (AF_UNSPEC). */
struct lb_addr {
	union {
		struct sockaddr sa;
		struct sockaddr_in in4;
		struct sockaddr_in6 in6;
	};
};

/* "[2001:db8:ffff:ffff:ffff:ffff:255.255.255.255%scope]:65535" and its NUL fit. */
#define LB_ADDR_STR_MAX 96

/*
 * Numeric only: "1.2.3.4:80", "[2001:db8::1]:80", "[fe80::1%eth0]:80" (or "%2"). An empty host
 * (":80") means 0.0.0.0. 0, or -EINVAL with *ret untouched; port 0 is refused.
 */
int lb_addr_parse(const char *text, struct lb_addr *ret);

/*
 * Split "host:port" / "[v6]:port" without resolving. <host> gets at most <size> bytes with its NUL
 * and no brackets; it is "" for ":80", which a caller that needs a name must refuse. 0, -EINVAL for
 * a malformed text or a port outside 1..65535, -ENAMETOOLONG for the host; outputs untouched then.
 */
int lb_addr_split(const char *text, char *host, size_t size, uint16_t *port);

/*
 * An address alone, without brackets, scope or port: "1.2.3.4" for <family> AF_INET, "2001:db8::1"
 * for AF_INET6. 0 with port 0, or -EINVAL with *ret untouched.
 */
int lb_addr_parse_host(int family, const char *text, struct lb_addr *ret);

/* What bind(2) and connect(2) want to know; 0 without a family. */
socklen_t lb_addr_len(const struct lb_addr *a);
/* Host byte order; 0 without a family. */
uint16_t lb_addr_port(const struct lb_addr *a);
void lb_addr_set_port(struct lb_addr *a, uint16_t port);
/* Same family, address, scope and port. A v4-mapped address is not its IPv4 twin: unmap first. */
bool lb_addr_equal(const struct lb_addr *a, const struct lb_addr *b);
/*
 * Turns ::ffff:1.2.3.4, as accept(2) reports an IPv4 client of a [::] listener, into 1.2.3.4;
 * leaves any other address alone.
 */
void lb_addr_unmap(struct lb_addr *a);
/* The way back: 1.2.3.4 becomes ::ffff:1.2.3.4; leaves any other address alone. */
void lb_addr_map(struct lb_addr *a);
/* The 16 bytes of the address as IPv6, IPv4 as lb_addr_map() makes it; all zero without one. */
void lb_addr_to_bytes(const struct lb_addr *a, uint8_t bytes[16]);
/* The way back, IPv4 as such. */
void lb_addr_from_bytes(struct lb_addr *ret, const uint8_t bytes[16], uint16_t port);
/* 0.0.0.0, :: or ::ffff:0.0.0.0 */
bool lb_addr_is_any(const struct lb_addr *a);
/* 127.0.0.0/8 (v4-mapped too) or ::1 */
bool lb_addr_is_loopback(const struct lb_addr *a);

/*
 * Writes at most LB_ADDR_STR_MAX bytes; v4-mapped addresses print as IPv4, scopes as numbers, no
 * family as "-". Returns <buf>.
 */
const char *lb_addr_format(const struct lb_addr *a, char buf[LB_ADDR_STR_MAX]);
/* The address alone, in its own family: what lb_addr_parse_host() reads. */
const char *lb_addr_format_host(const struct lb_addr *a, char buf[LB_ADDR_STR_MAX]);

#endif
