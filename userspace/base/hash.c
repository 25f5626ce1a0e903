/* SPDX-License-Identifier: MIT */
/*
 * See hash.h. lb_hash() is FNV-1a, whose last bytes hardly move the high bits, and a finish that
 * does.
 */
#include "base/hash.h"

uint64_t lb_hash(const void *bytes, size_t len)
{
	const uint8_t *p = bytes;
	uint64_t h = 0x9e3779b97f4a7c15ull ^ len;

	for (; len; p++, len--)
		h = (h ^ *p) * 0x100000001b3ull;
	return lb_hash_mix(h);
}

uint32_t lb_hash_name(const char *name)
{
	uint32_t h = 2166136261u;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 16777619u;
	return h;
}
