/* SPDX-License-Identifier: MIT */
/*
 * OCSP stapling: an authority's word that a certificate is not revoked, fetched by somebody else
 * into a file, and sent along with the certificate to clients who ask for it (RFC 6066, 8).
 */
#ifndef LB_FLOW_TLS_STAPLE_H
#define LB_FLOW_TLS_STAPLE_H

#include "backend/tls_context.h"

struct lb_tls_staple;

/*
 * The response in <path> (DER), for the certificate that <ctx> has, which must not outlive the
 * result. Reads the file: no worker. 0; -EINVAL with *problem filled in: it is broken, for
 * another certificate, or not good news; -ENOMEM.
 */
int lb_tls_staple_new(struct lb_tls_staple **ret, SSL_CTX *ctx, const char *path,
		      struct lb_tls_problem *problem);
/* NULL inside is fine. */
void lb_tls_staple_free(struct lb_tls_staple **s);

/* Until when it is sent: seconds since 1970. */
int64_t lb_tls_staple_expiry(const struct lb_tls_staple *s);

#endif
