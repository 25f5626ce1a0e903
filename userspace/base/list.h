/* SPDX-License-Identifier: MIT */
/* Circular intrusive doubly linked list. An unlinked node points at itself. */
#ifndef LB_BASE_LIST_H
#define LB_BASE_LIST_H

#include <stdbool.h>

struct lb_list {
	struct lb_list *next, *prev;
};

static inline void lb_list_init(struct lb_list *l)
{
	l->next = l->prev = l;
}

static inline bool lb_list_empty(const struct lb_list *l)
{
	return l->next == l;
}

static inline void lb_list_append(struct lb_list *head, struct lb_list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

/* Harmless on a node that is not linked. */
static inline void lb_list_remove(struct lb_list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	lb_list_init(node);
}

/* Moves every node of <from> behind the last of <to>; <from> ends up empty. */
static inline void lb_list_splice(struct lb_list *to, struct lb_list *from)
{
	if (lb_list_empty(from))
		return;
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	lb_list_init(from);
}

/* <it> must not be removed in the body. */
#define lb_list_for_each(it, head) \
	for (struct lb_list *it = (head)->next; it != (head); it = it->next)

#endif
