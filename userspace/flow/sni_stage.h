/* SPDX-License-Identifier: MIT */
/*
 * The stage that looks at a TLS client's hello and takes the route of the rule that is for it
 * (sni). Nothing is taken out of the socket: whatever carries the flow finds it whole. Worker's
 * thread only.
 */
#ifndef LB_FLOW_SNI_STAGE_H
#define LB_FLOW_SNI_STAGE_H

#include "flow/session.h"

enum lb_step lb_sni_enter(struct lb_session *s);
enum lb_step lb_sni_event(struct lb_session *s, unsigned int leg, uint32_t events);
enum lb_step lb_sni_timeout(struct lb_session *s);

/* The session ends, and with it what it counted for at its route. */
void lb_sni_leave(struct lb_session *s);

#endif
