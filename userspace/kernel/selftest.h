/* SPDX-License-Identifier: MIT */
/* Proof, at start, that this kernel redirects a stream to a slow reader without harming it. */
#ifndef LB_KERNEL_SELFTEST_H
#define LB_KERNEL_SELFTEST_H

#include <stdint.h>

/* Bytes that go through the stalled sink. */
#define LB_SELFTEST_BYTES (2u * 1024u * 1024u)

/* Make a sound kernel look broken, so that the self-test can be tested. */
enum lb_selftest_sabotage {
	LB_SELFTEST_HONEST = 0,
	LB_SELFTEST_LOSE, /* the second skb vanishes */
	LB_SELFTEST_HOLD, /* the second skb is not redirected */
};

struct lb_selftest {
	double ms;        /* how long it took, also on failure */
	char detail[256]; /* what failed; "" on success */
};

/*
 * Runs in the calling thread, over loopback, for at most <deadline_ms> (0: the default, 2 s)
 * plus the time to load a small program; every wait is bounded by it. Leaves nothing behind.
 *
 * 0, or -errno with ret->detail: -EILSEQ the stream was not the one sent, -ETIMEDOUT it did not
 * get through in time, -EADDRNOTAVAIL no loopback address, else what the kernel said. *ret is
 * always filled in.
 */
int lb_selftest_run(unsigned int deadline_ms, enum lb_selftest_sabotage sabotage,
		    struct lb_selftest *ret);

#endif
