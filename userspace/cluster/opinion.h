/* SPDX-License-Identifier: MIT */
/*
 * What nodes tell each other of the backends they check, so that not all of them have to ask
 * (health_check.share). A rumour never decides how a backend is: it is a reason not to ask while it
 * says what this node has found itself, and a reason to ask at once when it does not.
 *
 * Each subject, a backend and how it is checked, has LB_OPINION_CHECKERS nodes of those that are
 * there whom a hash of subject and node prefers: they ask in any case, and tell all others what
 * each answer was. The others look at what they hear when a check is due. They do without it when
 *  - a checker has told of an answer not longer ago than the subject's time,
 *  - and what each of them has told last, in that time, is what this node believes.
 * So a liar, or a node behind a partition, changes nobody's mind; what all checkers say in error,
 * and nobody else sees, is found when flows fail, or when they fall silent.
 *
 * Where there are more than LB_OPINION_NODES nobody tells anything, and everybody asks.
 *
 * Any thread, if nothing else is said. Deterministic: time and the network are arguments.
 */
#ifndef LB_CLUSTER_OPINION_H
#define LB_CLUSTER_OPINION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/wire.h"

#define LB_OPINION_CHECKERS 2u
#define LB_OPINION_NODES    64u
/* subject 8 | good 1 | age 2, in 10 ms */
#define LB_OPINION_BYTES 11u

struct lb_opinions;

/* <self>: this node's id; <section_max>: bytes that fit in a message. 0, -EINVAL or -ENOMEM. */
int lb_opinions_new(struct lb_opinions **ret, uint64_t self, size_t section_max);
/* NULL inside is fine. Nobody may use it any more. */
void lb_opinions_free(struct lb_opinions **o);

/* <heard> is called, in the thread that receives, when a node tells something new; once. */
void lb_opinions_listen(struct lb_opinions *o, void (*heard)(void *arg), void *arg);

/* --- of this node's checks -------------------------------------------------------------------- */

/*
 * <subject> is of interest, one time more; what is heard of it is good for <fresh_ms>. 0 or
 * -ENOMEM.
 */
int lb_opinions_watch(struct lb_opinions *o, uint64_t subject, uint64_t fresh_ms);
/* One time less; the last one forgets it. Harmless when it is not watched. */
void lb_opinions_unwatch(struct lb_opinions *o, uint64_t subject);
/* A check of this node's own was answered. */
void lb_opinions_note(struct lb_opinions *o, uint64_t subject, bool good, uint64_t now_ms);

struct lb_opinion {
	uint64_t until_ms;           /* then it is too old */
	char node[LB_WIRE_NAME_MAX]; /* who has told it last */
};
/* Whether <subject> need not be asked, for others have, and it is <up> for them, too. */
bool lb_opinions_vouch(struct lb_opinions *o, uint64_t subject, bool up, uint64_t now_ms,
		       struct lb_opinion *ret);

/* --- the cluster's thread --------------------------------------------------------------------- */

/* A node is there; one that is known already may be told again. 0 or -ENOMEM. */
int lb_opinions_join(struct lb_opinions *o, uint64_t id, const char *name);
/* It is not, any more. */
void lb_opinions_leave(struct lb_opinions *o, uint64_t id);
/* From a node that has joined; anything bad is dropped as a whole. */
void lb_opinions_receive(struct lb_opinions *o, uint64_t id, const uint8_t *bytes, size_t len,
			 uint64_t now_ms);
/*
 * Regularly: one message, of what is new, to each node that is there; what does not fit is for the
 * next time.
 */
void lb_opinions_tick(struct lb_opinions *o, uint64_t now_ms,
		      void (*say)(void *arg, uint64_t id, const uint8_t *bytes, size_t len),
		      void *arg);

#endif
