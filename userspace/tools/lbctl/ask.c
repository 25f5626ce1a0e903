/* SPDX-License-Identifier: MIT */
/* See ask.h. */
#include "tools/lbctl/ask.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

#define PATIENCE_S 60
#define REPLY_MAX  (256u << 20)

static void put(struct lb_ask *a, const char *bytes, size_t len)
{
	/* Room for the newline stays. */
	if (a->failed || len > sizeof(a->text) - 1 - a->len) {
		a->failed = true;
		return;
	}
	memcpy(a->text + a->len, bytes, len);
	a->len += len;
}

static void put_quoted(struct lb_ask *a, const char *word)
{
	if (*word && !strpbrk(word, " \"\\")) {
		put(a, word, strlen(word));
		return;
	}
	put(a, "\"", 1);
	for (; *word; word++) {
		if (*word == '"' || *word == '\\')
			put(a, "\\", 1);
		put(a, word, 1);
	}
	put(a, "\"", 1);
}

void lb_ask_add(struct lb_ask *a, const char *word)
{
	if (a->len)
		put(a, " ", 1);
	put_quoted(a, word);
}

void lb_ask_add_option(struct lb_ask *a, const char *key, const char *value)
{
	put(a, " ", 1);
	put(a, key, strlen(key));
	put(a, "=", 1);
	put_quoted(a, value);
}

static int connect_to(const char *path, int flags)
{
	const struct timeval patience = {.tv_sec = PATIENCE_S};
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	LB_AUTO_CLOSE int fd = -1;

	if (strlen(path) >= sizeof(addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(addr.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    connect(fd, (const struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	return LB_TAKE_FD(fd);
}

int lb_ask_connect(const char *path)
{
	return connect_to(path, 0);
}

int lb_ask_connect_now(const char *path)
{
	return connect_to(path, SOCK_NONBLOCK);
}

static int send_all(int fd, const char *bytes, size_t len)
{
	while (len) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		bytes += n;
		len -= (size_t)n;
	}
	return 0;
}

/* Up to the newline, which is the last byte a daemon sends before it is asked again. */
static int read_line(int fd, char **ret, size_t *ret_len)
{
	LB_AUTO_FREE char *bytes = NULL;
	size_t len = 0, room = 0;

	while (!len || bytes[len - 1] != '\n') {
		ssize_t n;

		if (len == room) {
			char *grown = NULL;

			room = room ? room * 2 : 65536;
			if (room <= REPLY_MAX)
				grown = realloc(bytes, room);
			if (!grown)
				return -ENOMEM;
			bytes = grown;
		}
		n = recv(fd, bytes + len, room - len, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EPIPE;
		len += (size_t)n;
	}
	bytes[len - 1] = '\0';
	*ret_len = len - 1;
	*ret = LB_TAKE_PTR(bytes);
	return 0;
}

int lb_ask_send(int fd, struct lb_ask *a, char **reply, size_t *len)
{
	int err;

	if (a->failed)
		return -EMSGSIZE;
	a->text[a->len++] = '\n';
	err = send_all(fd, a->text, a->len);
	/* One that has no room for us says so and hangs up: what it said counts. */
	return err && err != -EPIPE ? err : read_line(fd, reply, len);
}
