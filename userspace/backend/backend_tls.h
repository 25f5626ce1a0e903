/* SPDX-License-Identifier: MIT */
/*
 * TLS towards the backends of a rule: one context, whom it believes, and the sessions that can be
 * resumed. Any thread, when it is made.
 */
#ifndef LB_BACKEND_BACKEND_TLS_H
#define LB_BACKEND_BACKEND_TLS_H

#include "backend/tls_context.h"
#include "config/config.h"

struct lb_backend;
struct lb_backend_tls;

/*
 * As <config>, which must outlive it, says. <verify>: false accepts any certificate, whatever
 * <config> says. Reads files: start only. 0; -EINVAL with *problem filled in; -ENOMEM.
 */
int lb_backend_tls_new(struct lb_backend_tls **ret, const struct lb_backend_tls_config *config,
		       bool verify, struct lb_tls_problem *problem);
/* NULL inside is fine. No connection may be left. */
void lb_backend_tls_free(struct lb_backend_tls **tls);

/*
 * A connection over <fd>, which is connected to <b> and stays the caller's; the name asked for and
 * verified is the rule's, the backend's `tls_name` or its host. NULL without memory.
 */
SSL *lb_backend_tls_open(struct lb_backend_tls *tls, int fd, const struct lb_backend *b);

#endif
