/* SPDX-License-Identifier: MIT */
/*
 * What the keys of session tickets of all nodes are derived from (flow/tls_shared_tickets): the
 * keys of the cluster, each of them hashed with a word of its own, so that what workers hold seals
 * no datagram. Main thread.
 */
#ifndef LB_CONTROL_TICKET_SECRETS_H
#define LB_CONTROL_TICKET_SECRETS_H

#include "config/config.h"
#include "flow/tls_shared_tickets.h"

/*
 * Reads <path> (NULL: there are none). 0, or -errno with <secrets> as they were and no message:
 * cluster/gossip reads the same file and says what is wrong with it.
 */
int lb_ticket_secrets_read(struct lb_tls_secrets *secrets, const char *path);

#endif
