/* SPDX-License-Identifier: MIT */
/* See tool.h. Nothing here prints: the tools say what failed, they know what it was for. */
#include "tools/common/tool.h"

#include <ctype.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include "base/cleanup.h"

int lb_tool_listen(const struct lb_addr *addr)
{
	LB_AUTO_CLOSE int fd = -1;
	const int one = 1;

	fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		return -errno;
	if (addr->sa.sa_family == AF_INET6 &&
	    setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)) < 0)
		return -errno;
	if (bind(fd, &addr->sa, lb_addr_len(addr)) < 0)
		return -errno;
	if (listen(fd, SOMAXCONN) < 0)
		return -errno;
	return LB_TAKE_FD(fd);
}

int lb_tool_accept(int fd)
{
	const int one = 1;
	int conn = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (conn < 0)
		return -errno;
	/* Only latency depends on it. */
	(void)setsockopt(conn, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return conn;
}

void lb_tool_close(struct lb_loop *loop, struct lb_watch *w)
{
	int fd = w->fd;

	if (fd < 0)
		return;
	lb_watch_remove(loop, w, true);
	close(fd);
}

int lb_tool_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	unsigned long long value;
	char *end;

	/* strtoull() takes blanks and a sign; a number on our command lines has neither. */
	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end || value < min || value > max)
		return -EINVAL;
	*ret = value;
	return 0;
}

int lb_tool_parse_size(const char *text, uint64_t *ret)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} units[] = {
		{"", 1},
		{"B", 1},
		{"KB", 1000},
		{"MB", 1000000},
		{"GB", 1000000000},
		{"KiB", 1ull << 10},
		{"MiB", 1ull << 20},
		{"GiB", 1ull << 30},
	};
	unsigned long long value;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || value == 0)
		return -EINVAL;
	for (size_t i = 0; i < LB_ARRAY_SIZE(units); i++) {
		if (strcmp(end, units[i].name) != 0)
			continue;
		if (value > UINT64_MAX / units[i].bytes)
			return -EINVAL;
		*ret = value * units[i].bytes;
		return 0;
	}
	return -EINVAL;
}

void lb_tool_raise_nofile(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

static struct lb_loop *stop_loop;

static void on_signal(struct lb_watch *w, uint32_t events)
{
	struct signalfd_siginfo info;

	if (read(w->fd, &info, sizeof(info)) == sizeof(info))
		lb_loop_stop(stop_loop);
}

int lb_tool_stop_on_signal(struct lb_loop *loop)
{
	static struct lb_watch watch = {.fd = -1};
	LB_AUTO_CLOSE int fd = -1;
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return -errno;
	fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	stop_loop = loop;
	r = lb_watch_add(loop, &watch, fd, EPOLLIN, on_signal);
	if (r < 0)
		return r;
	(void)LB_TAKE_FD(fd);
	return 0;
}
