/* SPDX-License-Identifier: MIT */
/*
 * Messages at a fixed rate over kept connections to an echo, and how long each took:
 *
 *   paced_load ADDR PORT RATE SECONDS CONNECTIONS
 *
 * RATE is of all connections together, per second. A message is due at its time, whether or not
 * those before have been answered, and is timed from then: who keeps a client waiting is charged
 * for all that it would have sent meanwhile. From one to the next it is anything up to twice the
 * mean: work in step with the kernel's tick would be seen by each or by none of them, and the CPU
 * time of /proc/stat is what they see. The times are the same in each run. Prints one JSON object.
 *
 * Must never count what did not happen: a byte that is not the one sent, a connection that ends, a
 * message that is not answered WAIT_S after the last one are errors.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024
#define SIZE            64
#define EVENTS          256
#define WAIT_S          5
#define NS              1000000000ull

struct message {
	uint64_t due; /* ns after the begin */
	char bytes[SIZE];
};

struct connection {
	int fd;
	size_t at; /* bytes of the answer that are here */
	struct message message;
	struct connection *next_free;
};

struct load {
	struct connection *connections;
	struct connection *free, *last_free; /* whoever was answered first speaks first */
	uint64_t rate, total, count;         /* per second, messages, connections */
	uint64_t begin;                      /* ns */
	uint64_t sent, answered, errors;     /* messages */
	uint64_t *due;                       /* ns after the begin, of each message */
	uint32_t *took;                      /* us, of those answered */
	int epoll;
};

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS + (uint64_t)ts.tv_nsec;
}

static void set_times(struct load *l)
{
	unsigned short seed[3] = {1, 2, 3};
	double at = 0;

	for (uint64_t i = 0; i < l->total; i++) {
		at += erand48(seed) * 2 * (double)NS / (double)l->rate;
		l->due[i] = (uint64_t)at;
	}
}

/* --- one connection --------------------------------------------------------------------------- */

static void give_up(struct load *l, struct connection *c)
{
	l->errors++;
	close(c->fd);
	c->fd = -1;
}

static void set_free(struct load *l, struct connection *c)
{
	c->next_free = NULL;
	*(l->free ? &l->last_free->next_free : &l->free) = c;
	l->last_free = c;
}

/* The next message, whose time has come. An echo takes SIZE bytes at any time. */
static void say(struct load *l)
{
	struct connection *c = l->free;

	l->free = c->next_free;
	c->at = 0;
	c->message.due = l->due[l->sent++];
	memset(c->message.bytes, (int)(l->sent & 0xff), SIZE);
	if (send(c->fd, c->message.bytes, SIZE, MSG_NOSIGNAL) != SIZE)
		give_up(l, c);
}

static void hear(struct load *l, struct connection *c)
{
	char got[SIZE + 1];
	ssize_t n = recv(c->fd, got, sizeof(got) - c->at, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0 || c->at + (size_t)n > SIZE ||
	    memcmp(got, c->message.bytes + c->at, (size_t)n)) {
		give_up(l, c);
		return;
	}
	c->at += (size_t)n;
	if (c->at < SIZE)
		return;
	l->took[l->answered++] = (uint32_t)((now() - l->begin - c->message.due) / 1000);
	set_free(l, c);
}

static bool open_connection(struct load *l, struct connection *c, const struct sockaddr_in *to)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
	int one = 1;

	c->fd = socket(AF_INET, SOCK_STREAM, 0);
	if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)to, sizeof(*to)) ||
	    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
	    epoll_ctl(l->epoll, EPOLL_CTL_ADD, c->fd, &event))
		return false;
	set_free(l, c);
	return true;
}

/* --- all of them ------------------------------------------------------------------------------ */

/* ns until something is to be done without an answer; 0: now. */
static uint64_t time_left(const struct load *l)
{
	uint64_t at, t = now();

	if (l->sent < l->total && l->free)
		at = l->begin + l->due[l->sent];
	else
		at = l->begin + l->due[l->total - 1] + WAIT_S * NS;
	return at > t ? at - t : 0;
}

static void run(struct load *l)
{
	struct epoll_event events[EVENTS];

	l->begin = now();
	while (l->answered + l->errors < l->total && l->errors < l->count) {
		uint64_t left = time_left(l);
		struct timespec ts = {(time_t)(left / NS), (long)(left % NS)};
		int n;

		if (!left && (l->sent == l->total || !l->free))
			break;
		n = epoll_pwait2(l->epoll, events, EVENTS, &ts, NULL);
		for (int i = 0; i < n; i++)
			hear(l, events[i].data.ptr);
		while (l->free && l->sent < l->total && l->begin + l->due[l->sent] <= now())
			say(l);
	}
	l->errors += l->total - l->answered - l->errors;
}

static int compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static uint32_t share(const struct load *l, uint64_t thousandths)
{
	return l->answered ? l->took[(l->answered - 1) * thousandths / 1000] : 0;
}

static void tell(const struct load *l)
{
	qsort(l->took, l->answered, sizeof(*l->took), compare);
	printf("{\"count\": %" PRIu64 ", \"seconds\": %.6f, \"p50_us\": %u, \"p99_us\": %u, "
	       "\"p999_us\": %u, \"max_us\": %u, \"errors\": %" PRIu64 "}\n",
	       l->answered, (double)l->total / (double)l->rate, share(l, 500), share(l, 990),
	       share(l, 999), share(l, 1000), l->errors);
}

static bool parse(struct load *l, char **argv, struct sockaddr_in *to)
{
	uint64_t seconds = strtoull(argv[4], NULL, 10);

	*to = (struct sockaddr_in){.sin_family = AF_INET,
				   .sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10))};
	l->rate = strtoull(argv[3], NULL, 10);
	l->count = strtoull(argv[5], NULL, 10);
	l->total = l->rate * seconds;
	return inet_pton(AF_INET, argv[1], &to->sin_addr) == 1 && l->rate && l->rate <= 1000000 &&
	       seconds && seconds <= 3600 && l->count && l->count <= CONNECTIONS_MAX;
}

int main(int argc, char **argv)
{
	struct load l = {.epoll = epoll_create1(0)};
	struct sockaddr_in to;
	int code = 2;

	if (argc != 6 || !parse(&l, argv, &to)) {
		fprintf(stderr, "usage: paced_load ADDR PORT RATE SECONDS CONNECTIONS\n");
		return 2;
	}
	/* By default a timer may be 50 us late. */
	prctl(PR_SET_TIMERSLACK, 1);
	l.connections = calloc(l.count, sizeof(*l.connections));
	l.due = calloc(l.total, sizeof(*l.due));
	l.took = calloc(l.total, sizeof(*l.took));
	if (l.epoll < 0 || !l.connections || !l.due || !l.took)
		goto out;
	set_times(&l);
	for (uint64_t i = 0; i < l.count; i++)
		if (!open_connection(&l, &l.connections[i], &to)) {
			perror("paced_load: connect");
			goto out;
		}
	run(&l);
	tell(&l);
	code = 0;
out:
	free(l.took);
	free(l.due);
	free(l.connections);
	return code;
}
