/* SPDX-License-Identifier: MIT */
/*
 * What a TLS client says first: the name it asks for (RFC 6066) and the protocols it offers (ALPN,
 * RFC 7301), read from its ClientHello (RFC 8446 4.1.2, RFC 5246 7.4.1.2) however that is cut into
 * records and segments.
 *
 * Knows no descriptor, no session, no clock. Any thread.
 */
#ifndef LB_FLOW_CLIENT_HELLO_H
#define LB_FLOW_CLIENT_HELLO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The longest ClientHello that is read .. */
#define LB_CLIENT_HELLO_MAX (64u * 1024u)
/* .. and with the heads of its records: a client may put each byte into one of its own. */
#define LB_CLIENT_HELLO_WIRE_MAX (128u * 1024u)
#define LB_CLIENT_HELLO_NAME_MAX 255u

struct lb_client_hello {
	char name[LB_CLIENT_HELLO_NAME_MAX + 1]; /* in lower case; "": it asks for none */
	const uint8_t *alpn;                     /* names, each behind its length .. */
	size_t alpn_len;                         /* .. 0: it offers none */
};

/*
 * A connection began with <len> bytes of <data>, which are rewritten. 0 with *ret, which points
 * into <data>. -EAGAIN: only more bytes can tell, at least *need of them, which is more than <len>.
 * Else no more bytes help: -EPROTO, this is no TLS; -EMSGSIZE, too long; -EBADMSG, it contradicts
 * itself. What it says of a stream does not depend on how that is cut into pieces.
 */
int lb_client_hello_read(uint8_t *data, size_t len, struct lb_client_hello *ret, size_t *need);

/* Whether it offers <protocol>. */
bool lb_client_hello_offers(const struct lb_client_hello *hello, const char *protocol);

#endif
