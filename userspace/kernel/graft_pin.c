/* SPDX-License-Identifier: MIT */
/*
 * graft_pin: decides whether the tables of an earlier daemon go on, and where those of another
 * version wait for their end. It must never touch a set that it cannot use: what is pinned carries
 * flows that nobody else remembers.
 */
#include "kernel/graft_pin.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "base/cleanup.h"
#include "kernel/note.h"

#define META      "lb_graft_meta"
#define PROGRAM   LB_GRAFT_PROGRAM
#define SUCCESSOR PROGRAM "_new"
/* Of a meta of any version. */
#define META_BYTES_MAX 4096

/* --- names ------------------------------------------------------------------------------------ */

uint32_t lb_graft_pin_abi_of(const char *name)
{
	char again[16];
	unsigned int abi;

	if (sscanf(name, "abi%9u", &abi) != 1)
		return 0;
	lb_graft_pin_abi_name(abi, again);
	return strcmp(name, again) ? 0 : abi;
}

void lb_graft_pin_abi_name(uint32_t abi, char ret[16])
{
	snprintf(ret, 16, "abi%u", abi);
}

static bool is_ours_by_name(const char *name)
{
	return !strncmp(name, "lb_graft", strlen("lb_graft")) ||
	       !strncmp(name, PROGRAM, strlen(PROGRAM));
}

static int add_name(int dir_fd, const char *name, struct lb_graft_pin_names *names,
		    struct lb_note note)
{
	if (names->count == LB_GRAFT_PINS_MAX || strlen(name) >= sizeof(names->name[0]))
		return lb_note(note, -EPERM, "pin %s is none of ours", name);
	snprintf(names->name[names->count++], sizeof(names->name[0]), "%s", name);
	return lb_pin_judge(dir_fd, name, note.text, note.size);
}

static void close_dir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* Anew, so that a walk starts at the beginning however often the directory was read. */
static DIR *walk(int dir_fd)
{
	LB_AUTO_CLOSE int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (dir)
		(void)LB_TAKE_FD(fd);
	return dir;
}

int lb_graft_pin_names(int dir_fd, struct lb_graft_pin_names *ret, char *note_text, size_t size)
{
	LB_AUTO(close_dir) DIR *dir = walk(dir_fd);
	struct lb_note note = {note_text, size};
	struct lb_graft_pin_names names = {};
	const struct dirent *d;
	bool meta = false;
	int r = 0;

	if (!dir)
		return lb_note(note, -EPERM, "cannot read the directory: %s", strerror(errno));
	while (!r && (d = readdir(dir))) {
		if (!strcmp(d->d_name, META))
			meta = true;
		else if (is_ours_by_name(d->d_name))
			r = add_name(dir_fd, d->d_name, &names, note);
	}
	if (!r && meta)
		r = add_name(dir_fd, META, &names, note);
	if (!r)
		*ret = names;
	return r;
}

/* --- looking ---------------------------------------------------------------------------------- */

int lb_graft_pin_open(struct lb_graft_pin *ret, const char *name, char *note, size_t size)
{
	int r;

	*ret = (struct lb_graft_pin){.root_fd = -1, .dir_fd = -1};
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	r = lb_pin_root_open(LB_PIN_ROOT, false, &ret->root_fd, note, size);
	if (!r)
		r = lb_pin_dir_open(ret->root_fd, name, false, &ret->dir_fd, note, size);
	if (r && r != -ENOENT)
		return r;
	note[0] = '\0';
	return 0;
}

void lb_graft_pin_close(struct lb_graft_pin *pin)
{
	lb_cleanup_close(&pin->dir_fd);
	lb_cleanup_close(&pin->root_fd);
	pin->dir_fd = pin->root_fd = -1;
}

/* 0; -ENOENT; -EPERM with a note. */
static int open_pin(int dir_fd, const char *name, int *ret, struct lb_note note)
{
	int fd;

	if (lb_pin_judge(dir_fd, name, note.text, note.size))
		return -EPERM;
	fd = lb_pin_get(dir_fd, name);
	if (fd == -ENOENT)
		return fd;
	if (fd < 0)
		return lb_note(note, -EPERM, "cannot open pin %s: %s", name, strerror(-fd));
	*ret = fd;
	return 0;
}

/* The head of whatever version's meta. 0; -ENOENT: there is none; -EPERM with a note. */
static int read_meta(int dir_fd, struct lb_graft_meta *ret, struct lb_note note)
{
	LB_AUTO_CLOSE int fd = -1;
	unsigned char value[META_BYTES_MAX];
	struct bpf_map_info info = {};
	__u32 len = sizeof(info), zero = 0;
	int r;

	r = open_pin(dir_fd, META, &fd, note);
	if (r)
		return r;
	/* The descriptor of a program has another info. */
	if (bpf_obj_get_info_by_fd(fd, &info, &len) || info.type != BPF_MAP_TYPE_ARRAY ||
	    info.key_size != sizeof(zero) || info.value_size > sizeof(value) ||
	    info.value_size < offsetof(struct lb_graft_meta, mark) ||
	    bpf_map_lookup_elem(fd, &zero, value))
		return lb_note(note, -EPERM, "pin " META " is not what its name says");
	memcpy(ret, value, offsetof(struct lb_graft_meta, mark));
	return 0;
}

static int look_at(int dir_fd, const struct lb_graft_meta *meta, struct lb_graft_look *look,
		   struct lb_note note)
{
	int r = 0;

	if (!meta->pairs || meta->pairs > LB_GRAFT_PAIRS_MAX)
		return lb_note(note, -EPERM, "pin " META " speaks of %u grafts", meta->pairs);
	for (unsigned int i = 0; i < LB_GRAFT_MAP_MAX_ && !r; i++) {
		r = open_pin(dir_fd, lb_graft_map_name(i), &look->fds[i], note);
		if (r == -ENOENT)
			r = lb_note(note, -EPERM, "pin %s is missing", lb_graft_map_name(i));
	}
	look->adoptable = true;
	look->pairs = meta->pairs;
	return r;
}

/* Tables of ours that a newer or older version set aside before we came back. */
static int look_aside(int dir_fd, struct lb_graft_look *look, struct lb_note note)
{
	LB_AUTO_CLOSE int fd = -1;
	struct lb_graft_meta meta = {};
	char name[16];
	int r;

	lb_graft_pin_abi_name(LB_GRAFT_ABI, name);
	r = lb_pin_dir_open(dir_fd, name, false, &fd, note.text, note.size);
	if (!r)
		r = read_meta(fd, &meta, note);
	if (r)
		return r == -ENOENT ? 0 : r;
	if (meta.abi != LB_GRAFT_ABI)
		return lb_note(note, -EPERM, "%s/" META " is of version %u", name, meta.abi);
	look->aside = true;
	return look_at(fd, &meta, look, note);
}

static int look_for_any(const struct lb_graft_pin *pin, struct lb_graft_look *look,
			struct lb_note note)
{
	struct lb_graft_pin_names names;
	struct lb_graft_meta meta = {};
	int r;

	r = lb_graft_pin_names(pin->dir_fd, &names, note.text, note.size);
	if (!r)
		r = read_meta(pin->dir_fd, &meta, note);
	if (r == -ENOENT)
		return look_aside(pin->dir_fd, look, note);
	if (r)
		return r;
	if (meta.abi == LB_GRAFT_ABI)
		return look_at(pin->dir_fd, &meta, look, note);
	if (!meta.abi)
		return lb_note(note, -EPERM, "pin " META " has no version");
	look->foreign_abi = meta.abi;
	return look_aside(pin->dir_fd, look, note);
}

int lb_graft_pin_look(const struct lb_graft_pin *pin, struct lb_graft_look *ret, char *note_text,
		      size_t size)
{
	struct lb_note note = {note_text, size};
	struct lb_graft_look look = {};
	int r = 0;

	for (unsigned int i = 0; i < LB_GRAFT_MAP_MAX_; i++)
		look.fds[i] = -1;
	if (pin->dir_fd >= 0)
		r = look_for_any(pin, &look, note);
	if (r) {
		lb_graft_look_close(&look);
		return r;
	}
	note_text[0] = '\0';
	*ret = look;
	return 0;
}

void lb_graft_look_close(struct lb_graft_look *look)
{
	for (unsigned int i = 0; i < LB_GRAFT_MAP_MAX_; i++) {
		lb_cleanup_close(&look->fds[i]);
		look->fds[i] = -1;
	}
}

/* --- committing ------------------------------------------------------------------------------- */

static int rename_all(int from_fd, int to_fd, const struct lb_graft_pin_names *names, size_t *done)
{
	for (*done = 0; *done < names->count; ++*done)
		if (renameat2(from_fd, names->name[*done], to_fd, names->name[*done],
			      RENAME_NOREPLACE))
			return -errno;
	return 0;
}

/* All of them or none. lb_graft_meta is the last to arrive, on the way back the first to go. */
static int move(int from_fd, int to_fd, struct lb_note note)
{
	struct lb_graft_pin_names names = {};
	size_t done;
	int r;

	r = lb_graft_pin_names(from_fd, &names, note.text, note.size);
	if (r)
		return r;
	r = rename_all(from_fd, to_fd, &names, &done);
	if (!r)
		return 0;
	lb_note(note, -EPERM, "cannot move pin %s: %s", names.name[done], strerror(-r));
	while (done--)
		renameat(to_fd, names.name[done], from_fd, names.name[done]);
	return -EPERM;
}

/* Between the directory and its abi<N>. */
static int move_aside(const struct lb_graft_pin *pin, uint32_t abi, bool back, struct lb_note note)
{
	LB_AUTO_CLOSE int fd = -1;
	char name[16];
	int r;

	lb_graft_pin_abi_name(abi, name);
	r = lb_pin_dir_open(pin->dir_fd, name, !back, &fd, note.text, note.size);
	if (!r)
		r = back ? move(fd, pin->dir_fd, note) : move(pin->dir_fd, fd, note);
	/* Fails unless it is empty: after the way back, or when nothing could be moved there. */
	if (back || r)
		unlinkat(pin->dir_fd, name, AT_REMOVEDIR);
	return r ? -EPERM : 0;
}

static void remove_tables(const struct lb_graft_pin *pin)
{
	for (unsigned int i = LB_GRAFT_MAP_MAX_; i--;)
		unlinkat(pin->dir_fd, lb_graft_map_name(i), 0);
	unlinkat(pin->dir_fd, PROGRAM, 0);
	unlinkat(pin->dir_fd, SUCCESSOR, 0);
}

static int put(const struct lb_graft_pin *pin, const char *name, int fd, struct lb_note note)
{
	int r = lb_pin_put(pin->dir_fd, name, fd);

	return r ? lb_note(note, -ENOENT, "cannot pin %s: %s", name, strerror(-r)) : 0;
}

/* In one step from the old program to ours. */
static int replace_program(const struct lb_graft_pin *pin, int prog_fd, struct lb_note note)
{
	int r;

	unlinkat(pin->dir_fd, SUCCESSOR, 0);
	r = put(pin, SUCCESSOR, prog_fd, note);
	if (!r && renameat(pin->dir_fd, SUCCESSOR, pin->dir_fd, PROGRAM))
		r = lb_note(note, -EPERM, "cannot replace pin " PROGRAM ": %s", strerror(errno));
	if (r)
		unlinkat(pin->dir_fd, SUCCESSOR, 0);
	return r ? -EPERM : 0;
}

/* What stands there without lb_graft_meta is of a run that died while it pinned (G1). */
static int pin_new(const struct lb_graft_pin *pin, const struct lb_graft_load *load,
		   struct lb_note note)
{
	int r;

	remove_tables(pin);
	r = put(pin, PROGRAM, load->prog_fd, note);
	for (unsigned int i = 0; i < LB_GRAFT_MAP_MAX_ && !r; i++)
		r = put(pin, lb_graft_map_name(i), load->fds[i], note);
	if (r)
		remove_tables(pin);
	return r;
}

static int pin_all(const struct lb_graft_pin *pin, const struct lb_graft_look *look,
		   const struct lb_graft_load *load, struct lb_note note)
{
	int r;

	if (!look->adoptable)
		return pin_new(pin, load, note);
	if (!look->aside)
		return replace_program(pin, load->prog_fd, note);
	if (!look->foreign_abi)
		remove_tables(pin);
	r = move_aside(pin, LB_GRAFT_ABI, true, note);
	if (r)
		return r;
	r = replace_program(pin, load->prog_fd, note);
	if (r)
		move_aside(pin, LB_GRAFT_ABI, false, (struct lb_note){});
	return r;
}

int lb_graft_pin_commit(struct lb_graft_pin *pin, const struct lb_graft_look *look,
			const struct lb_graft_load *load, char *note_text, size_t size)
{
	struct lb_note note = {note_text, size};
	int r = 0;

	if (pin->root_fd < 0)
		r = lb_pin_root_open(LB_PIN_ROOT, true, &pin->root_fd, note_text, size);
	if (!r && pin->dir_fd < 0)
		r = lb_pin_dir_open(pin->root_fd, pin->name, true, &pin->dir_fd, note_text, size);
	if (!r && look->foreign_abi)
		r = move_aside(pin, look->foreign_abi, false, note);
	if (r)
		return r == -ENOENT ? 0 : r;
	r = pin_all(pin, look, load, note);
	if (r && look->foreign_abi)
		move_aside(pin, look->foreign_abi, true, (struct lb_note){});
	pin->pinned = !r;
	if (r)
		unlinkat(pin->root_fd, pin->name, AT_REMOVEDIR);
	return r == -ENOENT ? 0 : r;
}

int lb_graft_pin_reclaim(const struct lb_graft_pin *pin, const struct lb_graft_load *load,
			 char *note_text, size_t size)
{
	struct lb_note note = {note_text, size};

	return pin->pinned ? replace_program(pin, load->prog_fd, note) : 0;
}

void lb_graft_pin_remove(struct lb_graft_pin *pin)
{
	if (!pin->pinned)
		return;
	remove_tables(pin);
	unlinkat(pin->root_fd, pin->name, AT_REMOVEDIR);
	pin->pinned = false;
}
