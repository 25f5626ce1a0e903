/* SPDX-License-Identifier: MIT */
/*
 * Listening sockets that somebody else has opened for us: systemd's socket activation
 * (sd_listen_fds(3)), or whoever calls lb_listen_fds_add(). Who needs a listener at an address asks
 * here first. One thread at a time.
 */
#ifndef LB_BASE_LISTEN_FDS_H
#define LB_BASE_LISTEN_FDS_H

#include "base/addr.h"

struct lb_listen_fds;

/* 0 or -ENOMEM. */
int lb_listen_fds_new(struct lb_listen_fds **ret);
/*
 * Takes over what the environment says we were started with: descriptors from 3 on, if they are
 * meant for this process. They are closed on exec(2), and the environment forgets them. 0 or
 * -errno.
 */
int lb_listen_fds_inherit(struct lb_listen_fds *l);
/* Takes over <fd>, of which <name> is a word for the log. 0, or -ENOMEM with <fd> left alone. */
int lb_listen_fds_add(struct lb_listen_fds *l, int fd, const char *name);

/*
 * A TCP socket that listens at <addr>, now the caller's; the next call gives the next one. -ENOENT:
 * there is none (any more). NULL is fine.
 */
int lb_listen_fds_get(struct lb_listen_fds *l, const struct lb_addr *addr);

/* Whether there is one. NULL is fine. */
bool lb_listen_fds_has(const struct lb_listen_fds *l, const struct lb_addr *addr);

/* What nobody wanted is named in the log, and closed. NULL inside is fine. */
void lb_listen_fds_free(struct lb_listen_fds **pl);

#endif
