/* SPDX-License-Identifier: MIT */
/*
 * TLS towards the backends of a rule: one context, whom it believes, and the sessions that can be
 * resumed. Any thread, when it is made and while it is held.
 */
#ifndef LB_BACKEND_BACKEND_TLS_H
#define LB_BACKEND_BACKEND_TLS_H

#include "backend/tls_context.h"
#include "config/config.h"

struct lb_backend;
struct lb_backend_tls;

/*
 * As <config> says. <verify>: false accepts any certificate, whatever <config> says. Reads files:
 * no worker. 0; -EINVAL with *problem filled in; -ENOMEM. Held once.
 */
int lb_backend_tls_new(struct lb_backend_tls **ret, const struct lb_backend_tls_config *config,
		       bool verify, struct lb_tls_problem *problem);
/* One holder more: whoever has a connection is one. Returns <tls>. */
struct lb_backend_tls *lb_backend_tls_hold(struct lb_backend_tls *tls);
/* The last holder frees it. NULL inside is fine. */
void lb_backend_tls_free(struct lb_backend_tls **tls);

/*
 * Of all the block's files: see lb_tls_context_digest(); the system's authorities count where they
 * are believed. 0 or -ENOMEM.
 */
int lb_backend_tls_digest(const struct lb_backend_tls_config *config,
			  uint8_t digest[LB_FILES_DIGEST_BYTES]);

/*
 * A connection over <fd>, which is connected to <b> and stays the caller's; the name asked for and
 * verified is the rule's, the backend's `tls_name` or its host. NULL without memory.
 */
SSL *lb_backend_tls_open(struct lb_backend_tls *tls, int fd, const struct lb_backend *b);

#endif
