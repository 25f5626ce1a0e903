/* SPDX-License-Identifier: MIT */
/*
 * The test peer: `peer server|client key=value..`, both ends of every end-to-end test.
 *
 * It decides whether the bytes that arrived are the bytes that were sent, and says how each
 * connection ended. It must never know the load balancer, and never wait without a bound. One
 * connection is one thread (two, when it sends and receives at once): the scenarios are orders of
 * blocking steps, and read best as such.
 *
 * Output: `listening` (server, when it is), `waiting` and `holding` (when all connections wait for
 * the go, or reached their hold), at the end one line of JSON. Exit: 0 every connection was as
 * expected, 1 not, 2 usage or setup.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "peer_flow.h"
#include "peer_options.h"

#define FAILURES_SHOWN 8

static struct peer_flow *flows;
static atomic_ulong started, done, waiting, holding;
static volatile sig_atomic_t stopping;
static int go_fd; /* eventfd: readable after the go, for all threads at once */

/* --- one connection -------------------------------------------------------------------------- */

/* Until everything expected arrived, or nothing more will. */
static void await_received(struct peer_flow *f)
{
	const struct peer_plan *p = f->plan;

	while (p->recv != PEER_UNKNOWN && p->rx != RX_NEVER && !f->tx_end && !f->rx_end &&
	       f->received < p->recv && left_ms(p))
		flow_await_news(f);
}

/* Says <word> when all connections have come to the same point. */
static void announce(atomic_ulong *arrived, const char *word)
{
	if (atomic_fetch_add(arrived, 1) + 1 == plan.count) {
		printf("%s\n", word);
		fflush(stdout);
	}
}

/* Until SIGUSR1, or the deadline. */
static void await_go(const struct peer_flow *f)
{
	struct pollfd p = {.fd = go_fd, .events = POLLIN};

	announce(&waiting, "waiting");
	poll(&p, 1, left_ms(f->plan));
}

/* Until standard input closes, the connection fails, or the deadline. */
static void hold(const struct peer_flow *f)
{
	struct pollfd p[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = f->fd}};

	announce(&holding, "holding");
	poll(p, 2, left_ms(f->plan));
}

static void finish_sending(struct peer_flow *f)
{
	if (f->plan->hold || f->plan->patient)
		await_received(f);
	if (f->plan->hold)
		hold(f);
	if (f->tx_end)
		return;
	pause_ms(f->plan, f->plan->end_delay_ms);
	f->tx_end = "done";
	switch (f->plan->end) {
	case END_FIN:
		shutdown(f->fd, SHUT_WR);
		break;
	case END_CLOSE:
		close(f->fd);
		f->fd = -1;
		break;
	case END_RST:
		flow_reset(f);
		break;
	default:
		break;
	}
}

static void *send_all(void *arg)
{
	struct peer_flow *f = arg;

	flow_send_upto(f, f->plan->send);
	finish_sending(f);
	return NULL;
}

static void receive_all(struct peer_flow *f)
{
	struct pollfd p[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = f->fd}};

	if (f->fd < 0) {
		flow_rx_ends(f, "closed");
	} else if (f->plan->rx == RX_NEVER) {
		poll(p, 2, left_ms(f->plan));
		flow_rx_ends(f, "unread");
	} else if (!flow_recv_upto(f, f->plan->rst_after)) {
		/* Only a flow that was told to reset ever gets here. */
		flow_reset(f);
		flow_rx_ends(f, "own_rst");
	}
}

static void pingpong(struct peer_flow *f)
{
	const struct peer_plan *p = f->plan;
	uint64_t at;

	for (at = p->chunk; at <= p->send; at += p->chunk) {
		if (p->server && flow_recv_upto(f, at))
			return;
		if (flow_send_upto(f, at))
			return;
		if (!p->server && flow_recv_upto(f, at))
			return;
	}
}

static void socket_options(int fd)
{
	int one = 1, rcvbuf = (int)plan.rcvbuf, sndbuf = (int)plan.sndbuf;
	unsigned pace = (unsigned)plan.pace;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (rcvbuf)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
	if (sndbuf)
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
	if (pace)
		setsockopt(fd, SOL_SOCKET, SO_MAX_PACING_RATE, &pace, sizeof(pace));
}

static void flow_run(struct peer_flow *f)
{
	pthread_t sender;

	if (f->plan->go)
		await_go(f);
	switch (f->plan->order) {
	case ORDER_SEND:
		send_all(f);
		receive_all(f);
		break;
	case ORDER_RECV:
		receive_all(f);
		send_all(f);
		break;
	case ORDER_PINGPONG:
		pingpong(f);
		finish_sending(f);
		if (!f->rx_end)
			receive_all(f);
		break;
	default:
		if (pthread_create(&sender, NULL, send_all, f)) {
			f->tx_end = "no_thread";
			return;
		}
		receive_all(f);
		pthread_join(sender, NULL);
	}
}

/* --- the two roles --------------------------------------------------------------------------- */

static struct addrinfo *resolve(const char *host, const char *port)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *ai;
	int err = getaddrinfo(host, port, &hints, &ai);

	if (err) {
		fprintf(stderr, "peer: %s: %s\n", host, gai_strerror(err));
		exit(2);
	}
	return ai;
}

static int open_socket(const struct addrinfo *ai)
{
	int proto = plan.mptcp ? IPPROTO_MPTCP : 0, one = 1;
	int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, proto);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	socket_options(fd);
	return fd;
}

static int flow_connect(struct peer_flow *f, const struct addrinfo *to, const struct addrinfo *from)
{
	uint64_t begin = now_ms();
	int err = 0;
	socklen_t len = sizeof(err);

	f->fd = open_socket(to);
	if (f->fd < 0)
		return f->fd;
	if (from && bind(f->fd, from->ai_addr, from->ai_addrlen))
		return -errno;
	if (connect(f->fd, to->ai_addr, to->ai_addrlen)) {
		if (errno != EINPROGRESS)
			return -errno;
		if (flow_wait(f, POLLOUT))
			return -ETIMEDOUT;
		getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	}
	f->connect_ms = now_ms() - begin;
	return -err;
}

static struct peer_flow *flow_next(int fd)
{
	uint64_t i = atomic_fetch_add(&started, 1);
	struct peer_flow *f = &flows[i];

	*f = (struct peer_flow){
		.plan = &plan,
		.index = i,
		.tx_seed = plan.seed + i,
		.fd = fd,
		.bad_at = PEER_UNKNOWN,
		.tx_pipe = {-1, -1},
		.rx_pipe = {-1, -1},
		.file = -1,
	};
	sem_init(&f->news, 0, 0);
	return f;
}

static void *client_thread(void *arg)
{
	const struct addrinfo **ends_of = arg;

	while (started < plan.count) {
		struct peer_flow *f = flow_next(-1);
		int r;

		/* Another thread may have taken the last one in between; the slot is spare. */
		if (f->index >= plan.count)
			break;
		r = flow_init(f);
		if (!r)
			r = flow_connect(f, ends_of[0], ends_of[1]);
		if (r)
			f->rx_end = f->tx_end = flow_error(f, r);
		else
			flow_run(f);
		flow_fini(f);
		done++;
	}
	return NULL;
}

static void *server_thread(void *arg)
{
	struct peer_flow *f = arg;
	int r = flow_init(f);

	if (r)
		f->rx_end = f->tx_end = flow_error(f, r);
	else
		flow_run(f);
	flow_fini(f);
	done++;
	return NULL;
}

static pthread_t thread(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t id;
	int err;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 256 * 1024);
	err = pthread_create(&id, &attr, fn, arg);
	if (err) {
		fprintf(stderr, "peer: thread: %s\n", strerror(err));
		exit(2);
	}
	pthread_attr_destroy(&attr);
	return id;
}

static void run_client(const struct addrinfo *to, const struct addrinfo *from)
{
	const struct addrinfo *both[] = {to, from};
	pthread_t *ids = calloc(plan.parallel, sizeof(*ids));
	uint64_t i;

	for (i = 0; ids && i < plan.parallel; i++)
		ids[i] = thread(client_thread, both);
	for (i = 0; ids && i < plan.parallel; i++)
		pthread_join(ids[i], NULL);
	free(ids);
}

static void on_signal(int sig)
{
	if (sig == SIGUSR1)
		eventfd_write(go_fd, 1);
	else
		stopping = 1;
}

static void run_server(const struct addrinfo *at, uint64_t room)
{
	struct pollfd p = {.fd = open_socket(at), .events = POLLIN};

	if (p.fd < 0 || bind(p.fd, at->ai_addr, at->ai_addrlen) ||
	    listen(p.fd, (int)plan.backlog)) {
		fprintf(stderr, "peer: %s port %lu: %s\n", plan.host, plan.port, strerror(errno));
		exit(2);
	}
	printf("listening\n");
	fflush(stdout);
	pause_ms(&plan, plan.accept_delay_ms);
	while (started < room && (!plan.count || started < plan.count) && !stopping &&
	       left_ms(&plan)) {
		int fd = poll(&p, 1, 50) > 0 ? accept4(p.fd, NULL, NULL, SOCK_NONBLOCK) : -1;

		if (fd < 0)
			continue;
		socket_options(fd);
		pthread_detach(thread(server_thread, flow_next(fd)));
	}
	close(p.fd);
	while (done < started)
		poll(NULL, 0, 2);
}

/* --- the report ------------------------------------------------------------------------------ */

static const char *end_word(const struct peer_flow *f)
{
	/* The error of a socket is told once: whichever direction heard it speaks for both. */
	if (f->tx_end && !strcmp(f->tx_end, "rst"))
		return "rst";
	return f->rx_end ? f->rx_end : "none";
}

static bool flow_ok(const struct peer_flow *f)
{
	const char *word = end_word(f);

	if (f->bad_at != PEER_UNKNOWN)
		return false;
	if (plan.expect == EXPECT_ANY)
		return true;
	if (plan.expect == EXPECT_RST)
		return !strcmp(word, "rst");
	return (!strcmp(word, "fin") || !strcmp(word, "closed")) && f->tx_end &&
	       !strcmp(f->tx_end, "done") &&
	       (plan.recv == PEER_UNKNOWN || f->received == plan.recv);
}

/* What the two ends of one connection must agree on, whatever order connections arrived in. */
static uint64_t pair_digest(const struct peer_flow *f)
{
	uint64_t tx = f->sent >= 8 ? f->tx_seed : f->tx_seed & ((1ull << 8 * f->sent) - 1);
	uint64_t up = plan.server ? f->rx_seed : tx, down = plan.server ? tx : f->rx_seed;

	return pattern_word(pattern_word(up, 1), down | 1ull << 63);
}

static void print_tally(const char *name, uint64_t n, const char *(*word)(const struct peer_flow *))
{
	struct {
		const char *word;
		uint64_t count;
	} seen[32] = {0};
	uint64_t i, k;

	for (i = 0; i < n; i++) {
		const char *w = word(&flows[i]);

		for (k = 0; k < 31 && seen[k].word && strcmp(seen[k].word, w); k++)
			;
		seen[k].word = w;
		seen[k].count++;
	}
	printf(",\"%s\":{", name);
	for (k = 0; k < 32 && seen[k].word; k++)
		printf("%s\"%s\":%lu", k ? "," : "", seen[k].word, seen[k].count);
	printf("}");
}

static const char *send_word(const struct peer_flow *f)
{
	return f->tx_end ? f->tx_end : "none";
}

static bool report(uint64_t n, uint64_t ms)
{
	uint64_t i, ok = 0, sent = 0, received = 0, pairs = 0, connect_ms = 0, shown = 0;

	for (i = 0; i < n; i++) {
		ok += flow_ok(&flows[i]);
		sent += flows[i].sent;
		received += flows[i].received;
		pairs += pair_digest(&flows[i]);
		if (flows[i].connect_ms > connect_ms)
			connect_ms = flows[i].connect_ms;
	}
	printf("{\"role\":\"%s\",\"flows\":%lu,\"ok\":%lu,\"sent\":%lu,\"received\":%lu,"
	       "\"pairs\":\"%016lx\",\"connect_ms_max\":%lu,\"duration_ms\":%lu",
	       plan.server ? "server" : "client", n, ok, sent, received, pairs, connect_ms, ms);
	print_tally("ends", n, end_word);
	print_tally("sends", n, send_word);
	printf(",\"failures\":[");
	for (i = 0; i < n && shown < FAILURES_SHOWN; i++) {
		const struct peer_flow *f = &flows[i];

		if (flow_ok(f))
			continue;
		printf("%s\"flow %lu: sent %lu (%s), received %lu (%s)", shown++ ? "," : "", i,
		       f->sent, send_word(f), f->received, end_word(f));
		if (f->bad_at != PEER_UNKNOWN)
			printf(", wrong byte at %lu of stream %lu", f->bad_at, f->rx_seed);
		printf("\"");
	}
	printf("]}\n");
	return ok == n && (!plan.count || n == plan.count);
}

int main(int argc, char **argv)
{
	uint64_t begin = now_ms(), room;
	static struct addrinfo *at, *from; /* static: nobody frees what lives as long as we do */
	char port[8];

	options_parse(argc, argv);
	signal(SIGPIPE, SIG_IGN);
	go_fd = eventfd(0, EFD_CLOEXEC);
	signal(SIGTERM, on_signal);
	signal(SIGUSR1, on_signal);
	plan.deadline = begin + plan.deadline_ms;
	/* Last resort: a wait without a bound would be a bug of this program. */
	alarm((unsigned)(plan.deadline_ms / 1000) + 10);
	snprintf(port, sizeof(port), "%lu", plan.port);
	at = resolve(plan.host, port);
	from = plan.from ? resolve(plan.from, "0") : NULL;
	/* A client thread that comes too late still takes a slot before it sees that. */
	room = plan.count ? plan.count + plan.parallel : 65536;
	flows = calloc(room, sizeof(*flows));
	if (!flows)
		return 2;
	if (plan.server)
		run_server(at, room);
	else
		run_client(at, from);
	/* Client threads that found nothing left to do have counted themselves in <started>. */
	return report(plan.server ? started : plan.count, now_ms() - begin) ? 0 : 1;
}
