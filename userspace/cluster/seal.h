/* SPDX-License-Identifier: MIT */
/*
 * Sealing datagrams between nodes that share a key, and opening them once.
 *
 *	0xb4 1 | format 1 | key id 4 | session 12 | counter 8 | time 6 | sealed bytes | tag 16
 *	-------------------------- authenticated, too ----------------
 *
 * The cipher is XAES-256-GCM (C2SP): AES-256-GCM under a key that AES-CMAC derives from the shared
 * one and the first half of a nonce of 192 bits. Plain GCM is lost when two datagrams share key and
 * nonce, and random nonces of 96 bits are too few for many nodes that share a key for years. Here
 * the first half is the session, which a node draws by chance at its start, the second one counts
 * from 1. So no two nodes, nor two lives of one, use the same key, nothing has to be remembered
 * over a restart, and what is forged costs its receiver a few AES blocks more than the tag. After
 * 2^32 datagrams there is a new session.
 *
 * Each datagram is opened at most once by each node:
 *  - Of a session it knows, a node takes each counter once: a window of LB_SEAL_WINDOW, and nothing
 *    older than that. Clocks do not matter any more.
 *  - A session it does not know must show by its first datagram that it is not an old one: sealed
 *    at most LB_SEAL_SKEW_MS ago by this node's clock, not before this node's start, and not
 *    before the last one of any session that was forgotten. So what was recorded is of no use
 *    against a node that has just been restarted either.
 * Clocks of nodes may therefore differ by LB_SEAL_SKEW_MS when they meet; beyond that they do not
 * hear each other, and the difference is told (LB_SEAL_CLOCK). A clock that is set while nodes know
 * each other disturbs nothing.
 *
 * What a datagram says of itself is not believed before its tag is right, and whoever sends
 * anything else gets no answer: opening never sends. What is cheap is judged first.
 *
 * A sealed datagram does not name its receiver: one that was on its way to another node can be
 * delivered to this one. The messages in it say whom they are for where that matters (wire.h).
 *
 * One thread.
 */
#ifndef LB_CLUSTER_SEAL_H
#define LB_CLUSTER_SEAL_H

#include <stddef.h>
#include <stdint.h>

#include "cluster/seal_keys.h"
#include "cluster/wire.h"

#define LB_SEAL_HEAD    32u
#define LB_SEAL_TAG     16u
#define LB_SEAL_WINDOW  1024u
#define LB_SEAL_SKEW_MS 30000u

_Static_assert(LB_WIRE_PLAIN_MAX + LB_SEAL_HEAD + LB_SEAL_TAG == LB_WIRE_BYTES_MAX,
	       "what is sealed fits");

struct lb_seal;

enum lb_seal_verdict {
	LB_SEAL_OPENED = 0,
	LB_SEAL_MALFORMED, /* too short, too long, or something else altogether */
	LB_SEAL_NO_KEY,    /* sealed by a key that is not ours */
	LB_SEAL_FORGED,    /* its tag is wrong */
	LB_SEAL_REPLAYED,  /* has been opened before, or is too old to tell */
	LB_SEAL_CLOCK,     /* the clocks differ too much, or it is a replay from another time */
	LB_SEAL_FULL,      /* no room for another session */
	LB_SEAL_VERDICTS,
};

/* Two clocks: <wall_ms> since 1970, which others compare; <now_ms>, which is never set. */
struct lb_seal_time {
	uint64_t wall_ms, now_ms;
};

/*
 * <sessions_max>: the nodes there may be, and as many again for those that restart within
 * LB_SEAL_SKEW_MS. <keys> are copied. 0, -EINVAL, -ENOMEM, or -EIO without random numbers.
 */
int lb_seal_new(struct lb_seal **ret, const struct lb_seal_keys *keys, uint32_t sessions_max,
		struct lb_seal_time now);
/* NULL inside is fine. Wipes the keys. */
void lb_seal_free(struct lb_seal **s);
/* Other keys from now on, and a new session. 0, -EINVAL or -EIO; all stays as it is then. */
int lb_seal_set_keys(struct lb_seal *s, const struct lb_seal_keys *keys);

/*
 * Writes len + LB_SEAL_HEAD + LB_SEAL_TAG bytes, and returns how many. -EMSGSIZE beyond
 * LB_WIRE_PLAIN_MAX, -EIO when OpenSSL does not.
 */
int lb_seal_close(struct lb_seal *s, struct lb_seal_time now, const uint8_t *bytes, size_t len,
		  uint8_t out[LB_WIRE_BYTES_MAX]);
/*
 * Writes the opened bytes and *ret_len only when it is LB_SEAL_OPENED. With LB_SEAL_CLOCK *ret_skew
 * is how far (ms) the sender's clock is ahead, proven to be from somebody with the key; 0 when that
 * was not looked into, which it is once a second.
 */
enum lb_seal_verdict lb_seal_open(struct lb_seal *s, struct lb_seal_time now, const uint8_t *bytes,
				  size_t len, uint8_t out[LB_WIRE_PLAIN_MAX], size_t *ret_len,
				  int64_t *ret_skew);

/* How often it was <verdict>. */
uint64_t lb_seal_count(const struct lb_seal *s, enum lb_seal_verdict verdict);
const char *lb_seal_verdict_name(enum lb_seal_verdict verdict);

#endif
