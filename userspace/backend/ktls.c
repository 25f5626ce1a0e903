/* SPDX-License-Identifier: MIT */
/* See ktls.h. Must never say that the kernel seals without having seen it do so. */
#include "backend/ktls.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "base/addr.h"
#include "base/cleanup.h"

#define PROBE_MS 1000
/* BIO_CTRL_SET_KTLS: <openssl/bio.h> has it in a comment. */
#define SET_KTLS 72
/* A record of TLS 1.3: header, payload, its type, tag. */
#define HEADER_BYTES 5
#define TAG_BYTES    TLS_CIPHER_AES_GCM_128_TAG_SIZE

/* --- probe ------------------------------------------------------------------------------------ */

struct ends {
	int from, to;
};

static void ends_close(struct ends *e)
{
	if (e->from >= 0)
		close(e->from);
	if (e->to >= 0)
		close(e->to);
}

/* A connection within this host, by way of <family>. */
static int connect_ends(struct ends *e, int family)
{
	struct lb_addr addr = {.sa.sa_family = (sa_family_t)family};
	socklen_t len = family == AF_INET6 ? sizeof(addr.in6) : sizeof(addr.in4);
	LB_AUTO_CLOSE int listener = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (family == AF_INET6)
		addr.in6.sin6_addr = in6addr_loopback;
	else
		addr.in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (listener < 0 || bind(listener, &addr.sa, len) || listen(listener, 1) ||
	    getsockname(listener, &addr.sa, &len))
		return -errno;
	e->from = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (e->from < 0 || connect(e->from, &addr.sa, len))
		return -errno;
	e->to = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	return e->to < 0 ? -errno : 0;
}

/* Opens <record> as its receiver would. */
static bool is_sealed(const struct tls12_crypto_info_aes_gcm_128 *keys, unsigned char *record,
		      const char *text, int len)
{
	unsigned char iv[12], opened[64];
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n = 0;
	bool good;

	memcpy(iv, keys->salt, sizeof(keys->salt));
	memcpy(iv + sizeof(keys->salt), keys->iv, sizeof(keys->iv));
	good = ctx && EVP_DecryptInit_ex(ctx, EVP_aes_128_gcm(), NULL, keys->key, iv) == 1 &&
	       EVP_DecryptUpdate(ctx, NULL, &n, record, HEADER_BYTES) == 1 &&
	       EVP_DecryptUpdate(ctx, opened, &n, record + HEADER_BYTES, len + 1) == 1 &&
	       EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_BYTES,
				   record + HEADER_BYTES + len + 1) == 1 &&
	       EVP_DecryptFinal_ex(ctx, opened + n, &n) == 1 && !memcmp(opened, text, (size_t)len);
	EVP_CIPHER_CTX_free(ctx);
	return good;
}

static int try_record(const struct ends *e, const struct tls12_crypto_info_aes_gcm_128 *keys)
{
	static const char text[] = "sealed by the kernel";
	const int len = (int)sizeof(text);
	const ssize_t size = HEADER_BYTES + len + 1 + TAG_BYTES;
	struct pollfd arrival = {.fd = e->to, .events = POLLIN};
	unsigned char record[128];

	if (send(e->from, text, sizeof(text), MSG_NOSIGNAL) != len)
		return -errno;
	/* It comes as one segment. */
	if (poll(&arrival, 1, PROBE_MS) != 1)
		return -ETIMEDOUT;
	if (recv(e->to, record, sizeof(record), 0) != size || !is_sealed(keys, record, text, len))
		return -EBADMSG;
	return 0;
}

int lb_ktls_probe(char *why, size_t size)
{
	/* Any will do: who knows them sees only what is probed with. */
	const struct tls12_crypto_info_aes_gcm_128 keys = {
		.info = {.version = TLS_1_3_VERSION, .cipher_type = TLS_CIPHER_AES_GCM_128},
		.iv = "initial",
		.key = "not a secret",
		.salt = "salt"};
	__attribute__((cleanup(ends_close))) struct ends e = {-1, -1};
	int err = connect_ends(&e, AF_INET);

	if (err) {
		ends_close(&e);
		e = (struct ends){-1, -1};
		err = connect_ends(&e, AF_INET6);
	}
	if (err) {
		snprintf(why, size, "no connection over loopback to try it: %s", strerror(-err));
		return err;
	}
	if (setsockopt(e.from, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls"))) {
		err = -errno;
		snprintf(why, size, "%s",
			 err == -ENOENT ? "the kernel has no module tls, or none is loaded"
					: strerror(-err));
		return err;
	}
	if (setsockopt(e.from, SOL_TLS, TLS_TX, &keys, sizeof(keys)))
		err = -errno;
	else
		err = try_record(&e, &keys);
	if (err)
		snprintf(why, size, "what the kernel was to seal did not arrive: %s",
			 strerror(-err));
	return err;
}

/* --- connections ------------------------------------------------------------------------------ */

static BIO_METHOD *method;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A socket that takes keys for sending alone. */
static long control(BIO *bio, int cmd, long num, void *ptr)
{
	if (cmd == SET_KTLS && !num)
		return 0;
	return BIO_meth_get_ctrl(BIO_s_socket())(bio, cmd, num, ptr);
}

static void make_method(void)
{
	const BIO_METHOD *socket = BIO_s_socket();
	BIO_METHOD *m = BIO_meth_new(BIO_TYPE_SOCKET, "socket, kTLS to send");

	if (m && BIO_meth_set_write(m, BIO_meth_get_write(socket)) == 1 &&
	    BIO_meth_set_read(m, BIO_meth_get_read(socket)) == 1 &&
	    BIO_meth_set_puts(m, BIO_meth_get_puts(socket)) == 1 &&
	    BIO_meth_set_create(m, BIO_meth_get_create(socket)) == 1 &&
	    BIO_meth_set_destroy(m, BIO_meth_get_destroy(socket)) == 1 &&
	    BIO_meth_set_ctrl(m, control) == 1)
		method = m;
	else
		BIO_meth_free(m);
}

void lb_ktls_offer(SSL *ssl, int fd)
{
	BIO *bio;

	pthread_once(&once, make_method);
	bio = method ? BIO_new(method) : NULL;
	if (!bio)
		return;
	BIO_set_fd(bio, fd, BIO_NOCLOSE);
	SSL_set_bio(ssl, bio, bio);
	SSL_set_options(ssl, SSL_OP_ENABLE_KTLS);
}

bool lb_ktls_sends(const SSL *ssl)
{
	return BIO_get_ktls_send(SSL_get_wbio(ssl));
}

bool lb_ktls_may_close(int fd)
{
	uint32_t memory[SK_MEMINFO_VARS];
	socklen_t len = sizeof(memory);

	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &len) || len < sizeof(memory))
		return true;
	/* TCP refuses a record when its buffer is full. Once half of it is free again, which is as
	 * much as a record and more, the kernel has sent the rest, or can at the close. */
	return memory[SK_MEMINFO_WMEM_QUEUED] <= memory[SK_MEMINFO_SNDBUF] / 2;
}
