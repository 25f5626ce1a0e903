/* SPDX-License-Identifier: MIT */
/* The memory of a pair on sockmap. For sockmap.c only; must never send or receive. */
#ifndef LB_FLOW_SOCKMAP_MEMORY_H
#define LB_FLOW_SOCKMAP_MEMORY_H

#include <linux/tcp.h>

#include "flow/carrier.h"

#define LB_WINDOW_SHUT 1u    /* leg->promised while what the peer sends is charged to nobody (S8) */
#define LB_THRIFTY_MS  2000u /* a pair stays thrifty for so long at least */

/* Sets the buffers of leg <i>, which is about to enter the map. 0 or -errno. */
int lb_sockmap_memory_prepare(struct lb_pair *p, unsigned int i, const struct tcp_info *info);
void lb_sockmap_memory_begin(struct lb_pair *p);
/* Shuts the window of leg <i>, which lb_sockmap_memory_steer() opens again. */
void lb_sockmap_memory_shut(struct lb_pair *p, unsigned int i);
/* The kernel decides again, as for any socket. */
void lb_sockmap_memory_end(struct lb_pair *p);
/*
 * Is TCP short of memory (S6)? Sets p->thrifty. It asks the kernel seldom: once a second, or every
 * 50 ms when <worried>, that is after a write that was not taken whole.
 */
void lb_sockmap_memory_look(struct lb_pair *p, bool worried);
/* Gives leg <i> the window it is due. True while that is shut (S8): call again soon. */
bool lb_sockmap_memory_steer(struct lb_pair *p, unsigned int i);

#endif
