/* SPDX-License-Identifier: MIT */
/* See pipe.h. Must never hand out a pipe that holds somebody else's bytes. */
#include "flow/pipe.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static void pipe_close(struct lb_pipe *pipe)
{
	close(pipe->in);
	close(pipe->out);
	free(pipe);
}

struct lb_pipe *lb_pipe_get(struct lb_pipe_pool *pool)
{
	struct lb_pipe *pipe = pool->idle;
	int fds[2];

	if (pipe) {
		pool->idle = pipe->next;
		pool->count--;
		return pipe;
	}
	pipe = malloc(sizeof(*pipe));
	if (!pipe)
		return NULL;
	if (pipe2(fds, O_NONBLOCK | O_CLOEXEC)) {
		free(pipe);
		return NULL;
	}
	*pipe = (struct lb_pipe){.in = fds[0], .out = fds[1]};
	/* Best effort: beyond fs.pipe-user-pages-soft the kernel keeps the default size. */
	(void)fcntl(pipe->out, F_SETPIPE_SZ, (int)LB_PIPE_BYTES);
	return pipe;
}

void lb_pipe_put(struct lb_pipe_pool *pool, struct lb_pipe *pipe, size_t held)
{
	if (held || pool->count >= LB_PIPE_POOL_MAX) {
		pipe_close(pipe);
		return;
	}
	pipe->next = pool->idle;
	pool->idle = pipe;
	pool->count++;
}

void lb_pipe_pool_fini(struct lb_pipe_pool *pool)
{
	while (pool->idle) {
		struct lb_pipe *pipe = pool->idle;

		pool->idle = pipe->next;
		pipe_close(pipe);
	}
	pool->count = 0;
}
