/* SPDX-License-Identifier: MIT */
/* An address prefix: "10.0.0.0/8", "2001:db8::/32", or one address. Pure. */
#ifndef LB_CONFIG_PREFIX_H
#define LB_CONFIG_PREFIX_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

/* Bits behind <bits> are zero; an IPv4 prefix never hides in a v4-mapped one. */
struct lb_prefix {
	uint8_t family; /* AF_INET or AF_INET6 */
	uint8_t bits;   /* 0..32 or 0..128 */
	union {
		struct in_addr in4;
		struct in6_addr in6;
		uint8_t bytes[16]; /* network order; IPv4 uses the first four */
	};
};

#define LB_PREFIX_STR_MAX 64

/* Host bits are cleared, as in "10.1.2.3/8". 0, or -EINVAL with *ret untouched. */
int lb_prefix_parse(const char *text, struct lb_prefix *ret);
/* Always with the length: "10.0.0.1/32". Returns <buf>. */
const char *lb_prefix_format(const struct lb_prefix *p, char buf[LB_PREFIX_STR_MAX]);
/* Is every address of <inner> in <outer>? */
bool lb_prefix_contains(const struct lb_prefix *outer, const struct lb_prefix *inner);

#endif
