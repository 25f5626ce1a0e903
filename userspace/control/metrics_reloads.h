/* SPDX-License-Identifier: MIT */
/* What became of the reloads, for Prometheus. */
#ifndef LB_CONTROL_METRICS_RELOADS_H
#define LB_CONTROL_METRICS_RELOADS_H

#include <stdio.h>

#include "control/service.h"

void lb_metrics_print_reloads(const struct lb_reload_report *report, FILE *out);

#endif
