/* SPDX-License-Identifier: MIT */
/*
 * The keys that seal a rule's session tickets. A ticket holds what its client needs to go on with a
 * session; whoever has the key can read every session sealed with it, hence keys are short-lived:
 * a new one each LB_TLS_TICKETS_ROTATE_MS, random, never written anywhere. Any thread.
 */
#ifndef LB_FLOW_TLS_TICKETS_H
#define LB_FLOW_TLS_TICKETS_H

#include <stdbool.h>
#include <stdint.h>

#define LB_TLS_TICKETS_ROTATE_MS (60ull * 60ull * 1000ull)
/* The one that seals, and those before it that still open what they have sealed. */
#define LB_TLS_TICKETS_KEYS 3

struct lb_tls_ticket_key {
	uint8_t name[16]; /* stands in the ticket */
	uint8_t aes[32];
	uint8_t hmac[32];
};

struct lb_tls_tickets;

/* 0 or -ENOMEM, -EIO without random numbers. */
int lb_tls_tickets_new(struct lb_tls_tickets **ret, uint64_t now_ms);
/* One holder more. Returns <t>. */
struct lb_tls_tickets *lb_tls_tickets_hold(struct lb_tls_tickets *t);
/* NULL inside is fine. The last holder wipes the keys. */
void lb_tls_tickets_free(struct lb_tls_tickets **t);

/* The key to seal with. It replaces an old one when it is time; false without random numbers. */
bool lb_tls_tickets_seal(struct lb_tls_tickets *t, uint64_t now_ms, struct lb_tls_ticket_key *ret);
/*
 * The key called <name>; false when there is none, or no more. *fresh: it is the one that seals;
 * otherwise the client should get a new ticket.
 */
bool lb_tls_tickets_open(struct lb_tls_tickets *t, uint64_t now_ms, const uint8_t name[16],
			 struct lb_tls_ticket_key *ret, bool *fresh);

#endif
