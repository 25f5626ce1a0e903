/* SPDX-License-Identifier: MIT */
/* A string of a reply, and what stands for one that is not there, or null. */
#ifndef LB_TOOLS_LBCTL_WORD_H
#define LB_TOOLS_LBCTL_WORD_H

#include <jansson.h>

static inline const char *lb_word(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "";
}

static inline const char *lb_word_or_dash(const json_t *o, const char *key)
{
	const char *text = json_string_value(json_object_get(o, key));

	return text ? text : "-";
}

#endif
