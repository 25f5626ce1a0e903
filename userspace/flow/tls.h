/* SPDX-License-Identifier: MIT */
/*
 * TLS towards the clients of a rule: certificates by name, who is let in, resumption. Everything is
 * made at start, before privileges are dropped, and never changed; any thread may use it.
 */
#ifndef LB_FLOW_TLS_H
#define LB_FLOW_TLS_H

#include "backend/tls_context.h"
#include "config/config.h"

struct lb_tls;

/*
 * As <rule>'s tls block says, which must outlive it. Reads files: start only. 0; -EINVAL with
 * *problem filled in; -ENOMEM, -EIO.
 */
int lb_tls_new(struct lb_tls **ret, const struct lb_rule_config *rule,
	       struct lb_tls_problem *problem);
/* NULL inside is fine. No connection may be left. */
void lb_tls_free(struct lb_tls **tls);

/* A connection over <fd>, which stays the caller's. NULL without memory. */
SSL *lb_tls_accept(struct lb_tls *tls, int fd);

/* The certificate that ends first: seconds since 1970. */
int64_t lb_tls_expiry(const struct lb_tls *tls);

#endif
