/* SPDX-License-Identifier: MIT */
/* See admin_socket.h. Must never remove what is not a dead socket, or not ours. */
#include "control/admin_socket.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

#define BACKLOG 16
#define DEFAULT "/run/layer4-lb/admin.sock"

bool lb_admin_socket_is_default(const char *configured)
{
	return !strcmp(configured, DEFAULT);
}

bool lb_admin_socket_path(const char *configured, const char *instance,
			  char path[LB_ADMIN_PATH_MAX])
{
	int n;

	if (instance && lb_admin_socket_is_default(configured))
		n = snprintf(path, LB_ADMIN_PATH_MAX, "/run/layer4-lb-%s/admin.sock", instance);
	else
		n = snprintf(path, LB_ADMIN_PATH_MAX, "%s", configured);
	return n >= 0 && (size_t)n < LB_ADMIN_PATH_MAX;
}

/* 0 when nobody is there any more; -EADDRINUSE, -EEXIST, -errno. */
static int remove_dead(const struct sockaddr_un *addr, int type)
{
	LB_AUTO_CLOSE int fd = -1;
	struct stat st;

	if (lstat(addr->sun_path, &st))
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* EAGAIN: somebody listens and is busy. */
	if (!connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) || errno == EAGAIN)
		return -EADDRINUSE;
	if (errno != ECONNREFUSED)
		return errno == ENOENT ? 0 : -errno;
	return unlink(addr->sun_path) && errno != ENOENT ? -errno : 0;
}

static int init(struct lb_admin_socket *s, const char *path)
{
	*s = (struct lb_admin_socket){.fd = -1, .addr.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(s->addr.sun_path))
		return -ENAMETOOLONG;
	memcpy(s->addr.sun_path, path, strlen(path));
	return 0;
}

int lb_admin_socket_adopt(struct lb_admin_socket *s, const char *path, int type, int fd)
{
	struct sockaddr_un addr = {0};
	socklen_t len = sizeof(addr) - 1, size = sizeof(int);
	struct stat st;
	int is = 0, err = init(s, path);

	if (err)
		return err;
	if (getsockname(fd, (struct sockaddr *)&addr, &len) || addr.sun_family != AF_UNIX ||
	    strcmp(addr.sun_path, path) != 0 || getsockopt(fd, SOL_SOCKET, SO_TYPE, &is, &size) ||
	    is != type || lstat(path, &st))
		return -EINVAL;
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	s->shared = true;
	s->fd = fd;
	return 0;
}

int lb_admin_socket_open(struct lb_admin_socket *s, const char *path, int type)
{
	LB_AUTO_CLOSE int fd = -1;
	struct stat st;
	int err = init(s, path);

	if (!err)
		err = remove_dead(&s->addr, type);
	if (err)
		return err;
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	/* The file gets the mode of the socket's inode, less the umask: unix_bind_bsd(),
	 * net/unix/af_unix.c. So there is no moment in which others may connect. */
	if (fd < 0 || fchmod(fd, 0600) ||
	    bind(fd, (const struct sockaddr *)&s->addr, sizeof(s->addr)))
		return -errno;
	if (listen(fd, BACKLOG) || lstat(path, &st)) {
		err = -errno;
		(void)unlink(path);
		return err;
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	s->fd = LB_TAKE_FD(fd);
	return 0;
}

void lb_admin_socket_close(struct lb_admin_socket *s)
{
	struct stat st;

	if (s->fd < 0)
		return;
	if (!s->shared && !lstat(s->addr.sun_path, &st) && st.st_dev == s->dev &&
	    st.st_ino == s->ino)
		(void)unlink(s->addr.sun_path);
	close(s->fd);
	s->fd = -1;
}
