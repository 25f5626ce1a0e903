/* SPDX-License-Identifier: MIT */
/*
 * See file_watch.h. The directories on the way to the file are watched, each one in which a name is
 * looked up that may become another: inotify(7) follows inodes, not names. All of it is set up anew
 * after each event, so that nothing piles up and nothing is missed: a change between two set-ups is
 * seen in the state.
 */
#include "control/file_watch.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

/* As the kernel has it. */
#define LINKS_MAX 40

struct state {
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

struct lb_file_watch {
	char *path;
	int fd;
	struct state known;
};

static bool get_state(const char *path, struct state *ret)
{
	struct stat st;

	/* An empty file is one that somebody is about to write. */
	if (stat(path, &st) || !st.st_size)
		return false;
	*ret = (struct state){st.st_dev, st.st_ino, st.st_size, st.st_mtim};
	return true;
}

static bool is_same(const struct state *a, const struct state *b)
{
	return a->dev == b->dev && a->ino == b->ino && a->size == b->size &&
	       a->mtime.tv_sec == b->mtime.tv_sec && a->mtime.tv_nsec == b->mtime.tv_nsec;
}

/* The directory in which the last name of <path> is looked up; a file that is not there is fine. */
static void watch_parent(int fd, const char *path)
{
	const uint32_t events = IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO |
				IN_CLOSE_WRITE | IN_DELETE_SELF | IN_MOVE_SELF | IN_ONLYDIR;
	char dir[PATH_MAX];
	char *slash;

	snprintf(dir, sizeof(dir), "%s", path);
	slash = strrchr(dir, '/');
	if (!slash)
		snprintf(dir, sizeof(dir), ".");
	else if (slash == dir)
		slash[1] = '\0';
	else
		*slash = '\0';
	(void)inotify_add_watch(fd, dir, events);
}

/*
 * The first name of <path> that is a link: <path> becomes what it leads to. False: there is none.
 * The directory that has the link is watched.
 */
static bool follow_link(int fd, char path[PATH_MAX])
{
	for (size_t end = 1; end <= strlen(path); end++) {
		char prefix[PATH_MAX], target[PATH_MAX], next[3 * PATH_MAX];
		const char *slash;
		ssize_t len;

		if (path[end] != '/' && path[end] != '\0')
			continue;
		snprintf(prefix, sizeof(prefix), "%.*s", (int)end, path);
		len = readlink(prefix, target, sizeof(target) - 1);
		if (len < 0)
			continue;
		target[len] = '\0';
		watch_parent(fd, prefix);
		slash = strrchr(prefix, '/');
		if (*target == '/' || !slash)
			snprintf(next, sizeof(next), "%s%s", target, path + end);
		else
			snprintf(next, sizeof(next), "%.*s/%s%s", (int)(slash - prefix), prefix,
				 target, path + end);
		snprintf(path, PATH_MAX, "%.*s", PATH_MAX - 1, next);
		return true;
	}
	return false;
}

/* 0 or -errno. */
static int set_up(struct lb_file_watch *w)
{
	LB_AUTO_CLOSE int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	char path[PATH_MAX];

	if (fd < 0)
		return -errno;
	snprintf(path, sizeof(path), "%s", w->path);
	for (int i = 0; i < LINKS_MAX && follow_link(fd, path); i++)
		;
	watch_parent(fd, path);
	/* It may be mounted: then its directory sees nothing. */
	(void)inotify_add_watch(fd, path, IN_CLOSE_WRITE);
	if (w->fd >= 0)
		close(w->fd);
	w->fd = LB_TAKE_FD(fd);
	return 0;
}

int lb_file_watch_open(struct lb_file_watch **ret, const char *path)
{
	LB_AUTO(lb_file_watch_close) struct lb_file_watch *w = calloc(1, sizeof(*w));
	int err;

	if (!w)
		return -ENOMEM;
	w->fd = -1;
	w->path = strdup(path);
	if (!w->path)
		return -ENOMEM;
	err = set_up(w);
	if (err)
		return err;
	(void)get_state(w->path, &w->known);
	*ret = LB_TAKE_PTR(w);
	return 0;
}

void lb_file_watch_close(struct lb_file_watch **pw)
{
	struct lb_file_watch *w = *pw;

	if (!w)
		return;
	*pw = NULL;
	if (w->fd >= 0)
		close(w->fd);
	free(w->path);
	free(w);
}

int lb_file_watch_fd(const struct lb_file_watch *w)
{
	return w->fd;
}

void lb_file_watch_look(struct lb_file_watch *w)
{
	char events[4096];

	/* Without descriptors the old set stays: its events must not be seen again. */
	if (set_up(w))
		while (read(w->fd, events, sizeof(events)) > 0)
			;
}

bool lb_file_watch_is_new(struct lb_file_watch *w)
{
	struct state now;

	if (!get_state(w->path, &now) || is_same(&now, &w->known))
		return false;
	w->known = now;
	return true;
}
