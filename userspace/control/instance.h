/* SPDX-License-Identifier: MIT */
/*
 * One daemon per instance: a lock file in the instance's run directory, /run/layer4-lb for the
 * default instance, /run/layer4-lb-NAME for others.
 */
#ifndef LB_CONTROL_INSTANCE_H
#define LB_CONTROL_INSTANCE_H

#include <stdbool.h>

struct lb_instance;

/* Letters, digits, '-', '_', at most 32 of them. */
bool lb_instance_name_is_valid(const char *name);

/*
 * 0; -EBUSY (logged) when another daemon runs as this instance. Without the right to write to /run
 * there is no lock and *ret stays NULL: such a daemon has no pins to quarrel about either.
 */
int lb_instance_lock(struct lb_instance **ret, const char *name);
/* Removes the lock file. NULL inside is fine. */
void lb_instance_unlock(struct lb_instance **instance);

#endif
