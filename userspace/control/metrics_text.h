/* SPDX-License-Identifier: MIT */
/* Pieces of Prometheus' text format. */
#ifndef LB_CONTROL_METRICS_TEXT_H
#define LB_CONTROL_METRICS_TEXT_H

#include <stdbool.h>
#include <stdio.h>

/* What stands before the samples of a name. */
void lb_metrics_text_head(FILE *out, const char *name, const char *type, const char *help);
/* A label; <first>: of its sample. The brace behind the last one is the caller's. */
void lb_metrics_text_label(FILE *out, const char *key, const char *value, bool first);

#endif
