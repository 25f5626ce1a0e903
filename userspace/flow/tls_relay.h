/* SPDX-License-Identifier: MIT */
/*
 * The relay carrier for pairs of which one leg or both speak TLS. Its own file, because nothing of
 * relay's ways to move bytes (splice, short reads, promotion) holds here; by name and number it is
 * relay: the daemon moves the bytes.
 */
#ifndef LB_FLOW_TLS_RELAY_H
#define LB_FLOW_TLS_RELAY_H

#include "flow/carrier.h"

extern const struct lb_carrier lb_tls_relay;

/* Frees leg's TLS, if it has any, without a word to the peer. */
void lb_tls_relay_leave(struct lb_leg *leg);

#endif
