/* SPDX-License-Identifier: MIT */
/* What the metrics say of the daemon itself. */
#ifndef LB_CONTROL_METRICS_PROCESS_H
#define LB_CONTROL_METRICS_PROCESS_H

#include <stdio.h>

struct lb_service;

/* Any thread. */
void lb_metrics_print_process(const struct lb_service *s, FILE *out);

#endif
