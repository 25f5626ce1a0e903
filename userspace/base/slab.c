/* SPDX-License-Identifier: MIT */
/* See slab.h. Must never give memory back to the heap while objects may be alive. */
#include "base/slab.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK_OBJECTS 64
#define ALIGNMENT     16

void lb_slab_init(struct lb_slab *slab, size_t size)
{
	*slab = (struct lb_slab){.size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT};
}

#ifdef __SANITIZE_ADDRESS__

void lb_slab_fini(struct lb_slab *slab)
{
}

void *lb_slab_get(struct lb_slab *slab)
{
	return calloc(1, slab->size);
}

void lb_slab_put(struct lb_slab *slab, void *object)
{
	free(object);
}

#else

void lb_slab_fini(struct lb_slab *slab)
{
	while (slab->chunks) {
		void *chunk = slab->chunks;

		slab->chunks = *(void **)chunk;
		free(chunk);
	}
	slab->free = NULL;
}

static int grow(struct lb_slab *slab)
{
	char *chunk = malloc(ALIGNMENT + CHUNK_OBJECTS * slab->size);

	if (!chunk)
		return -1;
	*(void **)(void *)chunk = slab->chunks;
	slab->chunks = chunk;
	for (int i = CHUNK_OBJECTS - 1; i >= 0; i--) {
		void *object = chunk + ALIGNMENT + (size_t)i * slab->size;

		*(void **)object = slab->free;
		slab->free = object;
	}
	return 0;
}

void *lb_slab_get(struct lb_slab *slab)
{
	void *object;

	if (!slab->free && grow(slab))
		return NULL;
	object = slab->free;
	slab->free = *(void **)object;
	memset(object, 0, slab->size);
	return object;
}

void lb_slab_put(struct lb_slab *slab, void *object)
{
	*(void **)object = slab->free;
	slab->free = object;
}

#endif
