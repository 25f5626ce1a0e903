/* SPDX-License-Identifier: MIT */
/*
 * How the carriers of the daemon keep to a pair's budgets (budget.h). Nothing is dropped to slow a
 * sender down: what may not move yet is not read, so the sender's window closes. For carriers only.
 * Worker's thread only.
 */
#ifndef LB_FLOW_THROTTLE_H
#define LB_FLOW_THROTTLE_H

#include <stddef.h>
#include <sys/types.h>

#include "flow/carrier.h"

/*
 * Carrying begins, or the rates have changed: sources are promised no more than their budget is
 * worth in a quarter of a second, 64 KiB at least.
 */
void lb_throttle_windows(struct lb_pair *p);
/* The same as a number: what leg <i>'s peer may have under way to us. UINT32_MAX: any. */
uint32_t lb_throttle_window(const struct lb_pair *p, unsigned int i);

/*
 * Bytes of direction <d> that may be read now; SIZE_MAX without a limit. With 0 *peeked is what a
 * recv(2) of the source said, errno too, or 1: there are bytes and they have to wait.
 */
size_t lb_throttle_room(struct lb_pair *p, unsigned int d, ssize_t *peeked);
/* The same where <waiting> bytes, at least one, are known to be there. */
size_t lb_throttle_room_for(struct lb_pair *p, unsigned int d, uint32_t waiting);
/* Bytes are let go in small portions: to be moved one in a turn of the loop. */
bool lb_throttle_is_short(const struct lb_pair *p, unsigned int d);
/* <bytes> of it were read. */
void lb_throttle_charge(struct lb_pair *p, unsigned int d, size_t bytes);
/* The pair's timer is for the moment when a direction that waits may go on; if none does, off. */
void lb_throttle_wait(struct lb_pair *p);
/* How long until a direction that waits may go on, ms; 0: none waits. */
uint64_t lb_throttle_wait_ms(const struct lb_pair *p);

#endif
