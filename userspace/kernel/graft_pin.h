/* SPDX-License-Identifier: MIT */
/*
 * Pins of the graft tables: what keeps them when the daemon goes, and how the next one finds them.
 * They stand in the instance's directory (pin.h), beside those of sockmap:
 *
 *	layer4-lb/			the tables in use, and the program
 *	layer4-lb/abi<N>/		those of version N, set aside while their last flows live
 *
 * Invariants, besides P1-P3 of pin.h
 *  G1  A set of tables is complete where its lb_graft_meta is: that is made and moved last.
 *  G2  Looking changes nothing, and a commit that fails puts back what it has moved.
 */
#ifndef LB_KERNEL_GRAFT_PIN_H
#define LB_KERNEL_GRAFT_PIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernel/graft_load.h"
#include "kernel/pin.h"

struct lb_graft_pin {
	int root_fd; /* -1: no BPF file system (yet) */
	int dir_fd;  /* -1: no directory (yet) */
	char name[LB_PIN_NAME_MAX];
	bool pinned; /* the tables in use are */
};

/* What earlier daemons left. */
struct lb_graft_look {
	bool adoptable;             /* fds and pairs mean something */
	bool aside;                 /* .. and they were found in abi<ours>, after a way back */
	int fds[LB_GRAFT_MAP_MAX_]; /* owned */
	uint32_t pairs;             /* entries their meta claims, 1..LB_GRAFT_PAIRS_MAX */
	uint32_t foreign_abi;       /* the tables in use are of this version; 0: they are not */
};

/*
 * Opens what is there and makes nothing. 0, also when nothing is there; with a note: -EPERM it is
 * not ours, -errno it cannot be told. *ret is to be closed in any case.
 */
int lb_graft_pin_open(struct lb_graft_pin *ret, const char *name, char *note, size_t size);
/* Lets go of the descriptors; the pins stay. */
void lb_graft_pin_close(struct lb_graft_pin *pin);

/* 0, or with a note -EPERM: a pin is not ours or not what its name says; -errno as above. */
int lb_graft_pin_look(const struct lb_graft_pin *pin, struct lb_graft_look *ret, char *note,
		      size_t size);
void lb_graft_look_close(struct lb_graft_look *look);

/*
 * Pins what was loaded, after tables of another version went aside. 0: pin->pinned, or not pinned
 * and <note> says why; -EPERM or -errno with a note, and all is as it was.
 */
int lb_graft_pin_commit(struct lb_graft_pin *pin, const struct lb_graft_look *look,
			const struct lb_graft_load *load, char *note, size_t size);
/* The pin of the program leads to ours again. 0 or -EPERM with a note. */
int lb_graft_pin_reclaim(const struct lb_graft_pin *pin, const struct lb_graft_load *load,
			 char *note, size_t size);
/* Removes the pins of the tables in use, and the directory when nothing else is in it. */
void lb_graft_pin_remove(struct lb_graft_pin *pin);

/* --- for graft_foreign.c and graft_unload.c --------------------------------------------------- */

#define LB_GRAFT_PINS_MAX 16
struct lb_graft_pin_names {
	char name[LB_GRAFT_PINS_MAX][32];
	size_t count;
};

/*
 * The names in <dir_fd> that belong to grafts of any version, lb_graft_meta last, all of them
 * judged (P2). 0 or -EPERM with a note.
 */
int lb_graft_pin_names(int dir_fd, struct lb_graft_pin_names *ret, char *note, size_t size);
/* Pure: "abi7" -> 7; 0 for anything else. */
uint32_t lb_graft_pin_abi_of(const char *name);
void lb_graft_pin_abi_name(uint32_t abi, char ret[16]);

#endif
