/* SPDX-License-Identifier: MIT */
/*
 * A reply under construction: one line of JSON that grows to a bound. Objects are made with
 * jansson and written down one by one, so that a long list never exists as a tree.
 */
#ifndef LB_CONTROL_ADMIN_TEXT_H
#define LB_CONTROL_ADMIN_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define LB_ADMIN_TEXT_MAX (64u << 20)

struct lb_admin_text {
	char *bytes; /* owned */
	size_t len, room;
	bool failed; /* no memory, or too large: what stands there is worth nothing */
	bool in_list;
};

/* Begins anew with {"ok":true and what <head> says (taken over; NULL: nothing). */
void lb_admin_text_begin(struct lb_admin_text *t, json_t *head);
/* The next member, not in a list; taken over, NULL stands for no memory. */
void lb_admin_text_add_member(struct lb_admin_text *t, const char *name, json_t *value);
/* A list, as the next member. One after the other, not one in another. */
void lb_admin_text_begin_list(struct lb_admin_text *t, const char *name);
/* Its next item; taken over, NULL stands for no memory. */
void lb_admin_text_add(struct lb_admin_text *t, json_t *item);
void lb_admin_text_end_list(struct lb_admin_text *t);
/* The end of the line. False: it has failed. */
bool lb_admin_text_end(struct lb_admin_text *t);

/* The whole line at once, instead of what was there: {"ok":false,"error":..}. */
void lb_admin_text_refuse(struct lb_admin_text *t, const char *why);
void lb_admin_text_fini(struct lb_admin_text *t);

#endif
