/* SPDX-License-Identifier: MIT */
/*
 * Any bytes at the beginning of a connection: what they mean does not depend on how they are cut
 * into pieces, nothing is read beyond them, and a name is one that may stand in a log.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flow/client_hello.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static void judge(const struct lb_client_hello *h, const uint8_t *data, size_t size)
{
	size_t at = 0;

	for (const char *c = h->name; *c; c++)
		demand(*c > 0x20 && *c < 0x7f && !(*c >= 'A' && *c <= 'Z'));
	if (!h->alpn_len)
		return;
	demand(h->alpn >= data && h->alpn + h->alpn_len <= data + size);
	while (at < h->alpn_len) {
		demand(h->alpn[at]);
		at += 1 + h->alpn[at];
	}
	demand(at == h->alpn_len);
	demand(!lb_client_hello_offers(h, ""));
}

/* The answer to the first <n> bytes, which are all that there is. */
static int read_first(const uint8_t *data, size_t n, size_t *need)
{
	uint8_t *copy = malloc(n ? n : 1);
	struct lb_client_hello hello;
	int r;

	demand(copy);
	if (n)
		memcpy(copy, data, n);
	r = lb_client_hello_read(copy, n, &hello, need);
	demand(r == 0 || r == -EAGAIN || r == -EPROTO || r == -EBADMSG || r == -EMSGSIZE);
	if (!r)
		judge(&hello, copy, n);
	free(copy);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t need = 0, asked = 0;
	int before = -EAGAIN;

	for (size_t n = 0; n <= size; n++) {
		int now = read_first(data, n, &need);

		/* Once it is said, it stays so; who waits for what was asked for misses nothing. */
		demand(before == -EAGAIN || now == before);
		demand(now != -EAGAIN || (need > n && need <= LB_CLIENT_HELLO_WIRE_MAX));
		demand(now || before != -EAGAIN || asked <= n);
		if (now == -EAGAIN && need > asked)
			asked = need;
		before = now;
	}
	return 0;
}
