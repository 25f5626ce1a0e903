/* SPDX-License-Identifier: MIT */
/*
 * Brings the two ends of a pair close: while relay still carries it, little may lie between them,
 * unread in our sockets or sent and not acknowledged, when SPLIT begins. In SPLIT
 *  - our sockets pass that on, and until all of it is acknowledged SPLIT does not end,
 *  - what the one peer acknowledges is by so much older than what our socket has told the other
 *    one, which drops an acknowledgement with all it carries when it is more than a window old
 *    (RFC 5961, 5.2; tcp_ack),
 *  - no peer is told of more than it was promised before (lb_graft_leg.ack_limit). A peer that
 *    answers all it reads before it reads on must be heard to the end of what lies in front of it.
 * Hence the limits: what both have been promised, at most; and what the receiver takes without
 * reading: one that reads only once it has been heard would hear and read nothing any more.
 *
 * A stream has more under way than that, so relay reads no more of it than keeps it below, until
 * the rest has drained: the receiver notices nothing but a gap of about a round trip at the end.
 *
 * Worker's thread only.
 */
#ifndef LB_FLOW_GRAFT_NARROW_H
#define LB_FLOW_GRAFT_NARROW_H

#include <stddef.h>

#include "flow/carrier.h"

/* The pair begins to be watched: sets the limit. Before any window is made smaller. */
void lb_graft_narrow_init(struct lb_pair *p);

enum lb_graft_narrow {
	LB_GRAFT_CLOSE,  /* now: nothing is held and both directions are below the limits */
	LB_GRAFT_COMING, /* relay reads little; to be asked again, a timer runs */
	LB_GRAFT_STUCK,  /* a direction does not drain: its receiver reads nothing */
};
/* Begins to narrow, or goes on. */
enum lb_graft_narrow lb_graft_narrow(struct lb_pair *p);
/* Relay reads freely again. What arrived meanwhile has made its event. */
void lb_graft_widen(struct lb_pair *p);

/* Bytes that relay may read of direction <d> now; 0: it is to wait. */
size_t lb_graft_room(struct lb_pair *p, unsigned int d);

#endif
