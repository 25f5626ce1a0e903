/* SPDX-License-Identifier: MIT */
/* See keepalive.h. */
#include "flow/keepalive.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* Unanswered so often, a third of the time apart. */
#define PROBES 3

static void set(int fd, int level, int option, int value)
{
	(void)setsockopt(fd, level, option, &value, sizeof(value));
}

/* The kernel counts in seconds: never sooner than asked for. */
static int seconds(uint64_t ms)
{
	return (int)((ms + 999) / 1000);
}

void lb_keepalive_set(int fd, const struct lb_timeouts_config *timeouts)
{
	if (timeouts->keepalive_ms) {
		set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
		set(fd, IPPROTO_TCP, TCP_KEEPIDLE, seconds(timeouts->keepalive_ms));
		set(fd, IPPROTO_TCP, TCP_KEEPINTVL, seconds(timeouts->keepalive_ms / PROBES));
		set(fd, IPPROTO_TCP, TCP_KEEPCNT, PROBES);
	}
	if (timeouts->user_timeout_ms)
		set(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)timeouts->user_timeout_ms);
}
