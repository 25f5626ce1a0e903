/* SPDX-License-Identifier: MIT */
/*
 * Takes over from the daemon of this instance that serves: `layer4-lb --takeover`. The other side
 * is takeover_offer.h, what they say takeover_wire.h. Main thread, before the service has come up.
 */
#ifndef LB_CONTROL_TAKEOVER_H
#define LB_CONTROL_TAKEOVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/addr.h"
#include "control/takeover_wire.h"

struct lb_listen_fds;
struct lb_service;
struct lb_takeover;

/*
 * Greets the daemon of <instance> and takes what it offers: its listeners go to <listeners>. It
 * serves on. 0, or -errno after a message.
 */
int lb_takeover_begin(struct lb_takeover **ret, const char *instance,
		      struct lb_listen_fds *listeners);

/* By which takeovers come in; as lb_takeover_take(). NULL is fine. */
int lb_takeover_door(struct lb_takeover *t);
/* The descriptor of <what>, now the caller's; -1 when there is none (any more). NULL is fine. */
int lb_takeover_take(struct lb_takeover *t, enum lb_takeover_what what);

/*
 * Everything is checked that can be without touching what is in service. When this returns 0 the
 * other one has put down what only one may hold: grafts, pins, links. It takes them up again when
 * we are gone. 0, or -errno after a message.
 */
int lb_takeover_freeze(struct lb_takeover *t);

/* We go on listening at <addr>, with what was handed over. Before the commit; -ENOMEM. */
int lb_takeover_keep(struct lb_takeover *t, const struct lb_addr *addr);
/* .. and with <what>. */
void lb_takeover_keep_own(struct lb_takeover *t, enum lb_takeover_what what);
/*
 * From here on we serve, and nothing may fail any more; what clients lack of their tokens is in
 * <s>. 0, or -errno after a message: not we.
 */
int lb_takeover_commit(struct lb_takeover *t, struct lb_service *s);

/* What it has said of its state, now the caller's; -1: nothing new. */
int lb_takeover_take_state(struct lb_takeover *t);

/* --- afterwards: the one that drains ---------------------------------------------------------- */

struct lb_takeover_report {
	pid_t pid; /* 0: there is none (any more) */
	char version[LB_TAKEOVER_NAME_MAX];
	uint64_t flows;
	uint64_t cut_at_ms; /* lb_clock_ms() scale: when its last one is cut */
};
/* Pollable; -1: it has ended. */
int lb_takeover_fd(const struct lb_takeover *t);
/* Reads what it says, and takes the flows it sends into <s>. False: it has ended, just now. */
bool lb_takeover_look(struct lb_takeover *t, struct lb_service *s);
struct lb_takeover_report lb_takeover_report(const struct lb_takeover *t);

/* Before the commit the other one goes on, and hears why. NULL inside is fine. */
void lb_takeover_free(struct lb_takeover **t);

#endif
