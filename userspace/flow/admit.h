/* SPDX-License-Identifier: MIT */
/* The admit stage: may this client have a connection at all? Worker's thread only. */
#ifndef LB_FLOW_ADMIT_H
#define LB_FLOW_ADMIT_H

#include "flow/session.h"

enum lb_step lb_admit_enter(struct lb_session *s);
/* The session ends: what it was counted for is given back. Harmless when it was not admitted. */
void lb_admit_leave(struct lb_session *s);

#endif
