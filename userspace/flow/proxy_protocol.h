/* SPDX-License-Identifier: MIT */
/*
 * The PROXY protocol, versions 1 and 2: a header in front of a stream that says whom the sender
 * speaks for. https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt
 *
 * Knows no descriptor, no session, no clock. Any thread.
 */
#ifndef LB_FLOW_PROXY_PROTOCOL_H
#define LB_FLOW_PROXY_PROTOCOL_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "config/config.h"

/* The longest header that is read; of version 1 it is 107 bytes. */
#define LB_PROXY_PROTOCOL_IN_MAX 4096u
/* The longest one that is written. */
#define LB_PROXY_PROTOCOL_OUT_MAX 1536u

/* What is known of a client's TLS. NULL: there is none; of a text 255 bytes count. */
struct lb_proxy_tls {
	const char *version, *cipher;
	const char *authority; /* the name it asked for */
	const char *name;      /* of its certificate, which was verified */
	const uint8_t *alpn;
	uint8_t alpn_len;
};

struct lb_proxy_header {
	/* Both or none have a family. None: the sender speaks for itself, or does not know. */
	struct lb_addr source, destination;
	/* Written by version 2, as type-length-values, and never read; NULL: none. */
	const struct lb_proxy_tls *tls;
};

/*
 * A connection began with <len> bytes of <data>. The length of the header in front of them, which
 * is then in *ret; 0 when only more bytes can tell; -EPROTO when no valid header begins like this.
 * What it says of a stream does not depend on how that is cut into pieces. v4-mapped addresses
 * come out as IPv4.
 */
int lb_proxy_protocol_read(const uint8_t *data, size_t len, struct lb_proxy_header *ret);

/*
 * Writes the header of <version> (not OFF) that says <h>; its length. Addresses of two families
 * are both written as IPv6.
 */
size_t lb_proxy_protocol_write(enum lb_proxy_protocol version, const struct lb_proxy_header *h,
			       uint8_t buf[LB_PROXY_PROTOCOL_OUT_MAX]);

#endif
