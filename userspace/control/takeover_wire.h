/* SPDX-License-Identifier: MIT */
/*
 * What two daemons say to each other while one takes over from the other: messages of a
 * SOCK_SEQPACKET unix socket, each a head, a body of bounded size, and descriptors (SCM_RIGHTS).
 *
 *     the new one                       the one that serves
 *          ---- HELLO ------------------------->
 *          <--- WELCOME, or REFUSE -------------
 *          <--- LISTENERS.., OWN.., OFFERED ----
 *          ---- READY ------------------------->  grafts, pins and links are put down
 *          <--- FROZEN -------------------------
 *          ---- KEEPS.., TAKEN ---------------->  the commit: from here on the new one serves
 *          <--- RATES.., YOURS, with the state -
 *          <--- FLOW .. ------------------------  its flows go over ..
 *          ---- TOOK .. ----------------------->
 *          <--- DRAINS, STATE .. ---------------  .. or end
 *
 * Until TAKEN has arrived either side may vanish, or say something else: the connection is closed,
 * and the one that serves goes on as if nothing had happened. Nobody believes a length, a kind or a
 * number of descriptors that is not as it is written here; descriptors of a message that is not
 * believed are closed.
 */
#ifndef LB_CONTROL_TAKEOVER_WIRE_H
#define LB_CONTROL_TAKEOVER_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

/* Another number: the two cannot do it together. The shapes of HELLO and REFUSE never change. */
#define LB_TAKEOVER_PROTOCOL 1u

#define LB_TAKEOVER_BODY_MAX 4096u
#define LB_TAKEOVER_FDS_MAX  64u
#define LB_TAKEOVER_TEXT_MAX 256u
#define LB_TAKEOVER_NAME_MAX 64u
/* Of the state, which is in memory of its own. */
#define LB_TAKEOVER_STATE_MAX (64u << 20)

enum lb_takeover_kind {
	LB_TAKEOVER_HELLO = 1,
	LB_TAKEOVER_WELCOME,
	LB_TAKEOVER_REFUSE,    /* of either: a text, ends the conversation */
	LB_TAKEOVER_LISTENERS, /* struct lb_takeover_address, one for each descriptor */
	LB_TAKEOVER_OWN,       /* struct lb_takeover_own and one descriptor */
	LB_TAKEOVER_OFFERED,   /* that was all */
	LB_TAKEOVER_READY,
	LB_TAKEOVER_FROZEN,
	LB_TAKEOVER_KEEPS, /* struct lb_takeover_address: it listens there from now on */
	LB_TAKEOVER_TAKEN, /* struct lb_takeover_taken */
	/* struct lb_takeover_rule; many struct lb_rate_limit_record in sealed memory */
	LB_TAKEOVER_RATES,
	LB_TAKEOVER_YOURS,  /* with all that is known, in sealed memory: takeover_state.h */
	LB_TAKEOVER_DRAINS, /* struct lb_takeover_drains */
	LB_TAKEOVER_STATE,  /* with what has been counted, likewise */
	/* A flow, flow/handover.h: its record and two descriptors, or three: the last one is sealed
	 * memory with the record. */
	LB_TAKEOVER_FLOW,
	LB_TAKEOVER_TOOK, /* struct lb_takeover_took: the answer to each */
	LB_TAKEOVER_KIND_MAX_
};

/* Of HELLO and WELCOME. */
struct lb_takeover_hello {
	uint32_t protocol;
	int32_t pid;
	char version[LB_TAKEOVER_NAME_MAX]; /* ends with NUL, as all texts here */
	char instance[LB_TAKEOVER_NAME_MAX];
};

struct lb_takeover_address {
	struct lb_addr addr;
};

#define LB_TAKEOVER_RULE_MAX 384u
struct lb_takeover_rule {
	char name[LB_TAKEOVER_RULE_MAX];
};

enum lb_takeover_what {
	LB_TAKEOVER_LOCK = 1, /* of the instance */
	LB_TAKEOVER_ADMIN,    /* listening sockets .. */
	LB_TAKEOVER_METRICS,
	LB_TAKEOVER_DOOR, /* .. the one that takeovers come in by */
	LB_TAKEOVER_WHAT_MAX_
};
struct lb_takeover_own {
	uint32_t what;
	uint32_t pad;
};

/* Which of them the new one goes on with; the others are closed as at every end. */
struct lb_takeover_taken {
	uint8_t has[8]; /* by enum lb_takeover_what */
};

struct lb_takeover_drains {
	uint64_t flows;
	uint64_t cut_in_ms; /* when the last of them is cut */
};

struct lb_takeover_took {
	uint32_t taken; /* 0: it goes on where it is */
	uint32_t pad;
};

struct lb_takeover_message {
	enum lb_takeover_kind kind;
	uint32_t bytes;
	unsigned char body[LB_TAKEOVER_BODY_MAX];
	uint32_t fds_count;
	int fds[LB_TAKEOVER_FDS_MAX]; /* owned; -1 in those that were taken out */
};

/* Waits as long as the socket's SO_SNDTIMEO says. 0; -ETIMEDOUT; -errno, -EPIPE among them. */
int lb_takeover_send(int fd, enum lb_takeover_kind kind, const void *body, size_t bytes,
		     const int *fds, uint32_t fds_count);
/*
 * The next message, to be freed with lb_takeover_message_fini(). 0; -ETIMEDOUT by SO_RCVTIMEO, or
 * at once when the socket does not block; -ECONNRESET when the other one is gone; -EPROTO when it
 * said something that it should not; -errno.
 */
int lb_takeover_recv(int fd, struct lb_takeover_message *m);
void lb_takeover_message_fini(struct lb_takeover_message *m);

/* A text of the body, which ends there whatever was sent. */
const char *lb_takeover_text(struct lb_takeover_message *m);
/* 0, or -EPROTO: the body is no greeting. */
int lb_takeover_read_hello(const struct lb_takeover_message *m, struct lb_takeover_hello *ret);
void lb_takeover_make_hello(struct lb_takeover_hello *ret, const char *instance);
/* NULL: these two can do it; otherwise why not, in <text>. <us>: who says so. */
const char *lb_takeover_judge(const struct lb_takeover_hello *us,
			      const struct lb_takeover_hello *them,
			      char text[LB_TAKEOVER_TEXT_MAX]);
/* How long a send or a receive may wait, 0: not at all. 0 or -errno. */
int lb_takeover_patience(int fd, uint32_t ms);

#endif
