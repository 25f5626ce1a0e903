/* SPDX-License-Identifier: MIT */
/*
 * A TLS client that sends COUNT of what is no payload: tls_flood ADDR PORT WHAT COUNT
 *   keyupdate            TLS 1.3: one after the other
 *   keyupdate_requested  .. each asking for one of the server's
 *   keyupdate_data       .. with a byte behind each that is echoed; keyupdate_requested_data: both
 *   empty                TLS 1.2: records with nothing in them
 *   hello                TLS 1.2: beginnings of a ClientHello, as if to renegotiate
 *   warning              TLS 1.2: alerts that end nothing
 * Prints how many were sent before the server had enough; 0 unless something else went wrong.
 *
 * No library sends what TLS 1.2 is to get here: these records are sealed by hand.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/ssl.h>

static int fail(const char *what)
{
	fprintf(stderr, "tls_flood: %s failed\n", what);
	return 1;
}

static SSL *open_tls(SSL_CTX *ctx, int version, const char *addr, const char *port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	SSL *ssl = SSL_new(ctx);

	inet_pton(AF_INET, addr, &in.sin_addr);
	SSL_set_min_proto_version(ssl, version);
	SSL_set_max_proto_version(ssl, version);
	/* The one that seal() knows. */
	SSL_set_cipher_list(ssl, "ECDHE+AESGCM+AES128");
	/* A KeyUpdate's acknowledgement shall not hold the byte behind it back. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)) || !SSL_set_fd(ssl, fd) ||
	    SSL_connect(ssl) != 1)
		return NULL;
	return ssl;
}

/* --- KeyUpdates ------------------------------------------------------------------------------- */

static int send_key_updates(SSL *ssl, const char *what, int count, int *echoed)
{
	int type =
		strstr(what, "requested") ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED;
	bool data = strstr(what, "data");
	int sent;

	for (sent = 0; sent < count; sent++) {
		char byte = 'x';

		if (SSL_key_update(ssl, type) != 1 || SSL_do_handshake(ssl) != 1)
			break;
		if (!data)
			continue;
		if (SSL_write(ssl, &byte, 1) != 1 || SSL_read(ssl, &byte, 1) != 1)
			break;
		++*echoed;
	}
	return sent;
}

/* --- records of TLS 1.2, AES-128-GCM (RFC 5246, 6.3; RFC 5288, 3) ----------------------------- */

struct sealer {
	EVP_CIPHER_CTX *cipher;
	unsigned char key[16], salt[4];
	uint64_t number; /* of the next record */
};

static bool find_keys(SSL *ssl, struct sealer *s)
{
	unsigned char master[48], randoms[64], block[40];
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, (char *)"SHA256", 0),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SECRET, master, sizeof(master)),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, (char *)"key expansion", 13),
		OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SEED, randoms, sizeof(randoms)),
		OSSL_PARAM_construct_end(),
	};
	EVP_KDF *kdf = EVP_KDF_fetch(NULL, "TLS1-PRF", NULL);
	EVP_KDF_CTX *ctx = EVP_KDF_CTX_new(kdf);
	bool good;

	SSL_SESSION_get_master_key(SSL_get_session(ssl), master, sizeof(master));
	SSL_get_server_random(ssl, randoms, 32);
	SSL_get_client_random(ssl, randoms + 32, 32);
	good = ctx && EVP_KDF_derive(ctx, block, sizeof(block), params) == 1;
	memcpy(s->key, block, sizeof(s->key));
	memcpy(s->salt, block + 32, sizeof(s->salt));
	s->cipher = EVP_CIPHER_CTX_new();
	s->number = 1; /* 0 was Finished */
	EVP_KDF_CTX_free(ctx);
	EVP_KDF_free(kdf);
	return good && s->cipher;
}

static void put_be(unsigned char *to, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		to[i] = (unsigned char)(value >> 8 * (bytes - 1 - i));
}

/* A whole record at <to>; its size. */
static size_t seal(struct sealer *s, unsigned char *to, int type, const unsigned char *data,
		   size_t len)
{
	unsigned char nonce[12], head[13];
	int n;

	put_be(head, s->number++, 8);
	put_be(head + 8, (uint64_t)type << 16 | 0x0303, 3);
	put_be(head + 11, len, 2);
	memcpy(nonce, s->salt, 4);
	memcpy(nonce + 4, head, 8);
	EVP_EncryptInit_ex(s->cipher, EVP_aes_128_gcm(), NULL, s->key, nonce);
	EVP_EncryptUpdate(s->cipher, NULL, &n, head, sizeof(head));
	EVP_EncryptUpdate(s->cipher, to + 13, &n, data, (int)len);
	EVP_EncryptFinal_ex(s->cipher, to + 13 + len, &n);
	EVP_CIPHER_CTX_ctrl(s->cipher, EVP_CTRL_GCM_GET_TAG, 16, to + 13 + len);
	memcpy(to, head + 8, 3);
	put_be(to + 3, 8 + len + 16, 2);
	memcpy(to + 5, nonce + 4, 8);
	return 13 + len + 16;
}

static int send_records(SSL *ssl, const char *what, int count)
{
	static const unsigned char hello[4] = {1, 0, 0, 100}, warning[2] = {1, 90};
	struct sealer s = {0};
	unsigned char batch[100 * 64];
	int fd = SSL_get_fd(ssl), sent = 0;

	if (!find_keys(ssl, &s))
		return -1;
	while (sent < count) {
		size_t size = 0;

		for (int i = 0; i < 100; i++) {
			if (!strcmp(what, "hello"))
				size += seal(&s, batch + size, 22, hello, sizeof(hello));
			else if (!strcmp(what, "warning"))
				size += seal(&s, batch + size, 21, warning, sizeof(warning));
			else
				size += seal(&s, batch + size, 23, hello, 0);
		}
		if (send(fd, batch, size, MSG_NOSIGNAL) != (ssize_t)size)
			break;
		sent += 100;
	}
	EVP_CIPHER_CTX_free(s.cipher);
	return sent;
}

int main(int argc, char **argv)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	int sent, echoed = 0;
	bool new;
	SSL *ssl;

	if (argc != 5)
		return fail("the command line");
	signal(SIGPIPE, SIG_IGN);
	new = strstr(argv[3], "keyupdate");
	ssl = open_tls(ctx, new ? TLS1_3_VERSION : TLS1_2_VERSION, argv[1], argv[2]);
	if (!ssl)
		return fail("connecting");
	sent = new ? send_key_updates(ssl, argv[3], atoi(argv[4]), &echoed)
		   : send_records(ssl, argv[3], atoi(argv[4]));
	if (sent < 0)
		return fail("finding the keys");
	printf("%d sent, %d echoed\n", sent, echoed);
	SSL_shutdown(ssl);
	SSL_CTX_free(ctx);
	SSL_free(ssl);
	return 0;
}
