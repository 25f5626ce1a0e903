/* SPDX-License-Identifier: MIT */
/*
 * TLS towards the clients of a rule: certificates by name, who is let in, resumption. It is never
 * changed once it is made, a reload makes another one; any thread may use it while it holds it.
 */
#ifndef LB_FLOW_TLS_H
#define LB_FLOW_TLS_H

#include "backend/tls_context.h"
#include "config/config.h"

struct lb_tls;
struct lb_tls_secrets;

/*
 * As <rule>'s tls block says. Tickets of <old> (NULL: of nobody) open here too, for clients who
 * would be asked for the same; so do those of other nodes that have the same <secrets>, where the
 * rule shares its tickets (NULL: there are none; borrowed). Reads files: no worker. 0; -EINVAL with
 * *problem filled in; -ENOMEM, -EIO. Held once.
 */
int lb_tls_new(struct lb_tls **ret, const struct lb_rule_config *rule, const struct lb_tls *old,
	       struct lb_tls_secrets *secrets, struct lb_tls_problem *problem);
/* One holder more: a session is one while it shakes hands. Returns <tls>. */
struct lb_tls *lb_tls_hold(struct lb_tls *tls);
/* The last holder frees it. NULL inside is fine. */
void lb_tls_free(struct lb_tls **tls);

/* Of all the block's files: see lb_tls_context_digest(). 0 or -ENOMEM. */
int lb_tls_digest(const struct lb_tls_config *config, uint8_t digest[LB_FILES_DIGEST_BYTES]);

/* A connection over <fd>, which stays the caller's. NULL without memory. */
SSL *lb_tls_accept(struct lb_tls *tls, int fd);

/* The certificate that ends first: seconds since 1970. */
int64_t lb_tls_expiry(const struct lb_tls *tls);
/* The OCSP response that ends first, likewise; 0: there is none. */
int64_t lb_tls_staple_end(const struct lb_tls *tls);

#endif
