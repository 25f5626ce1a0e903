/* SPDX-License-Identifier: MIT */
/*
 * What both sides of TLS have in common: OpenSSL contexts with the options that hold everywhere,
 * certificates, keys and authorities from PEM files, and what went wrong in a few words.
 *
 * A context is never changed once it is made: any thread may make connections from it. Files are
 * read at start and when the configuration is read again: by no worker.
 */
#ifndef LB_BACKEND_TLS_CONTEXT_H
#define LB_BACKEND_TLS_CONTEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <openssl/ssl.h>

#include "backend/tls_heard.h"
#include "config/config.h"

/* Why a context cannot be made: which key of the block, and what its author should know. */
struct lb_tls_problem {
	const char *key; /* "cert", "client_ca" ..; NULL: the block as a whole */
	size_t item;     /* of `certificates`; SIZE_MAX: not of a list */
	char text[256];
};

#define LB_TLS_PROBLEM_NONE ((struct lb_tls_problem){.item = SIZE_MAX})

/* Which way the keys of a block are called, and the files. */
struct lb_tls_identity {
	const char *cert_key, *cert;
	const char *key_key, *key;
};

/*
 * A context of <method> with the common options: TLS 1.2 at least, no renegotiation, no
 * compression, buffers given back while idle. NULL without memory.
 */
SSL_CTX *lb_tls_context_new(const SSL_METHOD *method);

/*
 * Certificate, chain and private key. Reads the files. 0; -EINVAL with *problem filled in; -ENOMEM.
 */
int lb_tls_context_identify(SSL_CTX *ctx, const struct lb_tls_identity *files,
			    struct lb_tls_problem *problem);
/*
 * Whoever is signed by one of <ca> is believed, unless <crl> (NULL: none) revokes it; then every
 * authority of a chain needs its list there. 0 or -errno as above.
 */
int lb_tls_context_trust(SSL_CTX *ctx, const char *ca_key, const char *ca, const char *crl_key,
			 const char *crl, struct lb_tls_problem *problem);

/*
 * What <path> holds, as it is: *data to be freed, and nothing secret. 0; -EINVAL with *problem
 * filled in, <key> its key; -ENOMEM.
 */
int lb_tls_context_read(const char *key, const char *path, unsigned char **data, long *size,
			struct lb_tls_problem *problem);

/*
 * One number for what <paths> hold, NULLs among them, and for which of them cannot be read: two
 * that are equal have the same files behind them. 0 or -ENOMEM.
 */
int lb_tls_context_digest(const char *const *paths, size_t count,
			  uint8_t digest[LB_FILES_DIGEST_BYTES]);

/*
 * After the handshake: counts <ssl>'s control messages (KeyUpdate, new tickets) in heard->control,
 * which whoever reads payload sets back to 0: a peer that sends many and no payload is up to no
 * good.
 */
void lb_tls_context_watch(SSL *ssl, struct lb_tls_heard *heard);
#define LB_TLS_CONTROL_MAX 32u

/* What a call on <ssl> that failed says, in a few words; static. Empties OpenSSL's error queue. */
const char *lb_tls_context_error(SSL *ssl);
/* The peer's stream ended without its close_notify; asked before lb_tls_context_error(). */
bool lb_tls_context_is_truncated(void);

/*
 * The common name of the certificate that the peer has shown and that was verified, as UTF-8. False
 * when there is none, or it holds control characters or does not fit: then it is no name to go by.
 */
bool lb_tls_context_peer_name(const SSL *ssl, char *buf, size_t size);

/* Frees <ssl>, which may be NULL, without a word to the peer. Its session stays good. */
void lb_tls_context_leave(SSL *ssl);

#endif
