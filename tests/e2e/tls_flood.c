/* SPDX-License-Identifier: MIT */
/*
 * A TLS 1.3 client that sends COUNT KeyUpdates: tls_flood ADDR PORT WHAT COUNT
 *   keyupdate            one after the other
 *   keyupdate_requested  .. each asking for one of the server's
 *   keyupdate_data       .. with a byte behind each that is echoed
 * Prints how many were sent before the server had enough; 0 unless something else went wrong.
 */
#include <arpa/inet.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <openssl/ssl.h>

static int fail(const char *what)
{
	fprintf(stderr, "tls_flood: %s failed\n", what);
	return 1;
}

static SSL *open_tls(SSL_CTX *ctx, const char *addr, const char *port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	SSL *ssl = SSL_new(ctx);

	inet_pton(AF_INET, addr, &in.sin_addr);
	SSL_set_min_proto_version(ssl, TLS1_3_VERSION);
	if (connect(fd, (struct sockaddr *)&in, sizeof(in)) || !SSL_set_fd(ssl, fd) ||
	    SSL_connect(ssl) != 1)
		return NULL;
	return ssl;
}

int main(int argc, char **argv)
{
	int type, count, sent = 0, echoed = 0;
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	bool data;
	SSL *ssl;

	if (argc != 5)
		return fail("the command line");
	signal(SIGPIPE, SIG_IGN);
	type = strstr(argv[3], "requested") ? SSL_KEY_UPDATE_REQUESTED
					    : SSL_KEY_UPDATE_NOT_REQUESTED;
	data = strstr(argv[3], "data");
	count = atoi(argv[4]);
	ssl = open_tls(ctx, argv[1], argv[2]);
	if (!ssl)
		return fail("connecting");
	for (; sent < count; sent++) {
		char byte = 'x';

		if (SSL_key_update(ssl, type) != 1 || SSL_do_handshake(ssl) != 1)
			break;
		if (!data)
			continue;
		if (SSL_write(ssl, &byte, 1) != 1 || SSL_read(ssl, &byte, 1) != 1)
			break;
		echoed++;
	}
	printf("%d sent, %d echoed\n", sent, echoed);
	SSL_shutdown(ssl);
	SSL_CTX_free(ctx);
	SSL_free(ssl);
	return 0;
}
