/* SPDX-License-Identifier: MIT */
/*
 * The verdict program and its maps: open -> sizes -> load -> map into memory -> attach, all in one
 * place. Nothing else knows the skeleton.
 */
#ifndef LB_KERNEL_LOAD_H
#define LB_KERNEL_LOAD_H

#include <stddef.h>
#include <stdint.h>

#include <lb/bucket.h>
#include <lb/event.h>
#include <lb/flow.h>

struct sk_verdict;

struct lb_load {
	struct sk_verdict *skel; /* owns every descriptor below */
	uint32_t pairs;
	uint32_t workers;
	uint32_t buckets_count;
	int socks_fd;
	int cookies_fd;
	struct lb_gate *gates;            /* pairs * 2, shared with the program */
	struct lb_ring_state *ring_state; /* workers, shared with the program */
	struct lb_bucket *buckets;        /* buckets_count, shared with the program */
};

/* An object with the name its pin gets. */
struct lb_load_object {
	const char *name; /* valid until lb_load_close() */
	int fd;           /* not owned */
};

#define LB_LOAD_OBJECTS_MAX 8

/*
 * <pairs> is 1..LB_SOCKMAP_PAIRS_MAX, <workers> 1..LB_WORKERS_MAX, <buckets> 1..LB_BUCKETS_MAX. On
 * success *ret owns it all. Otherwise -errno, *ret untouched, nothing loaded, and <detail> holds
 * the reason: the verifier's last line or libbpf's first complaint. RLIMIT_MEMLOCK does not matter:
 * every kernel above the floor charges BPF memory to the memory control group.
 */
int lb_load_open(struct lb_load *ret, uint32_t pairs, uint32_t workers, uint32_t buckets,
		 char *detail, size_t size);
/* Loads nothing: for the names of lb_load_objects(), whose descriptors are then negative. */
int lb_load_names(struct lb_load *ret);
/* Harmless on a zeroed struct; leaves it zeroed. */
void lb_load_close(struct lb_load *l);

/*
 * Puts ring <ring_fd> into worker <worker>'s slot. The program finds it at once. 0 or -errno.
 */
int lb_load_set_ring(struct lb_load *l, uint32_t worker, int ring_fd);

/* Fills <ret> with every map and program worth a pin; returns how many. */
size_t lb_load_objects(const struct lb_load *l, struct lb_load_object ret[LB_LOAD_OBJECTS_MAX]);

/*
 * Pure: copies the last line of a verifier log that tells something (not the statistics) into
 * <ret>; "" when there is none.
 */
void lb_load_last_line(const char *log, char *ret, size_t size);

#endif
