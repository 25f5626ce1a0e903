/* SPDX-License-Identifier: MIT */
/*
 * The whole service at one moment, as one line of JSON: what `lbctl top` and the page show. Counts
 * only, no rates: a reader takes the difference of two, <uptime_ms> tells how far apart they are.
 *
 *   {"ok":true, "version", "instance", "pid", "state", "start_ms", "flows", "reload":{..},
 *    "uptime_ms", "total":{..}, "carriers":[..], "rules":[..], "backends":[..], "left_out":0}
 *
 * Nothing in it names a client.
 */
#ifndef LB_CONTROL_OVERVIEW_H
#define LB_CONTROL_OVERVIEW_H

#include <stddef.h>

#include "control/admin_text.h"

struct lb_service;

struct lb_overview_opts {
	const char *instance; /* NULL: the default one */
	size_t rows_max;      /* rules and backends together; what is beyond is counted */
};

/* Any thread. 0 or -ENOMEM; <t>, to be freed by the caller, may have failed all the same. */
int lb_overview_write(struct lb_admin_text *t, struct lb_service *s,
		      const struct lb_overview_opts *opts);

/* For the page: bounded, *ret from malloc. <service> is a struct lb_service. 0 or -errno. */
int lb_overview_render(char **ret, size_t *len, void *service);

#endif
