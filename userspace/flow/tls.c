/* SPDX-License-Identifier: MIT */
/*
 * See tls.h. There is one context per certificate, all alike otherwise; a connection begins in the
 * first one and moves to that of the name it asks for.
 *
 * Must never let a session be resumed where its client would have been asked for something else:
 * tickets are sealed with keys of the rule, and hold a digest of what was verified.
 */
#include "flow/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "flow/tls_names.h"
#include "flow/tls_shared_tickets.h"
#include "flow/tls_staple.h"
#include "flow/tls_tickets.h"

/* Mozilla's intermediate list of 2024 (version 5.7), without DHE: it costs ten times ECDHE. */
#define CIPHERS                                                      \
	"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"             \
	"TLS_CHACHA20_POLY1305_SHA256:"                              \
	"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:" \
	"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" \
	"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
#define GROUPS "X25519:P-256:P-384"
/* A ticket is good for so long, s: no longer than its key. */
#define SESSION_S 7200

struct certificate {
	SSL_CTX *ctx;
	struct lb_tls_staple *staple; /* NULL: none */
};

struct lb_tls {
	uint32_t holders; /* atomic */
	/* Of sessions: what its clients were asked for. */
	unsigned char context[LB_TLS_CONTEXT_BYTES];
	struct certificate *certificates; /* [0]: the default one */
	uint32_t count;
	struct lb_tls_names names;
	struct lb_tls_tickets *tickets; /* NULL: .. */
	struct lb_tls_secrets *secrets; /* .. it has those of all nodes; borrowed */
	unsigned char *alpn;            /* as on the wire */
	unsigned int alpn_len;
	int64_t expiry, staple_expiry; /* the first */
};

/* --- callbacks: any worker -------------------------------------------------------------------- */

static int on_name(SSL *ssl, int *alert, void *arg)
{
	struct lb_tls *tls = arg;
	const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);

	if (!name)
		return SSL_TLSEXT_ERR_NOACK;
	if (!SSL_set_SSL_CTX(ssl, tls->certificates[lb_tls_names_find(&tls->names, name, 0)].ctx)) {
		*alert = SSL_AD_INTERNAL_ERROR;
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	}
	return SSL_TLSEXT_ERR_OK;
}

/* A client that offers nothing we have is told so (RFC 7301, 3.2). */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
		   const unsigned char *in, unsigned int in_len, void *arg)
{
	const struct lb_tls *tls = arg;
	unsigned char *chosen;

	if (SSL_select_next_proto(&chosen, out_len, tls->alpn, tls->alpn_len, in, in_len) !=
	    OPENSSL_NPN_NEGOTIATED)
		return SSL_TLSEXT_ERR_ALERT_FATAL;
	*out = chosen;
	return SSL_TLSEXT_ERR_OK;
}

static bool set_mac(EVP_MAC_CTX *mac, struct lb_tls_ticket_key *key)
{
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->hmac, sizeof(key->hmac)),
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
		OSSL_PARAM_construct_end(),
	};

	return EVP_MAC_CTX_set_params(mac, params) == 1;
}

static uint64_t wall_s(void)
{
	return (uint64_t)time(NULL);
}

static bool key_to_seal(struct lb_tls *tls, struct lb_tls_ticket_key *key)
{
	if (tls->secrets)
		return lb_tls_secrets_seal(tls->secrets, wall_s(), tls->context, key);
	return lb_tls_tickets_seal(tls->tickets, lb_clock_ms(), key);
}

static bool key_to_open(struct lb_tls *tls, const unsigned char *name,
			struct lb_tls_ticket_key *key, bool *fresh)
{
	if (tls->secrets)
		return lb_tls_secrets_open(tls->secrets, wall_s(), tls->context, name, key, fresh);
	return lb_tls_tickets_open(tls->tickets, lb_clock_ms(), name, key, fresh);
}

static int seal(struct lb_tls *tls, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
		EVP_MAC_CTX *mac, struct lb_tls_ticket_key *key)
{
	/* 0: no ticket this time. */
	if (!key_to_seal(tls, key))
		return 0;
	if (RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) != 1)
		return -1;
	memcpy(name, key->name, sizeof(key->name));
	if (EVP_EncryptInit_ex2(cipher, EVP_aes_256_cbc(), key->aes, iv, NULL) != 1 ||
	    !set_mac(mac, key))
		return -1;
	return 1;
}

static int open_ticket(struct lb_tls *tls, const unsigned char *name, const unsigned char *iv,
		       EVP_CIPHER_CTX *cipher, EVP_MAC_CTX *mac, struct lb_tls_ticket_key *key)
{
	bool fresh;

	/* 0: a ticket of somebody else's, or too old; a handshake in full. */
	if (!key_to_open(tls, name, key, &fresh))
		return 0;
	if (EVP_DecryptInit_ex2(cipher, EVP_aes_256_cbc(), key->aes, iv, NULL) != 1 ||
	    !set_mac(mac, key))
		return -1;
	return fresh ? 1 : 2;
}

static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
		     EVP_MAC_CTX *mac, int sealing)
{
	struct lb_tls *tls = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
	struct lb_tls_ticket_key key;
	int r = sealing ? seal(tls, name, iv, cipher, mac, &key)
			: open_ticket(tls, name, iv, cipher, mac, &key);

	OPENSSL_cleanse(&key, sizeof(key));
	return r;
}

/* --- making ----------------------------------------------------------------------------------- */

static int complain(struct lb_tls_problem *problem, const char *key, const char *text)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());

	problem->key = key;
	snprintf(problem->text, sizeof(problem->text), "%s%s%s", text, reason ? ": " : "",
		 reason ? reason : "");
	ERR_clear_error();
	return -EINVAL;
}

/* One name more at the end of a list, which has room for it. */
static void append(char *list, const char *word, size_t len)
{
	size_t have = strlen(list);

	if (have)
		list[have++] = ':';
	memcpy(list + have, word, len);
	list[have + len] = '\0';
}

/* TLS 1.3 has names of its own for its suites: they come in the same list. */
static int set_ciphers(SSL_CTX *ctx, const char *list, struct lb_tls_problem *problem)
{
	LB_AUTO_FREE char *old = calloc(1, strlen(list) + 1), *suites = calloc(1, strlen(list) + 1);

	if (!old || !suites)
		return -ENOMEM;
	while (*list) {
		size_t len = strcspn(list, ":, ");

		if (len)
			append(strncmp(list, "TLS_", 4) ? old : suites, list, len);
		list += len + (list[len] != '\0');
	}
	if (*old && SSL_CTX_set_cipher_list(ctx, old) != 1)
		return complain(problem, "ciphers", "OpenSSL knows none of these");
	if (*suites && SSL_CTX_set_ciphersuites(ctx, suites) != 1)
		return complain(problem, "ciphers", "OpenSSL does not know all of the TLS_ names");
	return 0;
}

static int build_alpn(struct lb_tls *tls, const struct lb_tls_config *config)
{
	size_t size = 0;

	for (size_t i = 0; i < config->alpn_count; i++)
		size += 1 + strlen(config->alpn[i]);
	tls->alpn = malloc(size + 1);
	if (!tls->alpn)
		return -ENOMEM;
	for (size_t i = 0; i < config->alpn_count; i++) {
		size_t len = strlen(config->alpn[i]);

		tls->alpn[tls->alpn_len++] = (unsigned char)len;
		memcpy(&tls->alpn[tls->alpn_len], config->alpn[i], len);
		tls->alpn_len += (unsigned int)len;
	}
	return 0;
}

/*
 * What a client was asked for, as far as a session tells: of the authorities and the revoked ones
 * what the files hold, for tickets outlive a reload that brings others.
 */
static int digest_context(struct lb_tls *tls, const struct lb_rule_config *rule)
{
	const char *const files[] = {rule->tls.client_ca, rule->tls.client_crl};
	struct {
		unsigned char files[LB_FILES_DIGEST_BYTES], name[32];
		int auth;
	} asked;

	memset(&asked, 0, sizeof(asked));
	asked.auth = (int)rule->tls.client_auth;
	if (lb_tls_context_digest(files, LB_ARRAY_SIZE(files), asked.files) ||
	    EVP_Digest(rule->name, strlen(rule->name), asked.name, NULL, EVP_sha256(), NULL) != 1 ||
	    EVP_Digest(&asked, sizeof(asked), tls->context, NULL, EVP_sha256(), NULL) != 1)
		return -ENOMEM;
	return 0;
}

static void set_tickets(SSL_CTX *ctx, const struct lb_tls_config *config)
{
	/* Sessions live in tickets alone: no memory of ours, and no limit to it. */
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_timeout(ctx, SESSION_S);
	if (config->session_tickets) {
		SSL_CTX_set_tlsext_ticket_key_evp_cb(ctx, on_ticket);
		SSL_CTX_set_num_tickets(ctx, 1);
		return;
	}
	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET);
	SSL_CTX_set_num_tickets(ctx, 0);
}

static int set_clients(SSL_CTX *ctx, const struct lb_tls_config *config,
		       struct lb_tls_problem *problem)
{
	STACK_OF(X509_NAME) * names;
	int err;

	if (!config->client_ca)
		return 0;
	err = lb_tls_context_trust(ctx, "client_ca", config->client_ca, "client_crl",
				   config->client_crl, problem);
	if (err)
		return err;
	names = SSL_load_client_CA_file(config->client_ca);
	if (!names)
		return complain(problem, "client_ca", "cannot be read");
	SSL_CTX_set_client_CA_list(ctx, names);
	SSL_CTX_set_verify(ctx,
			   SSL_VERIFY_PEER | (config->client_auth == LB_CLIENT_AUTH_REQUIRED
						      ? SSL_VERIFY_FAIL_IF_NO_PEER_CERT
						      : 0),
			   NULL);
	return 0;
}

/* All but the certificate. */
static int set_up(struct lb_tls *tls, SSL_CTX *ctx, const struct lb_rule_config *rule,
		  struct lb_tls_problem *problem)
{
	const struct lb_tls_config *config = &rule->tls;
	int err;

	SSL_CTX_set_app_data(ctx, tls);
	/* Our order counts, but a client that puts ChaCha20 first has no AES in its processor. */
	SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
	if (config->min_version == LB_TLS_VERSION_1_3)
		(void)SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION);
	err = set_ciphers(ctx, config->ciphers ? config->ciphers : CIPHERS, problem);
	if (!err && SSL_CTX_set1_groups_list(ctx, config->groups ? config->groups : GROUPS) != 1)
		err = complain(problem, "groups", "OpenSSL does not know all of these");
	if (!err)
		err = set_clients(ctx, config, problem);
	if (!err)
		err = SSL_CTX_set_session_id_context(ctx, tls->context, sizeof(tls->context)) == 1
			      ? 0
			      : -ENOMEM;
	if (err)
		return err;
	set_tickets(ctx, config);
	SSL_CTX_set_tlsext_servername_callback(ctx, on_name);
	SSL_CTX_set_tlsext_servername_arg(ctx, tls);
	if (tls->alpn_len)
		SSL_CTX_set_alpn_select_cb(ctx, on_alpn, tls);
	return 0;
}

static int add_name(struct lb_tls *tls, const ASN1_STRING *name, uint32_t certificate)
{
	const char *text = (const char *)ASN1_STRING_get0_data(name);
	int err;

	/* A NUL inside would make a prefix of the name pass for it. */
	if (strlen(text) != (size_t)ASN1_STRING_length(name))
		return 0;
	err = lb_tls_names_add(&tls->names, text, certificate);
	return err == -EINVAL ? 0 : err;
}

static int add_common_name(struct lb_tls *tls, X509 *cert, uint32_t certificate)
{
	X509_NAME *subject = X509_get_subject_name(cert);
	int at = X509_NAME_get_index_by_NID(subject, NID_commonName, -1);

	if (at < 0)
		return 0;
	return add_name(tls, X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)),
			certificate);
}

/* Those of the alternative names; the common name only counts without them (RFC 6125, 6.4.4). */
static int add_names(struct lb_tls *tls, X509 *cert, uint32_t certificate)
{
	GENERAL_NAMES *names = X509_get_ext_d2i(cert, NID_subject_alt_name, NULL, NULL);
	int err = 0;

	if (!names)
		return add_common_name(tls, cert, certificate);
	for (int i = 0; i < sk_GENERAL_NAME_num(names) && !err; i++) {
		const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);

		if (name->type == GEN_DNS)
			err = add_name(tls, name->d.dNSName, certificate);
	}
	GENERAL_NAMES_free(names);
	return err;
}

static void note_expiry(struct lb_tls *tls, const X509 *cert)
{
	struct tm tm;
	int64_t end;

	if (ASN1_TIME_to_tm(X509_get0_notAfter(cert), &tm) != 1)
		return;
	end = (int64_t)timegm(&tm);
	if (!tls->expiry || end < tls->expiry)
		tls->expiry = end;
}

static int add_staple(struct lb_tls *tls, struct certificate *c, const char *path,
		      struct lb_tls_problem *problem)
{
	int64_t expiry;
	int err = lb_tls_staple_new(&c->staple, c->ctx, path, problem);

	if (err)
		return err;
	expiry = lb_tls_staple_expiry(c->staple);
	if (!tls->staple_expiry || expiry < tls->staple_expiry)
		tls->staple_expiry = expiry;
	return 0;
}

static int add_certificate(struct lb_tls *tls, const struct lb_rule_config *rule,
			   const struct lb_certificate_config *of, struct lb_tls_problem *problem)
{
	const struct lb_tls_identity files = {"cert", of->cert, "key", of->key};
	SSL_CTX *ctx = lb_tls_context_new(TLS_server_method());
	struct certificate *c = &tls->certificates[tls->count];
	X509 *own;
	int err;

	if (!ctx)
		return -ENOMEM;
	c->ctx = ctx;
	tls->count++;
	err = lb_tls_context_identify(ctx, &files, problem);
	if (!err && of->ocsp)
		err = add_staple(tls, c, of->ocsp, problem);
	if (err)
		return err;
	own = SSL_CTX_get0_certificate(ctx);
	note_expiry(tls, own);
	err = add_names(tls, own, tls->count - 1);
	if (err)
		return err;
	/* What is wrong from here on is wrong with the block. */
	problem->item = SIZE_MAX;
	return set_up(tls, ctx, rule, problem);
}

static int add_certificates(struct lb_tls *tls, const struct lb_rule_config *rule,
			    struct lb_tls_problem *problem)
{
	const struct lb_tls_config *config = &rule->tls;
	const struct lb_certificate_config own = {config->cert, config->key, config->ocsp};
	int err = 0;

	tls->certificates = calloc(config->certificates_count + 1, sizeof(*tls->certificates));
	if (!tls->certificates)
		return -ENOMEM;
	problem->item = SIZE_MAX;
	if (own.cert)
		err = add_certificate(tls, rule, &own, problem);
	for (size_t i = 0; i < config->certificates_count && !err; i++) {
		problem->item = i;
		err = add_certificate(tls, rule, &config->certificates[i], problem);
	}
	return err;
}

/* Its own, which may be <old>'s, or those of all nodes, which follow from what they have. */
static int choose_tickets(struct lb_tls *tls, const struct lb_tls_config *config,
			  const struct lb_tls *old, struct lb_tls_secrets *secrets)
{
	if (config->share_tickets && secrets)
		tls->secrets = secrets;
	else if (old && old->tickets)
		tls->tickets = lb_tls_tickets_hold(old->tickets);
	else
		return lb_tls_tickets_new(&tls->tickets, lb_clock_ms());
	return 0;
}

int lb_tls_new(struct lb_tls **ret, const struct lb_rule_config *rule, const struct lb_tls *old,
	       struct lb_tls_secrets *secrets, struct lb_tls_problem *problem)
{
	LB_AUTO(lb_tls_free) struct lb_tls *tls = calloc(1, sizeof(*tls));
	int err;

	if (!tls)
		return -ENOMEM;
	tls->holders = 1;
	err = build_alpn(tls, &rule->tls);
	if (!err)
		err = digest_context(tls, rule);
	if (!err)
		err = choose_tickets(tls, &rule->tls, old, secrets);
	if (err == -EIO)
		complain(problem, "session_tickets", "no random keys");
	if (!err)
		err = add_certificates(tls, rule, problem);
	if (err)
		return err;
	lb_tls_names_sort(&tls->names);
	*ret = LB_TAKE_PTR(tls);
	return 0;
}

struct lb_tls *lb_tls_hold(struct lb_tls *tls)
{
	__atomic_fetch_add(&tls->holders, 1, __ATOMIC_RELAXED);
	return tls;
}

void lb_tls_free(struct lb_tls **ptls)
{
	struct lb_tls *tls = *ptls;

	if (!tls)
		return;
	*ptls = NULL;
	if (__atomic_sub_fetch(&tls->holders, 1, __ATOMIC_ACQ_REL))
		return;
	for (uint32_t i = 0; i < tls->count; i++) {
		SSL_CTX_free(tls->certificates[i].ctx);
		lb_tls_staple_free(&tls->certificates[i].staple);
	}
	free(tls->certificates);
	lb_tls_names_fini(&tls->names);
	lb_tls_tickets_free(&tls->tickets);
	free(tls->alpn);
	free(tls);
}

SSL *lb_tls_accept(struct lb_tls *tls, int fd)
{
	SSL *ssl = SSL_new(tls->certificates[0].ctx);

	if (!ssl || SSL_set_fd(ssl, fd) != 1) {
		SSL_free(ssl);
		return NULL;
	}
	SSL_set_accept_state(ssl);
	return ssl;
}

int64_t lb_tls_expiry(const struct lb_tls *tls)
{
	return tls->expiry;
}

int64_t lb_tls_staple_end(const struct lb_tls *tls)
{
	return tls->staple_expiry;
}

int lb_tls_digest(const struct lb_tls_config *config, uint8_t digest[LB_FILES_DIGEST_BYTES])
{
	size_t count = 0;
	LB_AUTO_FREE const char **paths =
		calloc(5 + 3 * config->certificates_count, sizeof(const char *));

	if (!paths)
		return -ENOMEM;
	paths[count++] = config->cert;
	paths[count++] = config->key;
	paths[count++] = config->ocsp;
	paths[count++] = config->client_ca;
	paths[count++] = config->client_crl;
	for (size_t i = 0; i < config->certificates_count; i++) {
		paths[count++] = config->certificates[i].cert;
		paths[count++] = config->certificates[i].key;
		paths[count++] = config->certificates[i].ocsp;
	}
	return lb_tls_context_digest(paths, count, digest);
}
