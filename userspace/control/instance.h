/* SPDX-License-Identifier: MIT */
/*
 * One daemon per instance: a lock file in the instance's run directory, /run/layer4-lb for the
 * default instance, /run/layer4-lb-NAME for others.
 */
#ifndef LB_CONTROL_INSTANCE_H
#define LB_CONTROL_INSTANCE_H

#include <stdbool.h>
#include <stddef.h>

struct lb_instance;

/* Letters, digits, '-', '_', at most 32 of them. */
bool lb_instance_name_is_valid(const char *name);

/*
 * 0; -EBUSY (logged) when another daemon runs as this instance. Without the right to write to /run
 * there is no lock and *ret stays NULL: such a daemon has no pins to quarrel about either.
 */
int lb_instance_lock(struct lb_instance **ret, const char *name);
/*
 * The same with <fd>, the lock of a daemon that goes on holding it; taken over on success. What is
 * shared stays when we end: lb_instance_share(). 0 or -errno, logged.
 */
int lb_instance_adopt(struct lb_instance **ret, const char *name, int fd);
/* <shared>: another daemon holds it too, and its lock outlives us. */
void lb_instance_share(struct lb_instance *instance, bool shared);
/* The lock's descriptor, to be shared. */
int lb_instance_fd(const struct lb_instance *instance);
/* Removes the lock file, unless it is shared. NULL inside is fine. */
void lb_instance_unlock(struct lb_instance **instance);

/* Where instance <name> has a file of this name. False: <path> is too short for it. */
bool lb_instance_path(const char *name, const char *file, char *path, size_t size);

#endif
