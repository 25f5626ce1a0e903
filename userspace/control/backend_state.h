/* SPDX-License-Identifier: MIT */
/* The word for a backend's state: "up", or all that speaks against new flows. Pure. */
#ifndef LB_CONTROL_BACKEND_STATE_H
#define LB_CONTROL_BACKEND_STATE_H

#include <stdint.h>

/* All words at once fit. */
#define LB_BACKEND_STATE_MAX 64

/* <out>: bits of enum lb_backend_out. "up", "draining+down". Returns <state>. */
const char *lb_backend_state_format(uint8_t out, char state[LB_BACKEND_STATE_MAX]);

#endif
