/* SPDX-License-Identifier: MIT */
/* The connect stage: one backend after the other until one answers. Worker's thread only. */
#ifndef LB_FLOW_CONNECT_H
#define LB_FLOW_CONNECT_H

#include "flow/session.h"

enum lb_step lb_connect_enter(struct lb_session *s);
enum lb_step lb_connect_event(struct lb_session *s, unsigned int leg, uint32_t events);
enum lb_step lb_connect_timeout(struct lb_session *s);
/* It was connected, but the backend will not do: the next one. */
enum lb_step lb_connect_retry(struct lb_session *s);
/* Its waiter has come to the worker's door. */
enum lb_step lb_connect_granted(struct lb_session *s);
/* The session ends: it waits no more. Harmless when it does not. */
void lb_connect_leave(struct lb_session *s);

#endif
