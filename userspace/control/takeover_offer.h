/* SPDX-License-Identifier: MIT */
/*
 * Lets another daemon of this instance take over from the one that serves: a socket in the
 * instance's run directory, for processes of the same user. The other side is takeover.h. Main
 * thread; it is never waited for longer than it takes to hand the descriptors over.
 */
#ifndef LB_CONTROL_TAKEOVER_OFFER_H
#define LB_CONTROL_TAKEOVER_OFFER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct lb_service;
struct lb_takeover_offer;

/*
 * <door>: a listening socket that was handed over, taken over in any case; -1: none was. 0, with
 * *ret NULL after a message when there can be none: nobody can take over then; -ENOMEM.
 */
int lb_takeover_offer_open(struct lb_takeover_offer **ret, struct lb_service *service,
			   const char *instance, int door);
/* Whoever is at it finds the door closed; the service thaws. NULL inside is fine. */
void lb_takeover_offer_close(struct lb_takeover_offer **o);

/* What to poll for; the second one has no descriptor while nobody is there. */
void lb_takeover_offer_poll(const struct lb_takeover_offer *o, struct pollfd fds[2]);
/* Somebody has until then; milliseconds; -1: for ever. */
int lb_takeover_offer_patience(const struct lb_takeover_offer *o);
/* After poll(2). True: another daemon serves from now on, and this one has to drain. */
bool lb_takeover_offer_look(struct lb_takeover_offer *o, const struct pollfd fds[2]);

/* Whoever is at it is told <why>, and everything is as it was. Harmless when nobody is. */
void lb_takeover_offer_cancel(struct lb_takeover_offer *o, const char *why);
/* While it drains: flows go over that can. */
void lb_takeover_offer_move(struct lb_takeover_offer *o);
/* While it drains: tells the other one how many flows are left, and until when. */
void lb_takeover_offer_tell(struct lb_takeover_offer *o, uint64_t elapsed_ms);
/* Who has taken over; 0: nobody has. */
pid_t lb_takeover_offer_heir(const struct lb_takeover_offer *o);

#endif
