/* SPDX-License-Identifier: MIT */
/*
 * The pattern every test stream is made of: a pure function of (seed, offset), and its check.
 *
 * Word 0 of a stream is the seed itself, so a receiver learns whose bytes it reads without a
 * protocol. Word k > 0 is a bijective mix of k and the seed: no word repeats within a stream,
 * therefore a byte lost, doubled, swapped or taken from another flow shows at its exact offset.
 */
#ifndef PEER_PATTERN_H
#define PEER_PATTERN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t pattern_word(uint64_t seed, uint64_t k)
{
	uint64_t w = k * 0x9e3779b97f4a7c15ull + seed;

	if (!k)
		return seed;
	w ^= w >> 32;
	w *= 0xd6e8feb86659fd93ull;
	return w ^ w >> 29;
}

/* Fills <buf> with bytes [offset, offset + n) of stream <seed>. */
static inline void pattern_fill(unsigned char *buf, uint64_t seed, uint64_t offset, size_t n)
{
	while (n) {
		uint64_t w = pattern_word(seed, offset / 8);
		size_t skip = offset % 8, take = 8 - skip < n ? 8 - skip : n;

		if (take == 8)
			memcpy(buf, &w, 8);
		else
			memcpy(buf, (unsigned char *)&w + skip, take);
		buf += take;
		offset += take;
		n -= take;
	}
}

/* Number of leading bytes of <buf> that are what stream <seed> has at <offset>; n: all of them. */
static inline size_t pattern_match(const unsigned char *buf, uint64_t seed, uint64_t offset,
				   size_t n)
{
	size_t done = 0;

	while (done < n) {
		uint64_t at = offset + done, w = pattern_word(seed, at / 8), got;

		if (at % 8 == 0 && n - done >= 8) {
			memcpy(&got, buf + done, 8);
			if (got == w) {
				done += 8;
				continue;
			}
		}
		if (buf[done] != ((unsigned char *)&w)[at % 8])
			break;
		done++;
	}
	return done;
}

#endif
