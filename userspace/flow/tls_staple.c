/* SPDX-License-Identifier: MIT */
/*
 * See tls_staple.h. Must never send a response that is too old: clients who look at it would end
 * the handshake, and without one they go on.
 */
#include "flow/tls_staple.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <openssl/err.h>
#include <openssl/ocsp.h>

#include "base/cleanup.h"

#define CLOCK_SKEW_S 300
#define BYTES_MAX    65535 /* they must fit into a handshake message of reasonable size */

struct lb_tls_staple {
	unsigned char *data;
	long size;
	int64_t expiry;
};

static void free_response(OCSP_RESPONSE **r)
{
	OCSP_RESPONSE_free(*r);
}

static void free_basic(OCSP_BASICRESP **b)
{
	OCSP_BASICRESP_free(*b);
}

static int complain(struct lb_tls_problem *problem, const char *path, const char *text)
{
	problem->key = "ocsp";
	snprintf(problem->text, sizeof(problem->text), "%s: %s", path, text);
	ERR_clear_error();
	return -EINVAL;
}

/* In any worker. OpenSSL frees what it gets. */
static int on_status(SSL *ssl, void *arg)
{
	const struct lb_tls_staple *s = arg;
	unsigned char *copy;

	if ((int64_t)time(NULL) >= s->expiry)
		return SSL_TLSEXT_ERR_NOACK;
	copy = OPENSSL_memdup(s->data, (size_t)s->size);
	if (!copy)
		return SSL_TLSEXT_ERR_NOACK;
	SSL_set_tlsext_status_ocsp_resp(ssl, copy, s->size);
	return SSL_TLSEXT_ERR_OK;
}

/* --- judging ---------------------------------------------------------------------------------- */

/* The authority of <cert>, if the chain has it. */
static X509 *find_issuer(SSL_CTX *ctx, X509 *cert)
{
	STACK_OF(X509) *chain = NULL;

	(void)SSL_CTX_get0_chain_certs(ctx, &chain);
	for (int i = 0; i < sk_X509_num(chain); i++)
		if (X509_check_issued(sk_X509_value(chain, i), cert) == X509_V_OK)
			return sk_X509_value(chain, i);
	return NULL;
}

/* Whether <id> means <cert>. Without its authority at hand the serial number has to do. */
static bool is_about(OCSP_CERTID *id, X509 *cert, X509 *issuer)
{
	ASN1_OBJECT *digest = NULL;
	ASN1_INTEGER *serial = NULL;
	OCSP_CERTID *own;
	bool same;

	if (OCSP_id_get0_info(NULL, &digest, NULL, &serial, id) != 1)
		return false;
	if (!issuer)
		return !ASN1_INTEGER_cmp(serial, X509_get0_serialNumber(cert));
	own = OCSP_cert_to_id(EVP_get_digestbyobj(digest), cert, issuer);
	same = own && !OCSP_id_cmp(own, id);
	OCSP_CERTID_free(own);
	return same;
}

/* Seconds since 1970; 0: it is no time. */
static int64_t seconds_of(const ASN1_GENERALIZEDTIME *t)
{
	struct tm tm;

	return t && ASN1_TIME_to_tm(t, &tm) == 1 ? (int64_t)timegm(&tm) : 0;
}

/* What <basic> says of the certificate. NULL: it is good. */
static const char *judge(struct lb_tls_staple *s, OCSP_BASICRESP *basic, SSL_CTX *ctx)
{
	X509 *cert = SSL_CTX_get0_certificate(ctx), *issuer = find_issuer(ctx, cert);

	for (int i = 0; i < OCSP_resp_count(basic); i++) {
		OCSP_SINGLERESP *single = OCSP_resp_get0(basic, i);
		ASN1_GENERALIZEDTIME *begin = NULL, *next = NULL;
		int status;

		if (!is_about((OCSP_CERTID *)OCSP_SINGLERESP_get0_id(single), cert, issuer))
			continue;
		status = OCSP_single_get0_status(single, NULL, NULL, &begin, &next);
		s->expiry = seconds_of(next);
		if (status == V_OCSP_CERTSTATUS_REVOKED)
			return "says that the certificate is revoked";
		if (status != V_OCSP_CERTSTATUS_GOOD)
			return "does not know the certificate";
		if (!s->expiry)
			return "does not say how long it is good (nextUpdate)";
		if (seconds_of(begin) > (int64_t)time(NULL) + CLOCK_SKEW_S)
			return "is not valid yet";
		return NULL;
	}
	return "is about another certificate";
}

/* 0, -EINVAL or -ENOMEM. */
static int take(struct lb_tls_staple *s, SSL_CTX *ctx, const char *path,
		struct lb_tls_problem *problem)
{
	__attribute__((cleanup(free_response))) OCSP_RESPONSE *response = NULL;
	__attribute__((cleanup(free_basic))) OCSP_BASICRESP *basic = NULL;
	const unsigned char *at = s->data;
	const char *wrong;

	response = d2i_OCSP_RESPONSE(NULL, &at, s->size);
	if (!response || at != s->data + s->size)
		return complain(problem, path, "is no OCSP response (DER)");
	if (OCSP_response_status(response) != OCSP_RESPONSE_STATUS_SUCCESSFUL)
		return complain(problem, path,
				OCSP_response_status_str(OCSP_response_status(response)));
	basic = OCSP_response_get1_basic(response);
	if (!basic)
		return complain(problem, path, "is an OCSP response of an unknown kind");
	wrong = judge(s, basic, ctx);
	return wrong ? complain(problem, path, wrong) : 0;
}

int lb_tls_staple_new(struct lb_tls_staple **ret, SSL_CTX *ctx, const char *path,
		      struct lb_tls_problem *problem)
{
	LB_AUTO(lb_tls_staple_free) struct lb_tls_staple *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	err = lb_tls_context_read("ocsp", path, &s->data, &s->size, problem);
	if (err)
		return err;
	if (s->size > BYTES_MAX)
		return complain(problem, path, "is too large");
	err = take(s, ctx, path, problem);
	if (err)
		return err;
	SSL_CTX_set_tlsext_status_cb(ctx, on_status);
	SSL_CTX_set_tlsext_status_arg(ctx, s);
	*ret = LB_TAKE_PTR(s);
	return 0;
}

void lb_tls_staple_free(struct lb_tls_staple **ps)
{
	struct lb_tls_staple *s = *ps;

	if (!s)
		return;
	*ps = NULL;
	free(s->data);
	free(s);
}

int64_t lb_tls_staple_expiry(const struct lb_tls_staple *s)
{
	return s->expiry;
}
