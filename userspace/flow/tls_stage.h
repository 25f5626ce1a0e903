/* SPDX-License-Identifier: MIT */
/*
 * Two stages: the TLS handshake with a client (tls), before a backend is asked for, and the one
 * with its backend (backend_tls). Worker's thread only.
 */
#ifndef LB_FLOW_TLS_STAGE_H
#define LB_FLOW_TLS_STAGE_H

#include "flow/session.h"

enum lb_step lb_tls_in_enter(struct lb_session *s);
enum lb_step lb_tls_in_event(struct lb_session *s, unsigned int leg, uint32_t events);
enum lb_step lb_tls_in_timeout(struct lb_session *s);

enum lb_step lb_tls_out_enter(struct lb_session *s);
enum lb_step lb_tls_out_event(struct lb_session *s, unsigned int leg, uint32_t events);
enum lb_step lb_tls_out_timeout(struct lb_session *s);

/* The session ends: both legs' TLS is freed, and its place in the row. */
void lb_tls_stage_leave(struct lb_session *s);

#endif
