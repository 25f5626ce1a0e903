/* SPDX-License-Identifier: MIT */
/* What select.c and select_share.c share; nobody else includes it. */
#ifndef LB_FLOW_SELECT_PARTS_H
#define LB_FLOW_SELECT_PARTS_H

#include <pthread.h>

#include "flow/select.h"
#include "flow/select_least.h"
#include "flow/select_queue.h"
#include "flow/select_tables.h"

struct lb_select {
	struct lb_pool *pool;
	enum lb_balance balance;
	pthread_mutex_t changing; /* one change at a time; taken before the pool's lock */
	/* Under the pool's lock. */
	struct lb_select_tables tables;
	struct lb_least least;
	struct lb_select_queue queue;
	uint64_t turn;
	uint64_t clock; /* virtual time, see take_turn() */
	uint64_t random;
	struct lb_limits *limits; /* NULL: what a backend may have is this node's */
	uint32_t pressed;         /* asked for a full one since the last look, .. */
	uint32_t pressing;        /* .. and in the time before that */
	struct lb_limits_holder holder;
};

static inline void select_lock(struct lb_select *sel)
{
	pthread_mutex_lock(&sel->pool->lock);
}

static inline void select_unlock(struct lb_select *sel)
{
	pthread_mutex_unlock(&sel->pool->lock);
}

/* There may be room again. Under the lock. */
void select_serve_queue(struct lb_select *sel);

#endif
