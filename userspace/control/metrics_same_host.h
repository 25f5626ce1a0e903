/* SPDX-License-Identifier: MIT */
/* What same_host_bypass has done, for Prometheus. */
#ifndef LB_CONTROL_METRICS_SAME_HOST_H
#define LB_CONTROL_METRICS_SAME_HOST_H

#include <stdio.h>

#include "kernel/same_host.h"

/* <h>: NULL when it is not in service. */
void lb_metrics_print_same_host(const struct lb_same_host *h, FILE *out);

#endif
