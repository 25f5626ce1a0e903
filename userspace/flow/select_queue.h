/* SPDX-License-Identifier: MIT */
/*
 * In which order those wait that no backend has room for: first come, first served, but by turns
 * over clients: whoever has one waiting stands behind everybody who has none.
 *
 *   OUT --lb_select_wait()--> QUEUED --a backend has room--> GRANTED --lb_select_leave()--> OUT
 *                               |                                                            ^
 *                               +----------------- lb_select_leave(): gives up --------------+
 *
 * Knows no descriptor, no session, no clock. Under the rule's lock (select.c).
 */
#ifndef LB_FLOW_SELECT_QUEUE_H
#define LB_FLOW_SELECT_QUEUE_H

#include <pthread.h>

#include "base/list.h"
#include "flow/select.h"

enum lb_waiter_state { LB_WAITER_OUT = 0, LB_WAITER_QUEUED, LB_WAITER_GRANTED };

/*
 * Where those of one worker come to who were granted a backend, by whatever thread. <notify> is
 * called when one comes to an empty door: under locks, so it may do no more than wake the worker.
 */
struct lb_door {
	pthread_mutex_t lock;
	struct lb_list granted; /* struct lb_waiter */
	void (*notify)(struct lb_door *door);
};

/* One who waits; zero is OUT. */
struct lb_waiter {
	struct lb_list node; /* QUEUED: of the queue; GRANTED: of the door */
	struct lb_select_ask ask;
	struct lb_door *door;
	struct lb_backend *backend; /* GRANTED: taken for it */
	uint32_t round;             /* so many of its client's stood before it */
	enum lb_waiter_state state;
};

struct lb_select_queue {
	struct lb_list waiters;
	uint32_t count; /* may be read by anybody, relaxed */
};

void lb_select_queue_init(struct lb_select_queue *q);
/* Costs a step for each one who waits. */
void lb_select_queue_add(struct lb_select_queue *q, struct lb_waiter *w);
void lb_select_queue_remove(struct lb_select_queue *q, struct lb_waiter *w);
/* NULL: nobody waits. */
struct lb_waiter *lb_select_queue_first(const struct lb_select_queue *q);

/* A door with nobody at it. <notify>: see above. */
void lb_door_init(struct lb_door *door, void (*notify)(struct lb_door *door));
void lb_door_fini(struct lb_door *door);
/* The next one at the door, still GRANTED, NULL when there is none. The worker's thread. */
struct lb_waiter *lb_door_next(struct lb_door *door);
void lb_door_add(struct lb_door *door, struct lb_waiter *w);
/* Harmless when lb_door_next() has had it. */
void lb_door_remove(struct lb_door *door, struct lb_waiter *w);

#endif
