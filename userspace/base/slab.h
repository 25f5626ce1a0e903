/* SPDX-License-Identifier: MIT */
/*
 * Fixed-size objects from chunks: one thread, no locks, memory stays with the slab until
 * lb_slab_fini(). Under AddressSanitizer every object is its own malloc, so that use after free
 * is seen.
 */
#ifndef LB_BASE_SLAB_H
#define LB_BASE_SLAB_H

#include <stddef.h>

struct lb_slab {
	size_t size;
	void *free;   /* linked through the objects' first word */
	void *chunks; /* linked through the chunks' first word */
};

/* <size>: of one object, at least a pointer's. */
void lb_slab_init(struct lb_slab *slab, size_t size);
/* All objects must have been put back. */
void lb_slab_fini(struct lb_slab *slab);
/* Zeroed, aligned for any type; NULL without memory. */
void *lb_slab_get(struct lb_slab *slab);
void lb_slab_put(struct lb_slab *slab, void *object);

#endif
