/* SPDX-License-Identifier: MIT */
/* See survey.h. Must never visit more in one turn than a slice. */
#include "flow/survey.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "flow/graft_keeper.h"

/* Places of the table looked at in one turn: an empty one costs a cache miss. */
#define PAIRS_SLICE 8192u

/* One worker's share; the first worker's is used again for the grafts. */
struct part {
	struct lb_survey *survey;
	struct lb_flow_env *env;
	struct lb_task task;
	struct lb_walk walk;
	uint32_t pair;
};

struct lb_survey {
	struct lb_survey_opts opts;
	uint32_t left; /* atomic: workers whose sessions are still to be visited */
	pthread_mutex_t lock;
	pthread_cond_t ended;
	bool done; /* under the lock */
	struct part parts[];
};

/* The survey may be freed by another thread as soon as the lock is free. */
static void finish(struct lb_survey *v)
{
	pthread_mutex_lock(&v->lock);
	if (v->opts.done)
		v->opts.done(v->opts.arg);
	v->done = true;
	pthread_cond_signal(&v->ended);
	pthread_mutex_unlock(&v->lock);
}

/* --- grafts ----------------------------------------------------------------------------------- */

static void visit_grafts(struct lb_task *t)
{
	struct part *part = lb_container_of(t, struct part, task);
	struct lb_survey *v = part->survey;
	struct lb_graft_keeper *k = part->env->keeper;
	uint32_t pairs = lb_graft_keeper_pairs(k);
	uint32_t to = pairs - part->pair < PAIRS_SLICE ? pairs : part->pair + PAIRS_SLICE;

	for (unsigned int spent = 0; spent < LB_SURVEY_SLICE; part->pair++) {
		part->pair = lb_graft_keeper_next(k, part->pair, to);
		if (part->pair == to)
			break;
		spent += v->opts.visit(v->opts.arg, &(struct lb_survey_flow){.env = part->env,
									     .pair = part->pair});
	}
	if (part->pair < pairs)
		lb_loop_again(part->env->carrier.loop, t, visit_grafts);
	else
		finish(v);
}

static void begin_grafts(void *arg)
{
	struct part *part = arg;

	if (part->env->keeper && __atomic_load_n(&part->env->limits->grafts, __ATOMIC_RELAXED))
		visit_grafts(&part->task);
	else
		finish(part->survey);
}

/* --- sessions --------------------------------------------------------------------------------- */

/* The sessions of a worker are visited, or it could not be asked. */
static void sessions_done(struct lb_survey *v)
{
	struct part *first = &v->parts[0];

	if (__atomic_sub_fetch(&v->left, 1, __ATOMIC_ACQ_REL))
		return;
	if (lb_loop_post(first->env->carrier.loop, begin_grafts, first))
		finish(v);
}

static void visit_sessions(struct lb_task *t)
{
	struct part *part = lb_container_of(t, struct part, task);
	struct lb_survey *v = part->survey;

	for (unsigned int spent = 0; spent < LB_SURVEY_SLICE;) {
		struct lb_session *s = lb_walk_next(part->env, &part->walk);

		if (!s) {
			lb_walk_end(&part->walk);
			sessions_done(v);
			return;
		}
		spent += v->opts.visit(v->opts.arg,
				       &(struct lb_survey_flow){.env = part->env, .session = s});
	}
	lb_loop_again(part->env->carrier.loop, t, visit_sessions);
}

static void begin_sessions(void *arg)
{
	struct part *part = arg;

	lb_walk_begin(part->env, &part->walk);
	visit_sessions(&part->task);
}

/* --- for everybody ---------------------------------------------------------------------------- */

int lb_survey_start(struct lb_survey **ret, struct lb_flow_env *const *envs, uint32_t count,
		    const struct lb_survey_opts *opts)
{
	struct lb_survey *v = calloc(1, sizeof(*v) + count * sizeof(v->parts[0]));
	int err = 0;

	*ret = v;
	if (!v)
		return -ENOMEM;
	v->opts = *opts;
	v->left = count;
	pthread_mutex_init(&v->lock, NULL);
	pthread_cond_init(&v->ended, NULL);
	for (uint32_t i = 0; i < count; i++)
		v->parts[i] = (struct part){.survey = v, .env = envs[i]};
	for (uint32_t i = 0; i < count; i++) {
		if (!lb_loop_post(envs[i]->carrier.loop, begin_sessions, &v->parts[i]))
			continue;
		err = -ENOMEM;
		sessions_done(v);
	}
	return err;
}

void lb_survey_free(struct lb_survey **survey)
{
	struct lb_survey *v = *survey;

	if (!v)
		return;
	*survey = NULL;
	pthread_mutex_lock(&v->lock);
	while (!v->done)
		pthread_cond_wait(&v->ended, &v->lock);
	pthread_mutex_unlock(&v->lock);
	pthread_cond_destroy(&v->ended);
	pthread_mutex_destroy(&v->lock);
	free(v);
}
