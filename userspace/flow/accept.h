/* SPDX-License-Identifier: MIT */
/*
 * The accept stage: one listening socket of one worker for one rule. When the daemon has as many
 * sessions as it has descriptors for, or the kernel has none, accepting pauses: clients wait in the
 * backlog, nothing spins, one log line says so, and it resumes when sessions end. Worker's thread
 * only, but for lb_accept_open().
 */
#ifndef LB_FLOW_ACCEPT_H
#define LB_FLOW_ACCEPT_H

#include "flow/session.h"

struct lb_acceptor {
	struct lb_watch watch;
	struct lb_flow_env *env;
	const struct lb_rule *rule;
	struct lb_timer retry;
	bool paused;
};

/*
 * A listening SO_REUSEPORT socket for <addr> (IPv6 ones are V6ONLY). Any thread. The descriptor, or
 * -errno; -EADDRINUSE also when only <exclusive> would reveal another process behind SO_REUSEPORT.
 */
int lb_accept_open(const struct lb_addr *addr, bool exclusive);

/*
 * <fd>, which somebody else has bound and listens: as lb_accept_open() would have made it. 0, or
 * -errno; -EAFNOSUPPORT: it would take IPv4 clients at an IPv6 address.
 */
int lb_accept_adopt(int fd);

/* Takes <fd> over. 0 or -errno with <fd> still the caller's. */
int lb_accept_start(struct lb_acceptor *a, struct lb_flow_env *env, const struct lb_rule *rule,
		    int fd);
/* Takes what is in the backlog: who has completed the handshake has been promised service. */
void lb_accept_drain(struct lb_acceptor *a);
/* Closes the socket; connections still in its backlog are reset by the kernel. Idempotent. */
void lb_accept_stop(struct lb_acceptor *a);

#endif
