/* SPDX-License-Identifier: MIT */
/* What of relay is not behind the carriers' common face. Worker's thread only. */
#ifndef LB_FLOW_RELAY_H
#define LB_FLOW_RELAY_H

#include "flow/carrier.h"

/*
 * What direction <d> has in a pipe goes into its held bytes, behind them. The pair goes on either
 * way: 0, -ENOMEM with nothing changed, or -EIO: the pipe gave back less than was put in.
 */
int lb_relay_gather(struct lb_pair *p, unsigned int d);

#endif
