/* SPDX-License-Identifier: MIT */
/*
 * What one daemon knows and the next one goes on with: counters, what is known of backends, what
 * somebody has changed at run time, what clients lack of their tokens. JSON in sealed memory: a
 * version that knows more finds less than it could use, and the other way. Main thread, while the
 * workers run.
 */
#ifndef LB_CONTROL_TAKEOVER_STATE_H
#define LB_CONTROL_TAKEOVER_STATE_H

#include <stdbool.h>

struct lb_service;

/*
 * All of it; or with <counters> alone what goes on being counted while flows end. A descriptor or
 * -errno.
 */
int lb_takeover_state_write(struct lb_service *s, bool counters);
/*
 * Takes over what <fd> holds; of what is not understood nothing happens. 0; -EPROTO: it is none, or
 * not sealed; -ENOMEM.
 */
int lb_takeover_state_read(struct lb_service *s, int fd, bool counters);

/* The daemon before us has ended: it has no flows any more. */
void lb_takeover_state_end(struct lb_service *s);

/* Frees what it has left in <s>. */
void lb_takeover_state_fini(struct lb_service *s);

#endif
