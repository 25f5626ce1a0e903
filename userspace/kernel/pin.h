/* SPDX-License-Identifier: MIT */
/*
 * Pins: names for our BPF objects in a directory of our own, for bpftool and for whoever debugs.
 * Objects live as long as a pin does, so pins of a dead run are replaced, and ours removed at the
 * end. Grafts keep theirs (graft_pin.h) in the same directory: each side touches its own names, and
 * the directory goes with the last of them.
 *
 * Invariants
 *  P1  The directory is used only through the descriptor whose inode was judged: a real directory,
 *      ours, closed to group and others. Nobody else can then plant anything in it.
 *  P2  What was there before is judged completely before the first name is touched.
 *  P3  After a failure no name of ours is left.
 */
#ifndef LB_KERNEL_PIN_H
#define LB_KERNEL_PIN_H

#include <stdbool.h>
#include <stddef.h>

#include "kernel/load.h"

#define LB_PIN_ROOT         "/sys/fs/bpf"
#define LB_PIN_NAME_MAX     80
#define LB_PIN_INSTANCE_MAX 64

struct lb_pin {
	bool open;                  /* the fields below mean something */
	int root_fd;                /* the BPF file system */
	int dir_fd;                 /* our directory in it */
	char name[LB_PIN_NAME_MAX]; /* of the directory, in root */
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];
	size_t count;
};

/*
 * Pure: "layer4-lb" for NULL, else "layer4-lb-<instance>". Letters, digits, '-' and '_' only: '/'
 * would leave the directory and the kernel reserves '.'. 0, or -EINVAL with <ret> untouched.
 */
int lb_pin_name(const char *instance, char ret[LB_PIN_NAME_MAX]);

/*
 * Pins <objects> in <root>/<name>. When <root> is no BPF file system one is mounted there, to stay.
 * 0: pinned and *ret to be closed, or not pinned, *ret untouched and <note> says why.
 * -EPERM: a symlink, a foreign owner or a directory open to others is in the way; *ret untouched.
 */
int lb_pin_open(struct lb_pin *ret, const char *root, const char *name,
		const struct lb_load_object *objects, size_t count, char *note, size_t size);
/* Removes the pins and the directory. Harmless on a zeroed struct; leaves it zeroed. */
void lb_pin_close(struct lb_pin *pin);
/*
 * The pins are another daemon's from now on, which makes its own under these names: lets go of
 * them. Harmless on a zeroed struct; leaves it zeroed.
 */
void lb_pin_leave(struct lb_pin *pin);
/*
 * Removes what a run that is dead left of <objects> (by name), and the directory when nothing else
 * is in it; <told> (may be NULL) hears of each. 0, nothing there included; -EPERM with a <note>.
 */
int lb_pin_remove(const char *root, const char *name, const struct lb_load_object *objects,
		  size_t count, void (*told)(const char *dir, const char *pin), char *note,
		  size_t size);

/* --- the parts, for pins with a life of their own --------------------------------------------- */

/*
 * Opens the BPF file system at <root>; with <make> one is mounted there when there is none. 0 with
 * *ret, or -ENOENT with *ret untouched and <note> saying why.
 */
int lb_pin_root_open(const char *root, bool make, int *ret, char *note, size_t size);
/*
 * Opens directory <name> of <parent_fd> and judges it (P1); with <make> it is made when it is not
 * there. As lb_pin_root_open(), and -EPERM: not ours, or no directory.
 */
int lb_pin_dir_open(int parent_fd, const char *name, bool make, int *ret, char *note, size_t size);
/* Pure look: 0 when <name> is not there or is a pin of ours; otherwise -EPERM with a <note>. */
int lb_pin_judge(int dir_fd, const char *name, char *note, size_t size);
/* Names object <fd>, or opens the named one (the descriptor is the caller's). Negative: -errno. */
int lb_pin_put(int dir_fd, const char *name, int fd);
int lb_pin_get(int dir_fd, const char *name);

#endif
