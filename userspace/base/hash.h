/* SPDX-License-Identifier: MIT */
/* Mixing bits: the same everywhere and for ever, so that nodes agree; not for secrets. */
#ifndef LB_BASE_HASH_H
#define LB_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t lb_hash_mix(uint64_t v)
{
	v ^= v >> 33;
	v *= 0xff51afd7ed558ccdull;
	v ^= v >> 33;
	v *= 0xc4ceb9fe1a85ec53ull;
	return v ^ v >> 33;
}

uint64_t lb_hash(const void *bytes, size_t len);
/* Of a name, plain FNV-1a: stands in tables and handles that outlive the daemon. */
uint32_t lb_hash_name(const char *name);

/* xorshift: the next of a series that nobody gains from guessing. *state is not 0. */
static inline uint64_t lb_random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#endif
