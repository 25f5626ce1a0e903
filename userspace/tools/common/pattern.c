/* SPDX-License-Identifier: MIT */
/* The pattern's table. Byte n is the top byte of the n-th step of Knuth's 64-bit LCG from 0. */
#include "tools/common/pattern.h"

#include <string.h>

/* One window longer than the period, so that a window may start anywhere in it. */
static uint8_t table[LB_PATTERN_PERIOD + LB_PATTERN_WINDOW];

void lb_pattern_init(void)
{
	uint64_t x = 0;

	for (size_t i = 0; i < LB_PATTERN_PERIOD; i++) {
		x = x * 6364136223846793005ull + 1442695040888963407ull;
		table[i] = (uint8_t)(x >> 56);
	}
	memcpy(table + LB_PATTERN_PERIOD, table, LB_PATTERN_WINDOW);
}

const uint8_t *lb_pattern_at(uint64_t offset)
{
	return table + offset % LB_PATTERN_PERIOD;
}

/* <len> is at most a window. */
static size_t match_window(const uint8_t *want, const uint8_t *got, size_t len)
{
	size_t i = 0;

	if (memcmp(want, got, len) == 0)
		return len;
	while (want[i] == got[i])
		i++;
	return i;
}

size_t lb_pattern_match(uint64_t offset, const void *buf, size_t len)
{
	const uint8_t *got = buf;
	size_t done = 0;

	while (done < len) {
		size_t n = len - done < LB_PATTERN_WINDOW ? len - done : LB_PATTERN_WINDOW;
		size_t same = match_window(lb_pattern_at(offset + done), got + done, n);

		done += same;
		if (same < n)
			break;
	}
	return done;
}
