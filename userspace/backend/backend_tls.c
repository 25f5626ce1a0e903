/* SPDX-License-Identifier: MIT */
/*
 * See backend_tls.h. Must never take a session that was agreed under one name for another one: on
 * resumption nobody looks at the certificate again.
 */
#include "backend/backend_tls.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/err.h>
#include <openssl/x509v3.h>

#include "backend/pool.h"
#include "base/cleanup.h"
#include "base/hash.h"

/* Where Debian keeps everybody's authorities, in one file; else OpenSSL's own places. */
#define SYSTEM_CA "/etc/ssl/certs/ca-certificates.crt"
#define SLOTS     256u

/* The last session of a backend. Two that meet in a slot take turns. */
struct slot {
	uint64_t key; /* of backend and name */
	SSL_SESSION *session;
};

struct lb_backend_tls {
	uint32_t holders; /* atomic */
	char *name;       /* asked for and verified; NULL: the backend's own */
	SSL_CTX *ctx;
	pthread_mutex_t lock;
	struct slot slots[SLOTS]; /* under the lock */
};

/* Where an SSL keeps its slot's key: one place for all, however often contexts are made. */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int key_index = -1;

static void free_key(void *parent, void *ptr, CRYPTO_EX_DATA *ad, int idx, long argl, void *argp)
{
	free(ptr);
}

static void find_index(void)
{
	key_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, free_key);
}

static struct slot *slot_of(struct lb_backend_tls *tls, uint64_t key)
{
	return &tls->slots[key % SLOTS];
}

/* OpenSSL has a session for us: after the handshake, or later. 1: it is ours now. */
static int keep_session(SSL *ssl, SSL_SESSION *session)
{
	struct lb_backend_tls *tls = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	const uint64_t *key = SSL_get_ex_data(ssl, key_index);
	struct slot *slot;
	SSL_SESSION *old;

	if (!key)
		return 0;
	slot = slot_of(tls, *key);
	pthread_mutex_lock(&tls->lock);
	old = slot->session;
	*slot = (struct slot){.key = *key, .session = session};
	pthread_mutex_unlock(&tls->lock);
	SSL_SESSION_free(old);
	return 1;
}

static void resume(struct lb_backend_tls *tls, SSL *ssl, uint64_t key)
{
	struct slot *slot = slot_of(tls, key);
	SSL_SESSION *session = NULL;

	pthread_mutex_lock(&tls->lock);
	if (slot->key == key && slot->session && SSL_SESSION_up_ref(slot->session))
		session = slot->session;
	pthread_mutex_unlock(&tls->lock);
	if (!session)
		return;
	/* One that is refused is a handshake in full. */
	if (SSL_SESSION_is_resumable(session))
		(void)SSL_set_session(ssl, session);
	SSL_SESSION_free(session);
}

/* The file with the authorities; NULL: where OpenSSL looks by itself. */
static const char *authorities(const struct lb_backend_tls_config *config)
{
	if (config->ca)
		return config->ca;
	if (!getenv(X509_get_default_cert_file_env()) && !access(SYSTEM_CA, R_OK))
		return SYSTEM_CA;
	return NULL;
}

static int set_trust(struct lb_backend_tls *tls, const struct lb_backend_tls_config *config,
		     bool verify, struct lb_tls_problem *problem)
{
	const char *ca = authorities(config);

	if (!verify)
		return 0;
	SSL_CTX_set_verify(tls->ctx, SSL_VERIFY_PEER, NULL);
	if (ca)
		return lb_tls_context_trust(tls->ctx, "ca", ca, "crl", config->crl, problem);
	if (SSL_CTX_set_default_verify_paths(tls->ctx) != 1)
		return -ENOMEM;
	return 0;
}

int lb_backend_tls_new(struct lb_backend_tls **ret, const struct lb_backend_tls_config *config,
		       bool verify, struct lb_tls_problem *problem)
{
	const struct lb_tls_identity own = {"client_cert", config->client_cert, "client_key",
					    config->client_key};
	LB_AUTO(lb_backend_tls_free) struct lb_backend_tls *tls = calloc(1, sizeof(*tls));
	int err;

	if (!tls)
		return -ENOMEM;
	tls->holders = 1;
	pthread_mutex_init(&tls->lock, NULL);
	tls->name = config->name ? strdup(config->name) : NULL;
	tls->ctx = lb_tls_context_new(TLS_client_method());
	pthread_once(&once, find_index);
	if (!tls->ctx || key_index < 0 || (config->name && !tls->name))
		return -ENOMEM;
	SSL_CTX_set_app_data(tls->ctx, tls);
	SSL_CTX_set_session_cache_mode(tls->ctx,
				       SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(tls->ctx, keep_session);
	err = set_trust(tls, config, verify, problem);
	if (!err && config->client_cert)
		err = lb_tls_context_identify(tls->ctx, &own, problem);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(tls);
	return 0;
}

struct lb_backend_tls *lb_backend_tls_hold(struct lb_backend_tls *tls)
{
	__atomic_fetch_add(&tls->holders, 1, __ATOMIC_RELAXED);
	return tls;
}

void lb_backend_tls_free(struct lb_backend_tls **ptls)
{
	struct lb_backend_tls *tls = *ptls;

	if (!tls)
		return;
	*ptls = NULL;
	if (__atomic_sub_fetch(&tls->holders, 1, __ATOMIC_ACQ_REL))
		return;
	for (size_t i = 0; i < SLOTS; i++)
		SSL_SESSION_free(tls->slots[i].session);
	SSL_CTX_free(tls->ctx);
	pthread_mutex_destroy(&tls->lock);
	free(tls->name);
	free(tls);
}

int lb_backend_tls_digest(const struct lb_backend_tls_config *config,
			  uint8_t digest[LB_FILES_DIGEST_BYTES])
{
	const char *ca = authorities(config), *named = getenv(X509_get_default_cert_file_env());
	const char *const paths[] = {config->crl, config->client_cert, config->client_key,
				     config->ignore_verify ? NULL
				     : ca                  ? ca
							   : named};

	return lb_tls_context_digest(paths, LB_ARRAY_SIZE(paths), digest);
}

static const char *name_of(const struct lb_backend_tls *tls, const struct lb_backend *b)
{
	if (tls->name)
		return tls->name;
	return b->config->tls_name ? b->config->tls_name : b->config->host;
}

/* An address is verified as one, and never asked for (RFC 6066, 3). */
static bool set_name(SSL *ssl, const char *name)
{
	X509_VERIFY_PARAM *param = SSL_get0_param(ssl);

	if (X509_VERIFY_PARAM_set1_ip_asc(param, name) == 1)
		return true;
	ERR_clear_error();
	X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return X509_VERIFY_PARAM_set1_host(param, name, 0) == 1 &&
	       SSL_set_tlsext_host_name(ssl, name) == 1;
}

static uint64_t key_of(const struct lb_backend *b, const char *name)
{
	char text[LB_ADDR_STR_MAX + 256];
	int n;

	n = snprintf(text, LB_ADDR_STR_MAX, "%s",
		     lb_addr_format(&b->addr, (char[LB_ADDR_STR_MAX]){0}));
	n += snprintf(text + n, sizeof(text) - (size_t)n, "/%s", name);
	return lb_hash(text, (size_t)n);
}

SSL *lb_backend_tls_open(struct lb_backend_tls *tls, int fd, const struct lb_backend *b)
{
	const char *name = name_of(tls, b);
	uint64_t *key = malloc(sizeof(*key));
	SSL *ssl = SSL_new(tls->ctx);

	if (!key || !ssl || !SSL_set_ex_data(ssl, key_index, key)) {
		free(key);
		SSL_free(ssl);
		return NULL;
	}
	*key = key_of(b, name);
	if (!set_name(ssl, name) || SSL_set_fd(ssl, fd) != 1) {
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_connect_state(ssl);
	resume(tls, ssl, *key);
	return ssl;
}
