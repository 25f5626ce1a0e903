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
	bool shared;
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

bool lb_instance_path(const char *name, const char *file, char *path, size_t size)
{
	int n = snprintf(path, size, "/run/layer4-lb%s%s%s%s", name ? "-" : "", name ? name : "",
			 *file ? "/" : "", file);

	return n > 0 && (size_t)n < size;
}

/* Its folder, ours alone, in <instance>. 0; -errno, logged; -ENOENT: there can be none. */
static int open_folder(struct lb_instance *instance, const char *name)
{
	struct stat st;

	instance->fd = -1;
	(void)lb_instance_path(name, "", instance->path, sizeof(instance->path));
	if (mkdir(instance->path, 0700) && errno != EEXIST) {
		lb_debug("no instance lock: %s: %s", instance->path, strerror(errno));
		return -ENOENT;
	}
	instance->dir = open(instance->path, O_DIRECTORY | O_NOFOLLOW | O_RDONLY | O_CLOEXEC);
	if (instance->dir < 0 || fstat(instance->dir, &st)) {
		if (errno == EACCES)
			return -ENOENT;
		lb_err("%s: %s", instance->path, strerror(errno));
		return -errno;
	}
	if (st.st_uid != geteuid() || (st.st_mode & 022)) {
		lb_err("%s: not ours alone (owner %u, mode %o)", instance->path, st.st_uid,
		       st.st_mode & 07777);
		return -EPERM;
	}
	return 0;
}

static void free_instance(struct lb_instance **pi)
{
	if (!*pi)
		return;
	lb_cleanup_close(&(*pi)->dir);
	free(*pi);
}

int lb_instance_lock(struct lb_instance **ret, const char *name)
{
	LB_AUTO(free_instance) struct lb_instance *instance = calloc(1, sizeof(*instance));
	int fd;

	if (!instance)
		return -ENOMEM;
	instance->dir = -1;
	fd = open_folder(instance, name);
	if (fd)
		return fd == -ENOENT ? 0 : fd;
	fd = lock_file(instance->dir);
	if (fd == -EBUSY)
		lb_err("another layer4-lb runs as this instance (%s/lock); --instance NAME keeps "
		       "several apart",
		       instance->path);
	else if (fd < 0)
		lb_err("%s/lock: %s", instance->path, strerror(-fd));
	if (fd < 0)
		return fd;
	instance->fd = fd;
	*ret = LB_TAKE_PTR(instance);
	return 0;
}

int lb_instance_adopt(struct lb_instance **ret, const char *name, int fd)
{
	LB_AUTO(free_instance) struct lb_instance *instance = calloc(1, sizeof(*instance));
	int err;

	if (!instance)
		return -ENOMEM;
	instance->dir = -1;
	err = open_folder(instance, name);
	if (err)
		return err;
	/* The lock belongs to what is open, and so to everybody who has it open: flock(2). */
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		lb_err("%s/lock: what was handed over is not the lock", instance->path);
		return -EBUSY;
	}
	instance->fd = fd;
	instance->shared = true;
	*ret = LB_TAKE_PTR(instance);
	return 0;
}

void lb_instance_share(struct lb_instance *instance, bool shared)
{
	instance->shared = shared;
}

int lb_instance_fd(const struct lb_instance *instance)
{
	return instance->fd;
}

void lb_instance_unlock(struct lb_instance **instance)
{
	if (!*instance)
		return;
	/* The name first: who waits for the lock then finds it on a file without a name. */
	if (!(*instance)->shared)
		(void)unlinkat((*instance)->dir, "lock", 0);
	close((*instance)->fd);
	close((*instance)->dir);
	if (!(*instance)->shared)
		/* Fails when something else is in use there: fine. */
		(void)rmdir((*instance)->path);
	free(*instance);
	*instance = NULL;
}
