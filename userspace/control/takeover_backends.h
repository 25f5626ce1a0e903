/* SPDX-License-Identifier: MIT */
/*
 * What is known of backends, and what somebody has changed at run time, for the next daemon: by the
 * names of rules and backends, and by address. Main thread; waits for the one that watches.
 */
#ifndef LB_CONTROL_TAKEOVER_BACKENDS_H
#define LB_CONTROL_TAKEOVER_BACKENDS_H

#include <jansson.h>

struct lb_backends;

/* Of all rules that are served, a new object; NULL: no memory. */
json_t *lb_takeover_backends_write(struct lb_backends *b);
/* Takes it over, as far as the file says what it said there. What is not understood is not. */
void lb_takeover_backends_read(struct lb_backends *b, const json_t *all);

#endif
