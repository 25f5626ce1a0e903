/* SPDX-License-Identifier: MIT */
/* See select_queue.h. */
#include "flow/select_queue.h"

#include "base/cleanup.h"

static struct lb_waiter *waiter_of(struct lb_list *node)
{
	return lb_container_of(node, struct lb_waiter, node);
}

void lb_select_queue_init(struct lb_select_queue *q)
{
	lb_list_init(&q->waiters);
	q->count = 0;
}

void lb_select_queue_add(struct lb_select_queue *q, struct lb_waiter *w)
{
	struct lb_list *behind = q->waiters.prev;

	w->round = 0;
	lb_list_for_each (node, &q->waiters)
		w->round += waiter_of(node)->ask.source == w->ask.source;
	while (behind != &q->waiters && waiter_of(behind)->round > w->round)
		behind = behind->prev;
	/* Appended to what begins behind it: right after it. */
	lb_list_append(behind->next, &w->node);
	__atomic_store_n(&q->count, q->count + 1, __ATOMIC_RELAXED);
}

void lb_select_queue_remove(struct lb_select_queue *q, struct lb_waiter *w)
{
	lb_list_remove(&w->node);
	__atomic_store_n(&q->count, q->count - 1, __ATOMIC_RELAXED);
}

struct lb_waiter *lb_select_queue_first(const struct lb_select_queue *q)
{
	return lb_list_empty(&q->waiters) ? NULL : waiter_of(q->waiters.next);
}

void lb_door_init(struct lb_door *door, void (*notify)(struct lb_door *door))
{
	pthread_mutex_init(&door->lock, NULL);
	lb_list_init(&door->granted);
	door->notify = notify;
}

void lb_door_fini(struct lb_door *door)
{
	pthread_mutex_destroy(&door->lock);
}

struct lb_waiter *lb_door_next(struct lb_door *door)
{
	struct lb_waiter *w = NULL;

	pthread_mutex_lock(&door->lock);
	if (!lb_list_empty(&door->granted)) {
		w = waiter_of(door->granted.next);
		lb_list_remove(&w->node);
	}
	pthread_mutex_unlock(&door->lock);
	return w;
}

void lb_door_add(struct lb_door *door, struct lb_waiter *w)
{
	bool first;

	pthread_mutex_lock(&door->lock);
	first = lb_list_empty(&door->granted);
	lb_list_append(&door->granted, &w->node);
	pthread_mutex_unlock(&door->lock);
	if (first)
		door->notify(door);
}

void lb_door_remove(struct lb_door *door, struct lb_waiter *w)
{
	pthread_mutex_lock(&door->lock);
	lb_list_remove(&w->node);
	pthread_mutex_unlock(&door->lock);
}
