/* SPDX-License-Identifier: MIT */
/*
 * See access_log_output.h. A file takes everything at once. A pipe or the like gets chunks of
 * PIPE_BUF, each of them whole lines: one that polls as writable takes those without blocking,
 * though standard output usually is in blocking mode and not ours to switch, and unmixed with what
 * others write to it. The syslog gets a datagram a line.
 */
#include "control/access_log_output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The standard stream that <path> names, or -1. */
static int std_stream(const char *path)
{
	if (!strcmp(path, "stdout"))
		return STDOUT_FILENO;
	return strcmp(path, "stderr") ? -1 : STDERR_FILENO;
}

bool lb_access_log_output_is_file(const char *path)
{
	return std_stream(path) < 0;
}

int lb_access_log_output_open(const char *path)
{
	/* O_NONBLOCK is for named pipes: neither opening nor writing one may block. */
	const int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int stream = std_stream(path), fd;

	if (stream >= 0)
		fd = fcntl(stream, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	else
		fd = open(path, flags, 0640);
	return fd >= 0 ? fd : -errno;
}

void lb_access_log_output_set(struct lb_access_log_output *o, int fd)
{
	struct stat st;

	o->fd = fd;
	o->to_syslog = false;
	o->atomic_chunks = fstat(fd, &st) || !S_ISREG(st.st_mode);
}

void lb_access_log_output_set_syslog(struct lb_access_log_output *o, const char *socket,
				     int facility)
{
	o->fd = -1;
	o->to_syslog = true;
	lb_syslog_init(&o->syslog, socket, facility);
}

void lb_access_log_output_close(struct lb_access_log_output *o)
{
	if (o->to_syslog)
		lb_syslog_fini(&o->syslog);
	else if (o->fd >= 0)
		close(o->fd);
	o->fd = -1;
}

static bool writable(int fd)
{
	struct pollfd out = {.fd = fd, .events = POLLOUT};

	return poll(&out, 1, 0) > 0; /* also when it is broken: write(2) then says how */
}

/* Up to the last line that ends within PIPE_BUF, or that much of a longer line. */
static size_t chunk_len(const char *text, size_t len)
{
	const char *end;

	if (len <= PIPE_BUF)
		return len;
	end = memrchr(text, '\n', PIPE_BUF);
	return end ? (size_t)(end + 1 - text) : PIPE_BUF;
}

/* The first line, newline included. */
static ssize_t write_syslog(struct lb_access_log_output *o, const char *text, size_t len)
{
	const char *end = memchr(text, '\n', len);
	size_t line = end ? (size_t)(end - text) : len;
	int err = lb_syslog_send(&o->syslog, text, line);

	o->fd = o->syslog.fd;
	return err ? err : (ssize_t)line + !!end;
}

ssize_t lb_access_log_output_write(struct lb_access_log_output *o, const char *text, size_t len)
{
	ssize_t n;

	if (o->to_syslog)
		return write_syslog(o, text, len);
	if (o->atomic_chunks) {
		if (!writable(o->fd))
			return -EAGAIN;
		len = chunk_len(text, len);
	}
	do
		n = write(o->fd, text, len);
	while (n < 0 && errno == EINTR);
	if (!n)
		return -EIO;
	return n > 0 ? n : -errno;
}
