/* SPDX-License-Identifier: MIT */
/* See instance.h. Must never follow a link somebody else has put there. */
#include "control/instance.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/log.h"

#define NAME_MAX_CHARS 32

struct lb_instance {
	int fd;
	int dir;
	char path[64];
};

bool lb_instance_name_is_valid(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("-_", name[i]))
			return false;
	return len > 0 && len <= NAME_MAX_CHARS;
}

/* Locked, and still the file of that name: the previous holder removes it at its end. */
static int lock_file(int dir)
{
	for (int tries = 0; tries < 100; tries++) {
		LB_AUTO_CLOSE int fd = -1;
		struct stat here, there;

		fd = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
		if (fd < 0)
			return -errno;
		if (flock(fd, LOCK_EX | LOCK_NB))
			return errno == EWOULDBLOCK ? -EBUSY : -errno;
		if (fstat(fd, &here))
			return -errno;
		if (!fstatat(dir, "lock", &there, AT_SYMLINK_NOFOLLOW) &&
		    here.st_ino == there.st_ino && here.st_dev == there.st_dev)
			return LB_TAKE_FD(fd);
	}
	return -EBUSY;
}

int lb_instance_lock(struct lb_instance **ret, const char *name)
{
	LB_AUTO_FREE struct lb_instance *instance = calloc(1, sizeof(*instance));
	LB_AUTO_CLOSE int dir = -1;
	struct stat st;
	int fd;

	if (!instance)
		return -ENOMEM;
	snprintf(instance->path, sizeof(instance->path), "/run/layer4-lb%s%s", name ? "-" : "",
		 name ? name : "");
	if (mkdir(instance->path, 0700) && errno != EEXIST) {
		lb_debug("no instance lock: %s: %s", instance->path, strerror(errno));
		return 0;
	}
	dir = open(instance->path, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	if (dir < 0 || fstat(dir, &st)) {
		if (errno == EACCES)
			return 0;
		lb_err("%s: %s", instance->path, strerror(errno));
		return -errno;
	}
	if (st.st_uid != geteuid() || (st.st_mode & 022)) {
		lb_err("%s: not ours alone (owner %u, mode %o)", instance->path, st.st_uid,
		       st.st_mode & 07777);
		return -EPERM;
	}
	fd = lock_file(dir);
	if (fd == -EBUSY)
		lb_err("another layer4-lb runs as this instance (%s/lock); --instance NAME keeps "
		       "several apart",
		       instance->path);
	else if (fd < 0)
		lb_err("%s/lock: %s", instance->path, strerror(-fd));
	if (fd < 0)
		return fd;
	instance->fd = fd;
	instance->dir = LB_TAKE_FD(dir);
	*ret = LB_TAKE_PTR(instance);
	return 0;
}

void lb_instance_unlock(struct lb_instance **instance)
{
	if (!*instance)
		return;
	/* The name first: who waits for the lock then finds it on a file without a name. */
	(void)unlinkat((*instance)->dir, "lock", 0);
	close((*instance)->fd);
	close((*instance)->dir);
	(void)rmdir((*instance)->path); /* fails when something else is in use there: fine */
	free(*instance);
	*instance = NULL;
}
