/* SPDX-License-Identifier: MIT */
/* The metrics in Prometheus' text format. */
#ifndef LB_CONTROL_METRICS_H
#define LB_CONTROL_METRICS_H

#include <stdio.h>

/* <arg>: a struct lb_service. 0 or -ENOMEM. Any one thread. */
int lb_metrics_render(FILE *out, void *arg);

#endif
