/* SPDX-License-Identifier: MIT */
/*
 * Pipes for splice(2), pooled per worker. A pipe in the pool is empty; one that still holds bytes
 * is closed, never pooled. Worker's thread only.
 */
#ifndef LB_FLOW_PIPE_H
#define LB_FLOW_PIPE_H

#include <stddef.h>

/* Asked for with F_SETPIPE_SZ; the kernel may give less. */
#define LB_PIPE_BYTES (256u * 1024u)
/* Idle pipes kept; the others are closed when they come back. */
#define LB_PIPE_POOL_MAX 64u

struct lb_pipe {
	int in, out; /* read end, write end */
	struct lb_pipe *next;
};

struct lb_pipe_pool {
	struct lb_pipe *idle;
	unsigned int count;
};

/* NULL when there are no descriptors or memory: fall back to recv/send. */
struct lb_pipe *lb_pipe_get(struct lb_pipe_pool *pool);
/* <held>: bytes still in it. */
void lb_pipe_put(struct lb_pipe_pool *pool, struct lb_pipe *pipe, size_t held);
void lb_pipe_pool_fini(struct lb_pipe_pool *pool);

#endif
