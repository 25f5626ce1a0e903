/* SPDX-License-Identifier: MIT */
/*
 * Any bytes at the beginning of a connection: what they mean does not depend on how they are cut
 * into pieces, a header never reaches beyond what was read, and what it says can be said again.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow/proxy_protocol.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static void says_the_same(enum lb_proxy_protocol version, const struct lb_proxy_header *h)
{
	uint8_t buf[LB_PROXY_PROTOCOL_OUT_MAX];
	struct lb_proxy_header again;
	size_t len = lb_proxy_protocol_write(version, h, buf);

	demand(len <= sizeof(buf));
	demand(lb_proxy_protocol_read(buf, len, &again) == (int)len);
	demand(lb_addr_equal(&h->source, &again.source));
	demand(lb_addr_equal(&h->destination, &again.destination));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lb_proxy_header whole, part;
	int answer = lb_proxy_protocol_read(data, size, &whole), before = 0;

	demand(answer == -EPROTO || (answer >= 0 && (size_t)answer <= size));
	demand(answer <= (int)LB_PROXY_PROTOCOL_IN_MAX);
	for (size_t n = 0; n <= size; n++) {
		int now = lb_proxy_protocol_read(data, n, &part);

		/* Once it is said, it stays so; before, only more bytes can tell. */
		demand(!before || now == before);
		demand(now <= (int)n);
		before = now;
	}
	demand(before == answer);
	demand(answer || size < LB_PROXY_PROTOCOL_IN_MAX);
	if (answer <= 0)
		return 0;
	demand(!whole.source.sa.sa_family == !whole.destination.sa.sa_family);
	says_the_same(LB_PROXY_PROTOCOL_V1, &whole);
	says_the_same(LB_PROXY_PROTOCOL_V2, &whole);
	return 0;
}
