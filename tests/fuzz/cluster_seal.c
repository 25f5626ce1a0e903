/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a sealed datagram and as a key file. Nothing opens but what was sealed, bit for bit,
 * and that once; and what does not open keeps nothing else from being opened.
 *
 * Of a datagram that is sealed here: what to do to it 1 | where 2 | bits 1 | what is in it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/seal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static struct lb_seal *sender, *receiver;
static struct lb_seal_time now = {.wall_ms = 1800000000000, .now_ms = 1000};

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static void set_up(void)
{
	static const char text[] =
		"1111111111111111111111111111111111111111111111111111111111111111\n";
	struct lb_seal_keys keys;
	char why[128];

	if (sender)
		return;
	demand(!lb_seal_keys_parse(text, sizeof(text) - 1, &keys, why, sizeof(why)));
	demand(!lb_seal_new(&sender, &keys, 8, now));
	demand(!lb_seal_new(&receiver, &keys, 8, now));
}

static enum lb_seal_verdict open_it(const uint8_t *bytes, size_t len, const uint8_t *plain,
				    size_t plain_len)
{
	uint8_t out[LB_WIRE_PLAIN_MAX];
	enum lb_seal_verdict verdict;
	size_t out_len = 0;
	int64_t skew;

	verdict = lb_seal_open(receiver, now, bytes, len, out, &out_len, &skew);
	if (verdict == LB_SEAL_OPENED)
		demand(out_len == plain_len && !memcmp(out, plain, plain_len));
	return verdict;
}

static void change(const uint8_t *data, const uint8_t *plain, size_t plain_len)
{
	uint8_t sealed[LB_WIRE_BYTES_MAX], changed[LB_WIRE_BYTES_MAX + 1];
	int n = lb_seal_close(sender, now, plain, plain_len, sealed);
	size_t len = (size_t)n, at;

	demand(n == (int)(plain_len + LB_SEAL_HEAD + LB_SEAL_TAG));
	memcpy(changed, sealed, len);
	at = ((size_t)data[1] << 8 | data[2]) % len;
	if (data[0] % 3 == 0)
		changed[at] ^= data[3];
	else if (data[0] % 3 == 1)
		len = at;
	else
		changed[len++] = data[3];
	if (len != (size_t)n || memcmp(changed, sealed, len) != 0)
		demand(open_it(changed, len, plain, plain_len) != LB_SEAL_OPENED);
	demand(open_it(sealed, (size_t)n, plain, plain_len) == LB_SEAL_OPENED);
	demand(open_it(sealed, (size_t)n, plain, plain_len) == LB_SEAL_REPLAYED);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lb_seal_keys keys;
	char why[128];

	set_up();
	now.wall_ms++;
	now.now_ms++;
	demand(open_it(data, size, NULL, 0) != LB_SEAL_OPENED);
	if (!lb_seal_keys_parse((const char *)data, size, &keys, why, sizeof(why))) {
		demand(keys.count && keys.count <= LB_SEAL_KEYS_MAX);
		lb_seal_keys_wipe(&keys);
	}
	if (size >= 4 && size - 4 <= LB_WIRE_PLAIN_MAX)
		change(data, data + 4, size - 4);
	return 0;
}
