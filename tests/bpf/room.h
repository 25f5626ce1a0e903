/* SPDX-License-Identifier: MIT */
/*
 * What every test of this folder starts from: rights (or a skip with the reason), a mount and a
 * network namespace of its own, real TCP connections over its loopback, and a way to see that
 * nothing was left behind.
 */
#ifndef TESTS_BPF_ROOM_H
#define TESTS_BPF_ROOM_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "kernel/pin.h"
#include "kernel/probe.h"

/* "" when the tests can run. */
static char room_missing[256];

#define room_required()                                               \
	do {                                                          \
		if (room_missing[0]) {                                \
			print_message("skipped: %s\n", room_missing); \
			skip();                                       \
		}                                                     \
	} while (0)

static inline int room_loopback_up(void)
{
	LB_AUTO_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};

	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) ? -errno : 0;
}

/* Group setup. Nothing mounted, pinned or sent from here on can be seen from outside. */
static inline int room_enter(void **state)
{
	struct lb_probe probe;

	lb_log_set_level(LB_LOG_ERROR);
	lb_probe_run(&probe);
	if (lb_probe_judge(&probe, room_missing, sizeof(room_missing)) != LB_WHY_NONE)
		return 0;
	if (unshare(CLONE_NEWNS | CLONE_NEWNET) ||
	    mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("bpf", LB_PIN_ROOT, "bpf", 0, "mode=0700") || room_loopback_up())
		snprintf(room_missing, sizeof(room_missing), "no namespaces of our own: %s",
			 strerror(errno));
	return 0;
}

static inline int room_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP), one = 1;

	assert_true(fd >= 0);
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
	/* Always there, and it does not pace. */
	assert_int_equal(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4), 0);
	return fd;
}

/* A connection over loopback whose buffers hold <bytes> (doubled by the kernel) on both ends. */
static inline void room_connect(int bytes, int *active, int *passive)
{
	struct lb_addr addr = {
		.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}};
	LB_AUTO_CLOSE int listener = room_socket();
	socklen_t len = sizeof(addr.in4);

	*active = room_socket();
	for (int i = 0; i < 2; i++) {
		int fd = i ? listener : *active;

		setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
		setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	}
	assert_int_equal(bind(listener, &addr.sa, len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, &addr.sa, &len), 0);
	assert_int_equal(connect(*active, &addr.sa, len), 0);
	*passive = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(*passive >= 0);
}

static inline void room_connect_v6(int *active, int *passive)
{
	struct lb_addr addr = {
		.in6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT}};
	LB_AUTO_CLOSE int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(addr.in6);

	*active = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(listener, &addr.sa, len), 0);
	assert_int_equal(listen(listener, 1), 0);
	assert_int_equal(getsockname(listener, &addr.sa, &len), 0);
	assert_int_equal(connect(*active, &addr.sa, len), 0);
	*passive = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(*passive >= 0);
}

static inline uint64_t room_cookie(int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);

	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len), 0);
	return cookie;
}

static inline struct tcp_info room_tcp_info(int fd)
{
	struct tcp_info ti = {};
	socklen_t len = sizeof(ti);

	assert_int_equal(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &len), 0);
	return ti;
}

static inline bool room_readable(int fd, int timeout_ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, timeout_ms) == 1;
}

static inline int room_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

/* Shared mappings of BPF maps hold the map although its descriptor is closed. */
static inline int room_count_mappings(void)
{
	LB_AUTO_FCLOSE FILE *f = fopen("/proc/self/maps", "re");
	char line[512];
	int n = 0;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "bpf-map") != NULL;
	return n;
}

/* Runs fn in a child that may spoil its rights or die with what it holds. True when fn was. */
static inline bool room_in_child(bool (*fn)(void))
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(fn() ? 0 : 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	return !status;
}

#endif
