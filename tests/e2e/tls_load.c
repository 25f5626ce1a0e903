/* SPDX-License-Identifier: MIT */
/*
 * TLS clients that do one thing for a while, as fast as it goes:
 *
 *   tls_load ADDR PORT WHAT SECONDS CLIENTS VERSION
 *
 *   full      connect, shake hands, a byte there and back, close; again. Behind it: an echo
 *   resumed   the same with a session of before
 *   send      writes to what reads to the end and then says something (throughput sink)
 *   receive   asks lb-demo-backend --http for /bytes/.., reads
 *
 * CLIENTS are processes: as threads they would wait for each other's locks in OpenSSL. VERSION is
 * 1.2 or 1.3. Nobody verifies the certificate. Prints one JSON object.
 *
 * Must never count what did not happen as asked: a session that should have been resumed and was
 * not (or the other way round), a byte that did not come back, a stream that was cut are errors.
 */
#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

#define CLIENTS_MAX 256
#define ERRORS_MAX  100u /* then a client gives up: something is wrong, and it shows */
#define PIECE       16384
#define ASKED       (UINT64_C(1) << 30)
#define REQUEST     "GET /bytes/1073741824 HTTP/1.1\r\nHost: load\r\n\r\n"

struct tally {
	uint64_t count; /* connections */
	uint64_t bytes;
	uint64_t errors;
};

struct load {
	struct sockaddr_in to;
	double end; /* CLOCK_MONOTONIC, s */
	SSL_CTX *ctx;
	SSL_SESSION *session; /* NULL: handshakes in full */
	struct tally *tally;
};

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static bool goes_on(const struct load *l)
{
	return now() < l->end && l->tally->errors < ERRORS_MAX;
}

/* Connected and shaken hands; NULL otherwise. */
static SSL *open_tls(struct load *l)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	SSL *ssl = SSL_new(l->ctx);

	if (fd >= 0 && ssl && !connect(fd, (struct sockaddr *)&l->to, sizeof(l->to)) &&
	    !setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) &&
	    SSL_set_fd(ssl, fd) == 1 && (!l->session || SSL_set_session(ssl, l->session) == 1) &&
	    SSL_connect(ssl) == 1)
		return ssl;
	SSL_free(ssl);
	if (fd >= 0)
		close(fd);
	return NULL;
}

static void close_tls(SSL *ssl)
{
	int fd = SSL_get_fd(ssl);

	SSL_shutdown(ssl);
	SSL_free(ssl);
	close(fd);
}

/* --- handshakes ------------------------------------------------------------------------------- */

/* One connection. The ticket of TLS 1.3 comes with the echo: *session is then one to resume. */
static bool shake(struct load *l, SSL_SESSION **session)
{
	SSL *ssl = open_tls(l);
	char byte = 'x';
	bool good;

	if (!ssl)
		return false;
	good = SSL_write(ssl, &byte, 1) == 1 && SSL_read(ssl, &byte, 1) == 1 && byte == 'x' &&
	       SSL_session_reused(ssl) == (l->session != NULL);
	if (good && session)
		*session = SSL_get1_session(ssl);
	close_tls(ssl);
	return good;
}

static void shake_hands(struct load *l, bool resumed)
{
	SSL_SESSION *session = NULL;

	if (resumed && (!shake(l, &session) || !session)) {
		l->tally->errors++;
		return;
	}
	l->session = session;
	while (goes_on(l)) {
		if (shake(l, NULL))
			l->tally->count++;
		else
			l->tally->errors++;
	}
	SSL_SESSION_free(session);
}

/* --- bulk ------------------------------------------------------------------------------------- */

/* What was written counts when the peer has ended in good order: then it has read all of it. */
static void send_bulk(struct load *l)
{
	SSL *ssl = open_tls(l);
	uint64_t written = 0;
	char data[PIECE];
	int n = 1;

	if (!ssl) {
		l->tally->errors++;
		return;
	}
	memset(data, 'x', sizeof(data));
	while (n > 0 && goes_on(l)) {
		n = SSL_write(ssl, data, sizeof(data));
		written += n > 0 ? (uint64_t)n : 0;
	}
	if (n > 0 && SSL_shutdown(ssl) >= 0) {
		while (SSL_read(ssl, data, sizeof(data)) > 0)
			;
	}
	if (SSL_get_shutdown(ssl) == (SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN))
		l->tally->bytes = written;
	else
		l->tally->errors++;
	l->tally->count = 1;
	close_tls(ssl);
}

static void receive_bulk(struct load *l)
{
	SSL *ssl = open_tls(l);
	uint64_t asked = 0;
	char data[PIECE];
	int n = 1;

	if (!ssl) {
		l->tally->errors++;
		return;
	}
	while (n > 0 && goes_on(l)) {
		/* With the header more comes than asked for: the next request is there in time. */
		if (l->tally->bytes >= asked) {
			n = SSL_write(ssl, REQUEST, sizeof(REQUEST) - 1);
			asked += ASKED;
			continue;
		}
		n = SSL_read(ssl, data, sizeof(data));
		l->tally->bytes += n > 0 ? (uint64_t)n : 0;
	}
	if (n <= 0)
		l->tally->errors++;
	l->tally->count = 1;
	close_tls(ssl);
}

/* ---------------------------------------------------------------------------------------------- */

static int usage(void)
{
	fprintf(stderr, "usage: tls_load ADDR PORT full|resumed|send|receive SECONDS CLIENTS "
			"1.2|1.3\n");
	return 2;
}

static int run(struct load *l, const char *what)
{
	if (!strcmp(what, "full"))
		shake_hands(l, false);
	else if (!strcmp(what, "resumed"))
		shake_hands(l, true);
	else if (!strcmp(what, "send"))
		send_bulk(l);
	else if (!strcmp(what, "receive"))
		receive_bulk(l);
	else
		return usage();
	return 0;
}

static bool set_up(struct load *l, char **argv)
{
	int version = !strcmp(argv[6], "1.2") ? TLS1_2_VERSION : TLS1_3_VERSION;

	l->to.sin_family = AF_INET;
	l->to.sin_port = htons((uint16_t)atoi(argv[2]));
	l->ctx = SSL_CTX_new(TLS_client_method());
	return inet_pton(AF_INET, argv[1], &l->to.sin_addr) == 1 && l->ctx &&
	       SSL_CTX_set_min_proto_version(l->ctx, version) == 1 &&
	       SSL_CTX_set_max_proto_version(l->ctx, version) == 1;
}

int main(int argc, char **argv)
{
	struct tally *tallies = mmap(NULL, CLIENTS_MAX * sizeof(*tallies), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct tally sum = {0};
	struct load l = {0};
	double start = now();
	int clients, failed = 0, status;

	if (argc != 7 || tallies == MAP_FAILED || !set_up(&l, argv))
		return usage();
	signal(SIGPIPE, SIG_IGN);
	l.end = start + atof(argv[4]);
	clients = atoi(argv[5]);
	if (clients < 1 || clients > CLIENTS_MAX)
		return usage();
	for (int i = 0; i < clients; i++) {
		l.tally = &tallies[i];
		if (fork() == 0)
			_exit(run(&l, argv[3]));
	}
	while (wait(&status) > 0)
		failed |= status;
	for (int i = 0; i < clients; i++) {
		sum.count += tallies[i].count;
		sum.bytes += tallies[i].bytes;
		sum.errors += tallies[i].errors;
	}
	printf("{\"count\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"errors\": %" PRIu64
	       ", \"seconds\": %.6f}\n",
	       sum.count, sum.bytes, sum.errors, now() - start);
	SSL_CTX_free(l.ctx);
	return failed ? 1 : 0;
}
