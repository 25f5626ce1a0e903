/* SPDX-License-Identifier: MIT */
/*
 * A survey visits every living flow of all workers once, each in its worker's thread, a slice in
 * each turn of its loop: no byte waits longer than for one slice. Grafted flows come last: by then
 * no session that was not visited can have become one. One that became a graft after its visit is
 * visited twice; its id tells.
 */
#ifndef LB_FLOW_SURVEY_H
#define LB_FLOW_SURVEY_H

#include "flow/env.h"

struct lb_survey;

/* A flow, while it is visited. */
struct lb_survey_flow {
	struct lb_flow_env *env;
	struct lb_session *session; /* NULL: a graft of env->keeper's .. */
	uint32_t pair;              /* .. this one */
};

struct lb_survey_opts {
	/*
	 * Called in the threads of the workers, of several at the same time. Returns its price: 1
	 * when it only looked, more when it asked the kernel. It may close the flow.
	 */
	unsigned int (*visit)(void *arg, const struct lb_survey_flow *f);
	/* Once, when all is visited, in a worker's thread. The survey must outlive the call. */
	void (*done)(void *arg);
	void *arg;
};

/* What a slice may cost, by what visit() returns. */
#define LB_SURVEY_SLICE 1024u
/* What a flow costs whose sockets are asked: 64 of them make a slice. */
#define LB_SURVEY_PRICE_OF_ASKING 16u

/*
 * Begins. <envs>: of <count> workers that run, the keeper with the first; borrowed until the end.
 * 0 or -ENOMEM; then nothing is called, or all but the flows of some worker are visited and done()
 * is: *ret says which (NULL: nothing). Any thread.
 */
int lb_survey_start(struct lb_survey **ret, struct lb_flow_env *const *envs, uint32_t count,
		    const struct lb_survey_opts *opts);
/* Waits for its end first. Not from a worker's thread. NULL inside is fine. */
void lb_survey_free(struct lb_survey **survey);

#endif
