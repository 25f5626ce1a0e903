/* SPDX-License-Identifier: MIT */
/* Replies of the daemon as tables and sentences. */
#ifndef LB_TOOLS_LBCTL_SHOW_H
#define LB_TOOLS_LBCTL_SHOW_H

#include <jansson.h>
#include <stdio.h>

/* All of them: 0 or -ENOMEM. What a reply lacks is shown as "-". */
int lb_show_status(const json_t *reply, FILE *out);
int lb_show_backends(const json_t *reply, FILE *out);
int lb_show_flows(const json_t *reply, FILE *out);
int lb_show_drain(const json_t *reply, FILE *out);
int lb_show_weight(const json_t *reply, FILE *out);
int lb_show_log(const json_t *reply, FILE *out);
int lb_show_upgrade(const json_t *reply, FILE *out);
int lb_show_reload(const json_t *reply, FILE *out);
int lb_show_cluster(const json_t *reply, FILE *out);
int lb_show_metrics(const json_t *reply, FILE *out);
int lb_show_version(const json_t *reply, FILE *out);
/* One whose ok says it all. */
int lb_show_nothing(const json_t *reply, FILE *out);

#endif
