/* SPDX-License-Identifier: MIT */
/* A backend as lbctl and the page are told of it. */
#ifndef LB_CONTROL_BACKEND_ROW_H
#define LB_CONTROL_BACKEND_ROW_H

#include <jansson.h>

struct lb_backend;
struct lb_rule;

/* <b>, which the caller holds, of <rule> or route. NULL without memory. Any thread. */
json_t *lb_backend_row(const struct lb_rule *rule, const struct lb_backend *b);

#endif
