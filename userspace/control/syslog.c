/* SPDX-License-Identifier: MIT */
/*
 * See syslog.h. A line goes out as syslog(3) would send it: "<30>Jan 31 12:00:00 layer4-lb[1]: ",
 * local time. Must never wait for the reader.
 */
#include "control/syslog.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

void lb_syslog_init(struct lb_syslog *s, const char *path, int facility)
{
	*s = (struct lb_syslog){.fd = -1, .path = path, .priority = facility | LOG_INFO};
}

static int connect_to(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	LB_AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	return LB_TAKE_FD(fd);
}

/* Names of months are English whatever the locale: ours is "C". */
static size_t format_head(const struct lb_syslog *s, char *buf, size_t size)
{
	time_t now = time(NULL);
	char when[32];
	struct tm tm;

	localtime_r(&now, &tm);
	strftime(when, sizeof(when), "%b %e %H:%M:%S", &tm);
	return (size_t)snprintf(buf, size, "<%d>%s layer4-lb[%d]: ", s->priority, when,
				(int)getpid());
}

int lb_syslog_send(struct lb_syslog *s, const char *line, size_t len)
{
	char head[96];
	struct iovec parts[] = {{head, format_head(s, head, sizeof(head))}, {(void *)line, len}};
	const struct msghdr msg = {.msg_iov = parts, .msg_iovlen = LB_ARRAY_SIZE(parts)};
	int err;

	if (s->fd < 0)
		s->fd = connect_to(s->path);
	if (s->fd < 0)
		return s->fd;
	while (sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN || errno == EMSGSIZE)
			return -errno;
		/* ECONNREFUSED, ENOTCONN: the reader has gone, the next one has another socket. */
		err = -errno;
		lb_syslog_fini(s);
		return err;
	}
	return 0;
}

void lb_syslog_fini(struct lb_syslog *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}
