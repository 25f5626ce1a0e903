/* SPDX-License-Identifier: MIT */
/*
 * Any bytes that pass for a flow from another daemon: either they are refused, or what is made of
 * them says the same again, byte by byte, and nothing else than one whole record passes.
 */
#include "flow/handover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static void is_sound(const struct lb_handover *h)
{
	demand(strnlen(h->rule, sizeof(h->rule)) < sizeof(h->rule));
	demand(strnlen(h->backend, sizeof(h->backend)) < sizeof(h->backend));
	demand(lb_addr_len(&h->client) && lb_addr_len(&h->backend_addr));
	demand(!(h->dir[0].shut && h->dir[1].shut));
	for (unsigned int i = 0; i < 2; i++) {
		demand(h->leg[i].fd == -1);
		demand(h->dir[i].held_size <= LB_HANDOVER_HELD_MAX);
		demand(!h->dir[i].held == !h->dir[i].held_size);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int64_t peeked = lb_handover_peek(data, size);
	struct lb_handover *h = NULL;
	int err = lb_handover_decode(data, size, &h);
	uint8_t *again;

	demand(peeked == -EPROTO || (peeked >= 0 && peeked <= (int64_t)LB_HANDOVER_BYTES_MAX));
	demand(peeked || size < LB_HANDOVER_HEAD_BYTES);
	demand(!err || (err == -EPROTO && !h));
	if (err)
		return 0;
	demand(peeked == (int64_t)size);
	is_sound(h);
	demand(lb_handover_size(h) == size);
	again = malloc(size);
	lb_handover_encode(h, again);
	demand(!memcmp(data, again, size));
	free(again);
	lb_handover_forget(&h);
	return 0;
}
