/* SPDX-License-Identifier: MIT */
/*
 * Throws datagrams at a port: gossip_flood FROM TO PORT PER_SECOND SECONDS < REAL
 *
 * REAL: datagrams that were on their way to somebody, each behind its length in two bytes. In turn:
 * noise, one that is cut, one with a bit flipped, one as it is. Prints how many were sent, and how
 * many answers came.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH     50u
#define REAL_MAX  256u
#define BYTES_MAX 1472u

static uint8_t real[REAL_MAX][BYTES_MAX];
static size_t real_len[REAL_MAX], real_count;
static uint64_t state;

static void fail(const char *what)
{
	fprintf(stderr, "gossip_flood: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* xorshift */
static uint64_t next(uint64_t below)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state % below;
}

static void read_real(void)
{
	uint8_t head[2];

	while (real_count < REAL_MAX && fread(head, 1, 2, stdin) == 2) {
		size_t len = (size_t)head[0] << 8 | head[1];

		if (!len || len > BYTES_MAX || fread(real[real_count], 1, len, stdin) != len)
			fail("stdin");
		real_len[real_count++] = len;
	}
	if (!real_count)
		fail("no datagrams on stdin");
}

static size_t make(uint64_t number, uint8_t *to)
{
	size_t which = next(real_count), len = real_len[which];

	memcpy(to, real[which], len);
	switch (number % 4) {
	case 0:
		len = 1 + next(BYTES_MAX);
		for (size_t i = 0; i + 8 <= len; i += 8)
			memcpy(to + i, &(uint64_t){next(UINT64_MAX)}, 8);
		break;
	case 1:
		len = next(len);
		break;
	case 2:
		to[next(len)] ^= (uint8_t)(1u << next(8));
		break;
	default:
		break;
	}
	return len;
}

static int open_socket(const char *from, const char *to, const char *port)
{
	struct sockaddr_in own = {.sin_family = AF_INET}, peer = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	peer.sin_port = htons((uint16_t)atoi(port));
	if (fd < 0 || inet_pton(AF_INET, from, &own.sin_addr) != 1 ||
	    inet_pton(AF_INET, to, &peer.sin_addr) != 1 ||
	    bind(fd, (struct sockaddr *)&own, sizeof(own)) ||
	    connect(fd, (struct sockaddr *)&peer, sizeof(peer)))
		fail("socket");
	return fd;
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Those that the kernel took. */
static uint64_t send_batch(int fd, uint64_t number)
{
	static uint8_t bytes[BATCH][BYTES_MAX];
	struct mmsghdr messages[BATCH] = {};
	struct iovec parts[BATCH];
	int n;

	for (unsigned int i = 0; i < BATCH; i++) {
		parts[i] = (struct iovec){bytes[i], make(number + i, bytes[i])};
		messages[i].msg_hdr.msg_iov = &parts[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	n = sendmmsg(fd, messages, BATCH, 0);
	return n > 0 ? (uint64_t)n : 0;
}

static uint64_t answers(int fd)
{
	uint64_t n = 0;
	uint8_t byte;

	while (recv(fd, &byte, 1, MSG_DONTWAIT) >= 0)
		n++;
	return n;
}

int main(int argc, char **argv)
{
	uint64_t begin, end, due, number = 0, sent = 0;
	int fd;

	if (argc != 6)
		return 2;
	read_real();
	if (getrandom(&state, sizeof(state), 0) != sizeof(state))
		fail("getrandom");
	state |= 1;
	fd = open_socket(argv[1], argv[2], argv[3]);
	begin = now_ns();
	end = begin + (uint64_t)(atof(argv[5]) * 1e9);
	for (uint64_t now = begin; now < end; now = now_ns()) {
		due = (uint64_t)((double)(now - begin) / 1e9 * atof(argv[4]));
		if (number >= due) {
			nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
			continue;
		}
		sent += send_batch(fd, number);
		number += BATCH;
	}
	sleep(1);
	printf("%llu %llu\n", (unsigned long long)sent, (unsigned long long)answers(fd));
	close(fd);
	return 0;
}
