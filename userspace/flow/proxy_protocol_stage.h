/* SPDX-License-Identifier: MIT */
/*
 * Two stages: the PROXY header that a client must begin with (accept_proxy_protocol), and the one
 * that its backend is sent (proxy_protocol). Worker's thread only.
 */
#ifndef LB_FLOW_PROXY_PROTOCOL_STAGE_H
#define LB_FLOW_PROXY_PROTOCOL_STAGE_H

#include "flow/session.h"

enum lb_step lb_proxy_protocol_in_enter(struct lb_session *s);
enum lb_step lb_proxy_protocol_in_event(struct lb_session *s, unsigned int leg, uint32_t events);
enum lb_step lb_proxy_protocol_in_timeout(struct lb_session *s);

enum lb_step lb_proxy_protocol_out_enter(struct lb_session *s);
enum lb_step lb_proxy_protocol_out_event(struct lb_session *s, unsigned int leg, uint32_t events);
enum lb_step lb_proxy_protocol_out_timeout(struct lb_session *s);

#endif
