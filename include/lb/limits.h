/* SPDX-License-Identifier: MIT */
/* Sizes and the version of the contract between the BPF programs and the daemon. */
#ifndef LB_LIMITS_H
#define LB_LIMITS_H

/* Raised when the layout or meaning of anything in include/lb changes. */
#define LB_ABI_VERSION 3

/* Pairs (= flows) the sockmap carrier can hold at most; the daemon may ask for fewer. */
#define LB_SOCKMAP_PAIRS_MAX 65536u

/* Bytes of one worker's event ring: a power of two and a multiple of the page size. */
#define LB_RING_BYTES (64u * 1024u)

/* What a sockmap leg may have in its send queue and on the way to it, overhead included. */
#define LB_SNDBUF_BYTES (2u * 1024u * 1024u)

/* The daemon hears of every so many bytes (1 << n) that were passed and are not yet written. */
#define LB_OWED_TOLD_SHIFT 19

/* Buckets of all bandwidth limits together, 64 bytes each. */
#define LB_BUCKETS_MAX 262144u

#define LB_WORKERS_MAX 256u

#endif
