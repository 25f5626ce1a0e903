/* SPDX-License-Identifier: MIT */
/*
 * See tls_context.h. Must never leave a private key in memory that is not OpenSSL's own, nor ask
 * a terminal for a passphrase.
 */
#include "backend/tls_context.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include "base/cleanup.h"
#include "base/regular_file.h"

/* A bundle of all the world's authorities has some 250 KiB. */
#define FILE_BYTES_MAX (16u << 20)
/* Several records of bulk in one read(2). */
#define READ_AHEAD (32u * 1024u)

SSL_CTX *lb_tls_context_new(const SSL_METHOD *method)
{
	SSL_CTX *ctx = SSL_CTX_new(method);

	if (!ctx)
		return NULL;
	(void)SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
				      SSL_MODE_RELEASE_BUFFERS);
	/* A call ends after a control message instead of going on as long as any come. */
	SSL_CTX_clear_mode(ctx, SSL_MODE_AUTO_RETRY);
	/* What is sent with a certificate is what stands in its file: else OpenSSL would look for
	 * issuers among those whom we trust, anew in each handshake. */
	SSL_CTX_set_mode(ctx, SSL_MODE_NO_AUTO_CHAIN);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, READ_AHEAD);
	return ctx;
}

/* --- files ------------------------------------------------------------------------------------ */

struct pem {
	char *data;
	size_t size;
	BIO *bio;
};

static void pem_close(struct pem *p)
{
	BIO_free(p->bio);
	if (p->data)
		OPENSSL_cleanse(p->data, p->size);
	free(p->data);
	*p = (struct pem){0};
}

#define AUTO_PEM __attribute__((cleanup(pem_close)))

static int complain(struct lb_tls_problem *problem, const char *key, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int complain(struct lb_tls_problem *problem, const char *key, const char *fmt, ...)
{
	va_list args;

	problem->key = key;
	va_start(args, fmt);
	vsnprintf(problem->text, sizeof(problem->text), fmt, args);
	va_end(args);
	ERR_clear_error();
	return -EINVAL;
}

/* Why OpenSSL refused something. */
static const char *openssl_reason(void)
{
	const char *text = ERR_reason_error_string(ERR_peek_last_error());

	return text ? text : "unknown reason";
}

static int read_all(int fd, struct pem *p)
{
	while (p->size < FILE_BYTES_MAX) {
		ssize_t n = read(fd, p->data + p->size, FILE_BYTES_MAX - p->size);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		p->size += (size_t)n;
	}
	return -EFBIG;
}

static int pem_open(struct pem *p, const char *key, const char *path,
		    struct lb_tls_problem *problem)
{
	LB_AUTO_CLOSE int fd = lb_regular_file_open(path);
	int err = fd < 0 ? fd : 0;

	p->data = malloc(FILE_BYTES_MAX);
	if (!p->data)
		return -ENOMEM;
	if (!err)
		err = read_all(fd, p);
	if (err)
		return complain(problem, key, "%s: cannot be read: %s", path,
				err == -ENOTSUP ? "not a regular file" : strerror(-err));
	p->bio = BIO_new_mem_buf(p->data, (int)p->size);
	return p->bio ? 0 : -ENOMEM;
}

int lb_tls_context_read(const char *key, const char *path, unsigned char **data, long *size,
			struct lb_tls_problem *problem)
{
	AUTO_PEM struct pem pem = {0};
	int err = pem_open(&pem, key, path, problem);

	if (err)
		return err;
	*data = malloc(pem.size + 1);
	if (!*data)
		return -ENOMEM;
	memcpy(*data, pem.data, pem.size);
	*size = (long)pem.size;
	return 0;
}

static bool digest_file(EVP_MD_CTX *md, const char *path)
{
	LB_AUTO_CLOSE int fd = path ? lb_regular_file_open(path) : -ENOENT;
	char buf[16384];
	ssize_t n = fd < 0 ? fd : 1;
	uint64_t size = 0;

	while (n > 0 && size < FILE_BYTES_MAX) {
		n = read(fd, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			n = 1;
		else if (n > 0 && EVP_DigestUpdate(md, buf, (size_t)n) != 1)
			return false;
		else if (n > 0)
			size += (size_t)n;
	}
	OPENSSL_cleanse(buf, sizeof(buf));
	/* Where one ends and the next begins, and which cannot be read. */
	size = n < 0 ? UINT64_MAX : size;
	return EVP_DigestUpdate(md, &size, sizeof(size)) == 1;
}

int lb_tls_context_digest(const char *const *paths, size_t count,
			  uint8_t digest[LB_FILES_DIGEST_BYTES])
{
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool good = md && EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1;

	for (size_t i = 0; i < count && good; i++)
		good = digest_file(md, paths[i]);
	good = good && EVP_DigestFinal_ex(md, digest, NULL) == 1;
	EVP_MD_CTX_free(md);
	return good ? 0 : -ENOMEM;
}

/* Nothing more was there; anything else is a broken file. */
static bool is_end(void)
{
	unsigned long e = ERR_peek_last_error();

	return ERR_GET_LIB(e) == ERR_LIB_PEM && ERR_GET_REASON(e) == PEM_R_NO_START_LINE;
}

/* --- certificate and key ---------------------------------------------------------------------- */

/* Sets the flag: somebody wanted to know a passphrase. */
static int no_passphrase(char *buf, int size, int writing, void *asked)
{
	*(bool *)asked = true;
	return -1;
}

static int use_chain(SSL_CTX *ctx, const struct lb_tls_identity *files,
		     struct lb_tls_problem *problem)
{
	AUTO_PEM struct pem pem = {0};
	X509 *cert;
	int err = pem_open(&pem, files->cert_key, files->cert, problem);

	if (err)
		return err;
	ERR_clear_error();
	cert = PEM_read_bio_X509_AUX(pem.bio, NULL, no_passphrase, &(bool){false});
	if (!cert)
		return complain(problem, files->cert_key, "%s: holds no PEM certificate",
				files->cert);
	err = SSL_CTX_use_certificate(ctx, cert) == 1 ? 0 : -EINVAL;
	X509_free(cert);
	if (err)
		return complain(problem, files->cert_key, "%s: OpenSSL refuses it: %s", files->cert,
				openssl_reason());
	while ((cert = PEM_read_bio_X509(pem.bio, NULL, no_passphrase, &(bool){false}))) {
		if (SSL_CTX_add0_chain_cert(ctx, cert) == 1)
			continue;
		X509_free(cert);
		return complain(problem, files->cert_key,
				"%s: OpenSSL refuses a certificate of the chain: %s", files->cert,
				openssl_reason());
	}
	if (!is_end())
		return complain(problem, files->cert_key,
				"%s: a certificate of the chain is broken", files->cert);
	ERR_clear_error();
	return 0;
}

static int use_key(SSL_CTX *ctx, const struct lb_tls_identity *files,
		   struct lb_tls_problem *problem)
{
	AUTO_PEM struct pem pem = {0};
	bool encrypted = false, good;
	EVP_PKEY *key;
	int err = pem_open(&pem, files->key_key, files->key, problem);

	if (err)
		return err;
	ERR_clear_error();
	key = PEM_read_bio_PrivateKey(pem.bio, NULL, no_passphrase, &encrypted);
	if (encrypted) {
		EVP_PKEY_free(key);
		return complain(problem, files->key_key,
				"%s: is encrypted; store it without a passphrase "
				"(openssl pkey -in FILE -out FILE)",
				files->key);
	}
	if (!key)
		return complain(problem, files->key_key, "%s: holds no PEM private key",
				files->key);
	if (X509_check_private_key(SSL_CTX_get0_certificate(ctx), key) != 1) {
		EVP_PKEY_free(key);
		return complain(problem, files->key_key,
				"%s: does not belong to the certificate in %s", files->key,
				files->cert);
	}
	good = SSL_CTX_use_PrivateKey(ctx, key) == 1;
	EVP_PKEY_free(key);
	return good ? 0
		    : complain(problem, files->key_key, "%s: OpenSSL refuses it: %s", files->key,
			       openssl_reason());
}

int lb_tls_context_identify(SSL_CTX *ctx, const struct lb_tls_identity *files,
			    struct lb_tls_problem *problem)
{
	int err = use_chain(ctx, files, problem);

	return err ? err : use_key(ctx, files, problem);
}

/* --- authorities ------------------------------------------------------------------------------ */

static int trust_authorities(X509_STORE *store, const char *key, const char *path,
			     struct lb_tls_problem *problem)
{
	AUTO_PEM struct pem pem = {0};
	size_t count = 0;
	X509 *cert;
	int err = pem_open(&pem, key, path, problem);

	if (err)
		return err;
	ERR_clear_error();
	while ((cert = PEM_read_bio_X509(pem.bio, NULL, no_passphrase, &(bool){false}))) {
		bool added = X509_STORE_add_cert(store, cert) == 1;

		X509_free(cert);
		if (!added)
			return complain(problem, key, "%s: OpenSSL refuses a certificate: %s", path,
					openssl_reason());
		count++;
	}
	if (!count || !is_end())
		return complain(problem, key, "%s: %s", path,
				count ? "a certificate is broken" : "holds no PEM certificate");
	ERR_clear_error();
	return 0;
}

static int heed_revocations(X509_STORE *store, const char *key, const char *path,
			    struct lb_tls_problem *problem)
{
	AUTO_PEM struct pem pem = {0};
	size_t count = 0;
	X509_CRL *crl;
	int err = pem_open(&pem, key, path, problem);

	if (err)
		return err;
	ERR_clear_error();
	while ((crl = PEM_read_bio_X509_CRL(pem.bio, NULL, no_passphrase, &(bool){false}))) {
		bool added = X509_STORE_add_crl(store, crl) == 1;

		X509_CRL_free(crl);
		if (!added)
			return complain(problem, key, "%s: OpenSSL refuses a list: %s", path,
					openssl_reason());
		count++;
	}
	if (!count || !is_end())
		return complain(problem, key, "%s: %s", path,
				count ? "a list is broken" : "holds no PEM revocation list");
	ERR_clear_error();
	X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK | X509_V_FLAG_CRL_CHECK_ALL);
	return 0;
}

int lb_tls_context_trust(SSL_CTX *ctx, const char *ca_key, const char *ca, const char *crl_key,
			 const char *crl, struct lb_tls_problem *problem)
{
	X509_STORE *store = SSL_CTX_get_cert_store(ctx);
	int err = trust_authorities(store, ca_key, ca, problem);

	return err || !crl ? err : heed_revocations(store, crl_key, crl, problem);
}

/* --- connections ------------------------------------------------------------------------------ */

/*
 * In TLS 1.2 OpenSSL answers an attempt to renegotiate with a warning and goes on reading inside
 * the same call, as long as any come: only the record's header tells of it, and only an end that
 * was heard brings the call back.
 */
static void on_message(int writing, int version, int type, const void *data, size_t len, SSL *ssl,
		       void *arg)
{
	const unsigned char *header = data;
	struct lb_tls_heard *heard = arg;

	if (writing)
		return;
	if (type == SSL3_RT_HANDSHAKE ||
	    (type == SSL3_RT_HEADER && len && header[0] == SSL3_RT_HANDSHAKE))
		heard->control++;
	/* Behind its type and length, which is 1. */
	if (type == SSL3_RT_HANDSHAKE && len == 5 && header[0] == SSL3_MT_KEY_UPDATE &&
	    header[4] == SSL_KEY_UPDATE_REQUESTED)
		heard->wants_keys = true;
	if (heard->control > LB_TLS_CONTROL_MAX)
		SSL_set_shutdown(ssl, SSL_get_shutdown(ssl) | SSL_RECEIVED_SHUTDOWN);
}

void lb_tls_context_watch(SSL *ssl, struct lb_tls_heard *heard)
{
	*heard = (struct lb_tls_heard){0};
	SSL_set_msg_callback(ssl, on_message);
	SSL_set_msg_callback_arg(ssl, heard);
}

const char *lb_tls_context_error(SSL *ssl)
{
	unsigned long e = ERR_peek_error();
	long verify = SSL_get_verify_result(ssl);
	const char *text;

	ERR_clear_error();
	if (verify != X509_V_OK && ERR_GET_REASON(e) == SSL_R_CERTIFICATE_VERIFY_FAILED)
		return X509_verify_cert_error_string(verify);
	text = e ? ERR_reason_error_string(e) : NULL;
	return text ? text : "closed";
}

bool lb_tls_context_is_truncated(void)
{
	unsigned long e = ERR_peek_error();

	return ERR_GET_LIB(e) == ERR_LIB_SSL &&
	       ERR_GET_REASON(e) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
}

static bool is_name(const unsigned char *text, int len, size_t size)
{
	if (len <= 0 || (size_t)len >= size)
		return false;
	for (int i = 0; i < len; i++) {
		if (text[i] < 0x20 || text[i] == 0x7f)
			return false;
		/* C1 in UTF-8; len is not the end of the buffer: there is a NUL. */
		if (text[i] == 0xc2 && text[i + 1] >= 0x80 && text[i + 1] < 0xa0)
			return false;
	}
	return true;
}

bool lb_tls_context_peer_name(const SSL *ssl, char *buf, size_t size)
{
	X509 *cert = SSL_get0_peer_certificate(ssl);
	X509_NAME *subject = cert ? X509_get_subject_name(cert) : NULL;
	int at = subject ? X509_NAME_get_index_by_NID(subject, NID_commonName, -1) : -1;
	unsigned char *text = NULL;
	bool good;
	int len;

	if (at < 0 || SSL_get_verify_result(ssl) != X509_V_OK)
		return false;
	len = ASN1_STRING_to_UTF8(&text,
				  X509_NAME_ENTRY_get_data(X509_NAME_get_entry(subject, at)));
	good = is_name(text, len, size);
	if (good) {
		memcpy(buf, text, (size_t)len);
		buf[len] = '\0';
	}
	OPENSSL_free(text);
	return good;
}

void lb_tls_context_leave(SSL *ssl)
{
	if (!ssl)
		return;
	/* As if both had said goodbye: OpenSSL takes a session for bad otherwise. */
	SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(ssl);
	/* Nothing of it must be taken for another connection's error. */
	ERR_clear_error();
}
