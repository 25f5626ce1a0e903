/* SPDX-License-Identifier: MIT */
/*
 * The graft program and its maps: open -> sizes -> reuse -> load -> map into memory, all in one
 * place. Nothing else knows the skeleton.
 */
#ifndef LB_KERNEL_GRAFT_LOAD_H
#define LB_KERNEL_GRAFT_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include <lb/graft.h>

struct tc_graft;

/* META is pinned last and moved last: where it is, the others are. */
enum lb_graft_map {
	LB_GRAFT_MAP_V4,
	LB_GRAFT_MAP_V6,
	LB_GRAFT_MAP_GRAFTS,
	LB_GRAFT_MAP_RING,
	LB_GRAFT_MAP_COUNT,
	LB_GRAFT_MAP_META,
	LB_GRAFT_MAP_MAX_
};
#define LB_GRAFT_PROGRAM "tc_graft"

struct lb_graft_load {
	struct tc_graft *skel; /* owns every descriptor below */
	uint32_t pairs;
	int prog_fd;
	int fds[LB_GRAFT_MAP_MAX_];
	struct lb_graft *grafts;    /* pairs, shared with the program */
	struct lb_graft_meta *meta; /* one, shared with the program */
};

/* Also the name of the map's pin. */
const char *lb_graft_map_name(enum lb_graft_map which);

/*
 * Loads the program, on the maps <adopted> when that is not NULL (they stay the caller's), else on
 * new ones with room for <pairs>, described in their meta. On success *ret owns it all. Otherwise
 * -errno, *ret untouched, nothing loaded, and <detail> holds the reason. -ESTALE: an adopted map is
 * not what a daemon of this version would have made for <pairs>.
 */
int lb_graft_load_open(struct lb_graft_load *ret, uint32_t pairs,
		       const int adopted[LB_GRAFT_MAP_MAX_], char *detail, size_t size);
/* Harmless on a zeroed struct; leaves it zeroed. */
void lb_graft_load_close(struct lb_graft_load *l);

#endif
