/* SPDX-License-Identifier: MIT */
/*
 * pin: decides whether the directory of the pins can be trusted, and names our objects in it. The
 * root of a BPF file system is often writable for everybody (sticky), so what stands there may be
 * anybody's. It must never follow a symlink, never touch a name it has not judged, and never make
 * the service depend on it: without pins everything else works.
 */
#include "kernel/pin.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "base/cleanup.h"
#include "kernel/note.h"

#define PREFIX    "layer4-lb"
#define PATH_SIZE (64 + LB_PIN_NAME_MAX)

int lb_pin_name(const char *instance, char ret[LB_PIN_NAME_MAX])
{
	size_t len;

	if (!instance) {
		memcpy(ret, PREFIX, sizeof(PREFIX));
		return 0;
	}
	len = strlen(instance);
	if (!len || len > LB_PIN_INSTANCE_MAX)
		return -EINVAL;
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)instance[i]) && instance[i] != '-' &&
		    instance[i] != '_')
			return -EINVAL;
	snprintf(ret, LB_PIN_NAME_MAX, PREFIX "-%s", instance);
	return 0;
}

/*
 * What a failed open(2) means to the caller: nothing there, or, without descriptors or memory, that
 * it cannot be told.
 */
static int absent_or(int err)
{
	return err == EMFILE || err == ENFILE || err == ENOMEM ? -err : -ENOENT;
}

static bool is_bpffs(int fd)
{
	struct statfs fs;

	return !fstatfs(fd, &fs) && fs.f_type == BPF_FS_MAGIC;
}

/* The way to <root> is root's own (sysfs), so only its last component needs O_NOFOLLOW. */
static int open_root(const char *root)
{
	int fd = open(root, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/*
 * Two daemons that start together may both mount. That is harmless: each goes on with the file
 * system it has open, and only bpftool sees the upper one alone.
 */
int lb_pin_root_open(const char *root, bool make, int *ret, char *note_text, size_t size)
{
	LB_AUTO_CLOSE int fd = open_root(root);
	struct lb_note note = {note_text, size};

	if (fd < 0)
		return lb_note(note, absent_or(-fd), "%s: %s", root, strerror(-fd));
	if (!is_bpffs(fd) && make) {
		if (mount("bpf", root, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"))
			return lb_note(note, -ENOENT,
				       "%s is no BPF file system and mounting one failed: %s", root,
				       strerror(errno));
		close(fd);
		fd = open_root(root);
	}
	if (fd < 0)
		return lb_note(note, absent_or(-fd), "%s: %s", root, strerror(-fd));
	if (!is_bpffs(fd))
		return lb_note(note, -ENOENT, "%s is no BPF file system", root);
	*ret = LB_TAKE_FD(fd);
	return 0;
}

/* Ours, and closed to everybody else (P1). */
static int judge_dir(int fd, const char *name, struct lb_note note)
{
	struct stat st;

	if (fstat(fd, &st))
		return lb_note(note, -EPERM, "%s: %s", name, strerror(errno));
	if (st.st_uid != geteuid())
		return lb_note(note, -EPERM, "%s belongs to user %u, not to us", name,
			       (unsigned int)st.st_uid);
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return lb_note(note, -EPERM, "%s is open to group or others (mode %04o)", name,
			       (unsigned int)st.st_mode & 07777);
	return 0;
}

int lb_pin_dir_open(int parent_fd, const char *name, bool make, int *ret, char *note_text,
		    size_t size)
{
	struct lb_note note = {note_text, size};
	LB_AUTO_CLOSE int fd = -1;
	int r;

	if (make && mkdirat(parent_fd, name, 0700)) {
		if (errno != EEXIST)
			return lb_note(note, -ENOENT, "cannot make %s: %s", name, strerror(errno));
		make = false;
	}
	fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	/* O_DIRECTORY comes first: a symlink, whatever it points at, says ENOTDIR or ELOOP. */
	if (fd < 0 && (errno == ELOOP || errno == ENOTDIR))
		return lb_note(note, -EPERM, "%s is no directory", name);
	if (fd < 0 && errno == EACCES)
		return lb_note(note, -EPERM, "%s is closed to us", name);
	if (fd < 0) {
		r = lb_note(note, absent_or(errno), "cannot open %s: %s", name, strerror(errno));
		if (make)
			unlinkat(parent_fd, name, AT_REMOVEDIR);
		return r;
	}
	r = judge_dir(fd, name, note);
	if (r)
		return r;
	*ret = LB_TAKE_FD(fd);
	return 0;
}

/* A name of ours from an earlier run may go; anything else under it was not made by us. */
int lb_pin_judge(int dir_fd, const char *name, char *note_text, size_t size)
{
	struct lb_note note = {note_text, size};
	struct stat st;

	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : lb_note(note, -EPERM, "%s: %s", name, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return lb_note(note, -EPERM, "%s is no pin", name);
	if (st.st_uid != geteuid())
		return lb_note(note, -EPERM, "pin %s belongs to user %u, not to us", name,
			       (unsigned int)st.st_uid);
	return 0;
}

static void remove_pins(const struct lb_pin *pin)
{
	for (size_t i = 0; i < pin->count; i++)
		unlinkat(pin->dir_fd, pin->objects[i].name, 0);
}

/*
 * BPF_OBJ_PIN and BPF_OBJ_GET take a path, and a path by name could be exchanged under us; this one
 * leads to the very inode that was judged.
 */
static int path_of(int dir_fd, const char *name, char ret[PATH_SIZE])
{
	int n = snprintf(ret, PATH_SIZE, "/proc/self/fd/%d/%s", dir_fd, name);

	return n < PATH_SIZE ? 0 : -ENAMETOOLONG;
}

int lb_pin_put(int dir_fd, const char *name, int fd)
{
	char path[PATH_SIZE];
	int r = path_of(dir_fd, name, path);

	return r ? r : bpf_obj_pin(fd, path);
}

int lb_pin_get(int dir_fd, const char *name)
{
	char path[PATH_SIZE];
	int r = path_of(dir_fd, name, path);

	return r ? r : bpf_obj_get(path);
}

/* P2: nothing is touched before all of it was judged. */
static int judge_all(int dir_fd, const struct lb_load_object *objects, size_t count,
		     struct lb_note note)
{
	int r = 0;

	for (size_t i = 0; i < count && !r; i++)
		r = lb_pin_judge(dir_fd, objects[i].name, note.text, note.size);
	return r;
}

static int make_pins(const struct lb_pin *pin, struct lb_note note)
{
	int r;

	for (size_t i = 0; i < pin->count; i++) {
		r = lb_pin_put(pin->dir_fd, pin->objects[i].name, pin->objects[i].fd);
		if (r)
			return lb_note(note, -ENOENT, "cannot pin %s: %s", pin->objects[i].name,
				       strerror(-r));
	}
	return 0;
}

static int fill(struct lb_pin *pin, struct lb_note note)
{
	int r = judge_all(pin->dir_fd, pin->objects, pin->count, note);

	if (r)
		return r;
	remove_pins(pin);
	r = make_pins(pin, note);
	if (r) {
		remove_pins(pin);
		unlinkat(pin->root_fd, pin->name, AT_REMOVEDIR);
	}
	return r;
}

int lb_pin_open(struct lb_pin *ret, const char *root, const char *name,
		const struct lb_load_object *objects, size_t count, char *note_text, size_t size)
{
	LB_AUTO_CLOSE int root_fd = -1, dir_fd = -1;
	struct lb_note note = {note_text, size};
	struct lb_pin pin = {.open = true, .count = count};
	int r;

	memcpy(pin.objects, objects, count * sizeof(*objects));
	snprintf(pin.name, sizeof(pin.name), "%s", name);
	r = lb_pin_root_open(root, true, &root_fd, note_text, size);
	if (!r)
		r = lb_pin_dir_open(root_fd, name, true, &dir_fd, note_text, size);
	if (!r) {
		pin.root_fd = root_fd;
		pin.dir_fd = dir_fd;
		r = fill(&pin, note);
	}
	if (r)
		return r == -EPERM ? r : 0;
	LB_TAKE_FD(root_fd);
	LB_TAKE_FD(dir_fd);
	*ret = pin;
	return 0;
}

void lb_pin_close(struct lb_pin *pin)
{
	if (!pin->open)
		return;
	remove_pins(pin);
	/* Fails when somebody else keeps something there; then it is theirs to remove. */
	unlinkat(pin->root_fd, pin->name, AT_REMOVEDIR);
	close(pin->dir_fd);
	close(pin->root_fd);
	*pin = (struct lb_pin){};
}

void lb_pin_leave(struct lb_pin *pin)
{
	if (!pin->open)
		return;
	close(pin->dir_fd);
	close(pin->root_fd);
	*pin = (struct lb_pin){};
}

int lb_pin_remove(const char *root, const char *name, const struct lb_load_object *objects,
		  size_t count, void (*told)(const char *dir, const char *pin), char *note_text,
		  size_t size)
{
	LB_AUTO_CLOSE int root_fd = -1, dir_fd = -1;
	struct lb_note note = {note_text, size};
	char path[128];
	int r;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	r = lb_pin_root_open(root, false, &root_fd, note_text, size);
	if (!r)
		r = lb_pin_dir_open(root_fd, name, false, &dir_fd, note_text, size);
	if (!r)
		r = judge_all(dir_fd, objects, count, note);
	if (r)
		return r == -EPERM ? r : 0;
	for (size_t i = 0; i < count; i++)
		if (!unlinkat(dir_fd, objects[i].name, 0) && told)
			told(path, objects[i].name);
	unlinkat(root_fd, name, AT_REMOVEDIR);
	return 0;
}
