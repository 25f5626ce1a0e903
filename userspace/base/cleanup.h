/* SPDX-License-Identifier: MIT */
/*
 * Scope-bound ownership for cold paths: a local marked with one of these attributes is released
 * when it leaves scope, unless it was handed on with LB_TAKE_FD / LB_TAKE_PTR.
 *
 * Every descriptor variable starts at -1, every pointer at NULL.
 */
#ifndef LB_BASE_CLEANUP_H
#define LB_BASE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void lb_cleanup_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void lb_cleanup_free(void *pp)
{
	free(*(void **)pp);
}

static inline void lb_cleanup_fclose(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define LB_AUTO_CLOSE  __attribute__((cleanup(lb_cleanup_close)))
#define LB_AUTO_FREE   __attribute__((cleanup(lb_cleanup_free)))
#define LB_AUTO_FCLOSE __attribute__((cleanup(lb_cleanup_fclose)))
/* For a type with `void x_free(struct x **)`. */
#define LB_AUTO(fn) __attribute__((cleanup(fn)))

#define LB_TAKE_FD(fd)               \
	__extension__({              \
		int lb_taken = (fd); \
		(fd) = -1;           \
		lb_taken;            \
	})

#define LB_TAKE_PTR(p)                        \
	__extension__({                       \
		__typeof__(p) lb_taken = (p); \
		(p) = NULL;                   \
		lb_taken;                     \
	})

#define LB_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define lb_container_of(ptr, type, member) \
	((type *)(void *)((char *)(ptr) - __builtin_offsetof(type, member)))

#endif
