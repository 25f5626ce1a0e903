/* SPDX-License-Identifier: MIT */
/*
 * Keys of session tickets that several nodes have in common without talking to each other: derived
 * from a secret that all of them have, the hour, and what the rule asks of its clients. So a node
 * opens what another one has sealed at once, across a partition, and after a restart, and nobody
 * has to agree with anybody.
 *
 *	name    secret's id 4 | hour 4 | 8 bytes of a MAC    stands in the ticket
 *	aes     HMAC-SHA256(secret, "aes" | hour | context)
 *	hmac    HMAC-SHA256(secret, "mac" | hour | context)
 *
 * Hours are of the wall clock, since 1970. A key seals for its own and opens for the next two; one
 * of the next hour opens, too, for nodes whose clock is ahead. With several secrets the first one
 * seals and all of them open, so a secret is replaced as the cluster's keys are.
 *
 * What it costs: whoever gets the secret, at any time, can derive every key there ever was. Where
 * sessions are TLS 1.2 he can then read what was recorded of them; TLS 1.3 keeps its forward
 * secrecy, for each resumption exchanges keys anew. Keys sent from node to node would be no better:
 * they would travel under the same secret.
 *
 * Any thread.
 */
#ifndef LB_FLOW_TLS_SHARED_TICKETS_H
#define LB_FLOW_TLS_SHARED_TICKETS_H

#include "flow/tls_tickets.h"

#define LB_TLS_SECRETS_MAX   8u
#define LB_TLS_SECRET_BYTES  32u
#define LB_TLS_CONTEXT_BYTES 32u
#define LB_TLS_TICKET_HOUR_S 3600u
#define LB_TLS_TICKET_ID     4u

struct lb_tls_secrets;

/* None yet: nothing is sealed. 0 or -ENOMEM. */
int lb_tls_secrets_new(struct lb_tls_secrets **ret);
/* Wipes them. NULL inside is fine. */
void lb_tls_secrets_free(struct lb_tls_secrets **s);
/* In place of those there were, copied; <count> is LB_TLS_SECRETS_MAX at most. 0 or -EIO. */
int lb_tls_secrets_set(struct lb_tls_secrets *s, const uint8_t (*secrets)[LB_TLS_SECRET_BYTES],
		       uint32_t count);

/* The key to seal with at <wall_s>. False when there is no secret. */
bool lb_tls_secrets_seal(struct lb_tls_secrets *s, uint64_t wall_s,
			 const uint8_t context[LB_TLS_CONTEXT_BYTES],
			 struct lb_tls_ticket_key *ret);
/*
 * The key called <name>; false when no secret of ours makes one of that name for <context>, or its
 * time is over. What is not ours costs no derivation. *fresh: it is the one that seals.
 */
bool lb_tls_secrets_open(struct lb_tls_secrets *s, uint64_t wall_s,
			 const uint8_t context[LB_TLS_CONTEXT_BYTES], const uint8_t name[16],
			 struct lb_tls_ticket_key *ret, bool *fresh);

#endif
