/* SPDX-License-Identifier: MIT */
/*
 * See notify.h. One datagram a message. libsystemd would bring five libraries into a process that
 * holds CAP_BPF, for these forty lines. Must never fail a start: who is not told waits or gives up.
 */
#include "base/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

#define MESSAGE_BYTES 512

/* A path, or a name that begins with '@': no file then. 0 or -EINVAL. */
static int address_of(const char *name, struct sockaddr_un *addr, socklen_t *len)
{
	size_t n = strlen(name);

	if ((*name != '/' && *name != '@') || n < 2 || n >= sizeof(addr->sun_path))
		return -EINVAL;
	*addr = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(addr->sun_path, name, n);
	if (*name == '@')
		addr->sun_path[0] = '\0';
	*len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
	return 0;
}

static int send_to(const char *name, const char *text, size_t len)
{
	const struct timeval patience = {.tv_sec = 1};
	LB_AUTO_CLOSE int fd = -1;
	struct sockaddr_un addr;
	socklen_t addr_len;
	int err = address_of(name, &addr, &addr_len);

	if (err)
		return err;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    sendto(fd, text, len, MSG_NOSIGNAL, (const struct sockaddr *)&addr, addr_len) < 0)
		return -errno;
	return 0;
}

int lb_notify(const char *fmt, ...)
{
	const char *name = getenv("NOTIFY_SOCKET");
	char text[MESSAGE_BYTES];
	va_list args;
	int len;

	if (!name || !*name)
		return 0;
	va_start(args, fmt);
	len = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (len < 0 || (size_t)len >= sizeof(text))
		return -EMSGSIZE;
	return send_to(name, text, (size_t)len);
}

/* A positive number that is all of <text>; 0: it is none. */
static uint64_t number_of(const char *text)
{
	unsigned long long n;
	char *end;

	if (!text || *text < '0' || *text > '9')
		return 0;
	errno = 0;
	n = strtoull(text, &end, 10);
	return errno || *end ? 0 : n;
}

uint64_t lb_notify_watchdog_us(void)
{
	const char *pid = getenv("WATCHDOG_PID");

	/* Of another process: it has been inherited. */
	if (pid && number_of(pid) != (uint64_t)getpid())
		return 0;
	return number_of(getenv("WATCHDOG_USEC"));
}
