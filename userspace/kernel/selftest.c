/* SPDX-License-Identifier: MIT */
/*
 * selftest: decides whether this kernel's redirect may carry strangers' bytes.
 *
 *	sender ~~~> source ==redirect==> sink ~~~> reader
 *
 * Two loopback connections, a small send buffer at the sink and a reader that does not read: the
 * sink fills up, and everything behind it has to survive partial sends (kernels before the floor
 * send the part twice). Then the reader drains and compares. At the end the sender closes, which
 * hands a zero-length skb to the program; dropping it, as sk_verdict does, must be seen as end of
 * file by the source and leave the sink alive.
 *
 * It must never wait without a bound, and never leave a socket, a map or a program behind.
 */
#include "kernel/selftest.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <bpf/bpf.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "kernel/libbpf_log.h"
#include "selftest.skel.h"

#define DEADLINE_MS 2000
/* Small against LB_SELFTEST_BYTES, so that the sink is full many times over; not smaller, because a
 * full sink is looked at once per jiffy and the whole would take half a second. */
#define SINK_SNDBUF (128 * 1024)
/* Several segments of loopback's 64 KB: with less the window itself would stutter. */
#define READER_RCVBUF (256 * 1024)
#define SETTLE_MS     2
#define READ_CHUNK    65536
#define MARKER        0x5a
/* Slots of lb_test_socks, see bpf/selftest.bpf.c. */
#define SLOT_SOURCE 0u
#define SLOT_SINK   1u

struct trial {
	struct selftest *skel;
	int sender, source, sink, reader;
	char *pattern; /* LB_SELFTEST_BYTES */
	uint64_t deadline_ns;
	char *detail;
	size_t detail_size;
};

/* Returns <err>, so that a failure and its sentence are one statement. */
static int __attribute__((format(printf, 3, 4)))
fail(struct trial *t, int err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(t->detail, t->detail_size, fmt, args);
	va_end(args);
	return err;
}

static int remaining_ms(const struct trial *t)
{
	uint64_t now = lb_clock_ns();

	return now >= t->deadline_ns ? 0 : (int)((t->deadline_ns - now + 999999) / 1000000);
}

/* 0 when <fd> is ready, -ETIMEDOUT at the deadline. */
static int wait_for(const struct trial *t, int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	int n;

	do {
		n = poll(&p, 1, remaining_ms(t));
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return n ? 0 : -ETIMEDOUT;
}

/* False once the deadline is over; else sleeps a little. */
static bool nap(const struct trial *t)
{
	int left = remaining_ms(t);

	if (!left)
		return false;
	poll(NULL, 0, left < SETTLE_MS ? left : SETTLE_MS);
	return true;
}

static int stream_socket(sa_family_t family, int *ret)
{
	/* Not protocol 0: a host that turns plain TCP into MPTCP would void the test. */
	int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
	struct linger reset = {.l_onoff = 1};
	int one = 1;

	if (fd < 0)
		return -errno;
	/* Neither end may linger in TIME_WAIT for the sake of a test. */
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	/* Always there, and unlike bbr it does not measure before it sends. */
	setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
	*ret = fd;
	return 0;
}

/* Listens on a loopback address of <family>; *addr becomes the address to connect to. */
static int listen_loopback(sa_family_t family, int *ret, struct lb_addr *addr)
{
	LB_AUTO_CLOSE int fd = -1;
	struct lb_addr a = {};
	socklen_t len;
	int r;

	r = stream_socket(family, &fd);
	if (r)
		return r;
	a.sa.sa_family = family;
	if (family == AF_INET)
		a.in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		a.in6.sin6_addr = in6addr_loopback;
	len = lb_addr_len(&a);
	if (bind(fd, &a.sa, len) || listen(fd, 1) || getsockname(fd, &a.sa, &len))
		return -errno;
	*addr = a;
	*ret = LB_TAKE_FD(fd);
	return 0;
}

/* Two ends; the accepting one has a fixed receive buffer: hosts tune theirs differently. */
static int connect_pair(struct trial *t, sa_family_t family, int *active, int *passive)
{
	LB_AUTO_CLOSE int listener = -1, a = -1, p = -1;
	const int rcvbuf = READER_RCVBUF;
	struct lb_addr addr;
	int r;

	r = listen_loopback(family, &listener, &addr);
	if (!r)
		r = stream_socket(family, &a);
	if (r)
		return r;
	setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof(rcvbuf));
	if (connect(a, &addr.sa, lb_addr_len(&addr)) && errno != EINPROGRESS)
		return -errno;
	r = wait_for(t, listener, POLLIN);
	if (r)
		return r;
	p = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (p < 0)
		return -errno;
	*active = LB_TAKE_FD(a);
	*passive = LB_TAKE_FD(p);
	return 0;
}

static int connect_family(struct trial *t, sa_family_t family)
{
	LB_AUTO_CLOSE int sender = -1, source = -1;
	int r;

	r = connect_pair(t, family, &sender, &source);
	if (!r)
		r = connect_pair(t, family, &t->sink, &t->reader);
	if (r)
		return r;
	t->sender = LB_TAKE_FD(sender);
	t->source = LB_TAKE_FD(source);
	return 0;
}

static int step_connect(struct trial *t)
{
	const int sndbuf = SINK_SNDBUF;
	int r4, r6;

	r4 = connect_family(t, AF_INET);
	if (r4 && r4 != -ETIMEDOUT) {
		r6 = connect_family(t, AF_INET6);
		if (r6)
			return fail(t, -EADDRNOTAVAIL,
				    "no loopback connection to test with: 127.0.0.1: %s, ::1: %s",
				    strerror(-r4), strerror(-r6));
	} else if (r4) {
		return fail(t, r4, "a connection over loopback was not established in time");
	}
	setsockopt(t->sink, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
	return 0;
}

static int step_load(struct trial *t, enum lb_selftest_sabotage sabotage)
{
	int r;

	t->skel = selftest__open();
	if (!t->skel)
		return fail(t, -errno, "open: %s", strerror(errno));
	t->skel->rodata->lose_second = sabotage == LB_SELFTEST_LOSE;
	t->skel->rodata->hold_second = sabotage == LB_SELFTEST_HOLD;
	r = selftest__load(t->skel);
	if (r)
		return fail(t, r, "%s", lb_libbpf_log_cause());
	/* libbpf goes on without it where arrays cannot be mapped (before 5.5), or it thinks so. */
	if (!t->skel->bss)
		return fail(t, -EOPNOTSUPP, "the counters of its program cannot be mapped");
	r = bpf_prog_attach(bpf_program__fd(t->skel->progs.selftest),
			    bpf_map__fd(t->skel->maps.lb_test_socks), BPF_SK_SKB_STREAM_VERDICT, 0);
	if (r)
		return fail(t, r, "attach: %s", strerror(-r));
	return 0;
}

static int insert(struct trial *t, uint32_t slot, int fd)
{
	uint64_t value = (uint64_t)fd;
	int r;

	r = bpf_map_update_elem(bpf_map__fd(t->skel->maps.lb_test_socks), &slot, &value,
				BPF_NOEXIST);
	return r ? fail(t, r, "a socket was refused by the sockmap: %s", strerror(-r)) : 0;
}

static int step_insert(struct trial *t)
{
	int r = insert(t, SLOT_SINK, t->sink);

	return r ? r : insert(t, SLOT_SOURCE, t->source);
}

/* Counters of the program, written by another CPU. */
static __u64 counter(const __u64 *c)
{
	return __atomic_load_n(c, __ATOMIC_RELAXED);
}

/* There is no backpressure: all of it fits into the kernel although nobody reads. */
static int step_push(struct trial *t)
{
	size_t sent = 0;

	while (sent < LB_SELFTEST_BYTES) {
		ssize_t n =
			send(t->sender, t->pattern + sent, LB_SELFTEST_BYTES - sent, MSG_NOSIGNAL);

		if (n > 0)
			sent += (size_t)n;
		else if (errno != EAGAIN && errno != EINTR)
			return fail(t, -errno, "send: %s", strerror(errno));
		else if (wait_for(t, t->sender, POLLOUT))
			return fail(t, -ETIMEDOUT, "the source took only %zu bytes in time", sent);
	}
	while (counter(&t->skel->bss->redirected) < LB_SELFTEST_BYTES)
		if (!nap(t))
			return fail(t, -ETIMEDOUT, "only %llu of %u bytes were redirected in time",
				    counter(&t->skel->bss->redirected), LB_SELFTEST_BYTES);
	return 0;
}

/* Payload that ever entered the send queue of <fd>. */
static uint64_t written(int fd)
{
	struct tcp_info ti = {};
	socklen_t len = sizeof(ti);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len))
		return 0;
	return ti.tcpi_bytes_sent - ti.tcpi_bytes_retrans + ti.tcpi_notsent_bytes;
}

/* Without a stall there were no partial sends and nothing would be proven. */
static int step_stall(struct trial *t)
{
	uint64_t before, now = written(t->sink);

	do {
		before = now;
		if (!nap(t))
			return fail(t, -ETIMEDOUT, "the sink did not come to rest in time");
		now = written(t->sink);
	} while (!now || now != before);
	if (now >= LB_SELFTEST_BYTES)
		return fail(t, -EINVAL, "the sink took everything: nothing was put to the test");
	return 0;
}

static int step_drain(struct trial *t)
{
	char buf[READ_CHUNK];
	size_t got = 0;

	while (got < LB_SELFTEST_BYTES) {
		size_t left = LB_SELFTEST_BYTES - got;
		ssize_t n = recv(t->reader, buf, left < sizeof(buf) ? left : sizeof(buf), 0);

		if (n > 0 && memcmp(buf, t->pattern + got, (size_t)n))
			return fail(t, -EILSEQ, "the stream differs within %zd bytes after %zu", n,
				    got);
		if (n > 0)
			got += (size_t)n;
		else if (!n)
			return fail(t, -EILSEQ, "the stream ended after %zu bytes", got);
		else if (errno != EAGAIN && errno != EINTR)
			return fail(t, -errno, "recv: %s", strerror(errno));
		else if (wait_for(t, t->reader, POLLIN))
			return fail(t, -ETIMEDOUT, "only %zu of %u bytes arrived in time", got,
				    LB_SELFTEST_BYTES);
	}
	return 0;
}

/* The bare FIN reaches the program, its skb is dropped, and the end is seen all the same. */
static int step_fin(struct trial *t)
{
	char byte;

	if (shutdown(t->sender, SHUT_WR))
		return fail(t, -errno, "shutdown: %s", strerror(errno));
	while (!counter(&t->skel->bss->empty))
		if (!nap(t))
			return fail(t, -ETIMEDOUT, "the program did not see the FIN in time");
	while (recv(t->source, &byte, 1, 0) != 0) {
		if (errno != EAGAIN && errno != EINTR)
			return fail(t, -errno, "after the FIN: %s", strerror(errno));
		if (!nap(t))
			return fail(t, -ETIMEDOUT, "the FIN was not seen by recv in time");
	}
	return 0;
}

/* What the daemon writes itself comes right behind the redirected bytes, and nothing between. */
static int step_marker(struct trial *t)
{
	char sent = MARKER, got[2] = {};
	ssize_t n;

	if (send(t->sink, &sent, 1, MSG_NOSIGNAL) != 1)
		return fail(t, -errno, "the sink is dead: %s", strerror(errno));
	if (wait_for(t, t->reader, POLLIN))
		return fail(t, -ETIMEDOUT, "nothing follows the redirected bytes");
	n = recv(t->reader, got, sizeof(got), 0);
	if (n != 1 || got[0] != sent)
		return fail(t, -EILSEQ, "there were bytes too many at the end of the stream");
	return 0;
}

/* No two words alike, so that a piece that is missing, repeated or moved cannot fit. */
static char *make_pattern(void)
{
	uint64_t *words = malloc(LB_SELFTEST_BYTES);

	if (!words)
		return NULL;
	for (uint64_t i = 0; i < LB_SELFTEST_BYTES / sizeof(*words); i++)
		words[i] = (i + 1) * 0x9e3779b97f4a7c15ull;
	return (char *)words;
}

static int run_steps(struct trial *t, enum lb_selftest_sabotage sabotage)
{
	int r;

	t->pattern = make_pattern();
	if (!t->pattern)
		return fail(t, -ENOMEM, "no memory");
	r = step_load(t, sabotage);
	if (!r)
		r = step_connect(t);
	if (!r)
		r = step_insert(t);
	if (!r)
		r = step_push(t);
	if (!r)
		r = step_stall(t);
	if (!r)
		r = step_drain(t);
	if (!r)
		r = step_fin(t);
	if (!r)
		r = step_marker(t);
	return r;
}

/* Sockets first: closing a socket is the only clean way out of a sockmap. */
static void trial_fini(struct trial *t)
{
	int *fds[] = {&t->sender, &t->source, &t->sink, &t->reader};

	for (size_t i = 0; i < LB_ARRAY_SIZE(fds); i++)
		lb_cleanup_close(fds[i]);
	selftest__destroy(t->skel);
	free(t->pattern);
}

int lb_selftest_run(unsigned int deadline_ms, enum lb_selftest_sabotage sabotage,
		    struct lb_selftest *ret)
{
	uint64_t start_ns = lb_clock_ns();
	struct trial t = {
		.sender = -1,
		.source = -1,
		.sink = -1,
		.reader = -1,
		.deadline_ns = start_ns + (deadline_ms ? deadline_ms : DEADLINE_MS) * 1000000ull,
	};
	int r;

	lb_libbpf_log_start();
	*ret = (struct lb_selftest){};
	t.detail = ret->detail;
	t.detail_size = sizeof(ret->detail);
	r = run_steps(&t, sabotage);
	trial_fini(&t);
	ret->ms = (double)(lb_clock_ns() - start_ns) / 1e6;
	return r;
}
