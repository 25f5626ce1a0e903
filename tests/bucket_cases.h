/* SPDX-License-Identifier: MIT */
/*
 * What include/lb/bucket.h says, case by case, for both who do it: userspace/flow/bucket.c
 * (tests/unit/flow/bucket.c) and bpf/bucket.bpf.h (tests/bpf/bucket.c). Times are relative to
 * BUCKET_NOW; the burst is 50 ms.
 */
#ifndef TESTS_BUCKET_CASES_H
#define TESTS_BUCKET_CASES_H

#include <stdbool.h>
#include <stdint.h>

#define BUCKET_NOW 5000000000000ull
#define BUCKET_MS  1000000ll

struct bucket_case {
	const char *claim;
	uint64_t rate;  /* bytes per second */
	int64_t tat;    /* before */
	uint32_t bytes; /* that want to go */
	bool admits;    /* .. now? */
	int64_t after;  /* <tat> when they were charged, whether they were admitted or not */
};

static const struct bucket_case bucket_cases[] = {
	{"without a limit everything goes and nothing is charged", 0, 7, 1 << 20, true, 7},
	{"an idle bucket has no more than its burst", 1000000, -3600000 * BUCKET_MS, 50000, true,
	 50 * BUCKET_MS},
	{"one byte more than the burst has to wait", 1000000, -3600000 * BUCKET_MS, 50001, false,
	 50 * BUCKET_MS + 1000},
	{"what is owed leaves so much less", 1000000, 10 * BUCKET_MS, 40000, true, 50 * BUCKET_MS},
	{"and not a byte more", 1000000, 10 * BUCKET_MS, 40001, false, 50 * BUCKET_MS + 1000},
	{"at the end of the burst nothing goes", 1000000, 50 * BUCKET_MS, 1, false,
	 50 * BUCKET_MS + 1000},
	{"a debt beyond the burst grows", 1000000, 5000 * BUCKET_MS, 1000, false, 5001 * BUCKET_MS},
	{"nothing always goes, within the burst", 1000000, 50 * BUCKET_MS, 0, true, 50 * BUCKET_MS},
	{"a byte a second", 1, 0, 1, false, 1000 * BUCKET_MS},
	{"a large skb at a byte a second", 1, 0, 524288, false, 524288ll * 1000 * BUCKET_MS},
	{"three bytes a second: rounded to the nearest ns", 3, 0, 1, false, 333333333},
	{"seven bytes a second, many of them: no error piles up within a charge", 7, 0, 700, false,
	 100000 * BUCKET_MS},
	{"a hundred GB/s in full skbs", 100000000000ull, 0, 65536, true, 655},
	{"a hundred GB/s in messages: a byte is a hundredth of a ns", 100000000000ull, 0, 40, true,
	 0},
	{"one GB/s in messages is exact", 1000000000, 0, 40, true, 40},
	{"the largest rate there is", 1ull << 40, 0, 1 << 20, true, 954},
	{"rates that are no round number", 123456789, 10, 1448, true, 10 + 11729},
};

#endif
