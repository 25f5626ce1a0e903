/* SPDX-License-Identifier: MIT */
/* See metrics_reloads.h. */
#include "control/metrics_reloads.h"

#include <inttypes.h>

#include "control/metrics_text.h"

void lb_metrics_print_reloads(const struct lb_reload_report *report, FILE *out)
{
	lb_metrics_text_head(
		out, "l4lb_config_generation", "gauge",
		"Of the configuration in force: 1 at the start, one more with each reload.");
	fprintf(out, "l4lb_config_generation %" PRIu64 "\n", report->generation);
	lb_metrics_text_head(out, "l4lb_reloads_total", "counter",
			     "Reloads, by what became of them.");
	fprintf(out, "l4lb_reloads_total{result=\"applied\"} %" PRIu64 "\n", report->applied);
	fprintf(out, "l4lb_reloads_total{result=\"refused\"} %" PRIu64 "\n", report->refused);
	lb_metrics_text_head(out, "l4lb_last_reload_timestamp_seconds", "gauge",
			     "When the last reload was tried; 0: never.");
	fprintf(out, "l4lb_last_reload_timestamp_seconds %" PRIu64 "\n", report->last_s);
	lb_metrics_text_head(out, "l4lb_last_reload_applied", "gauge",
			     "1 unless the last reload was refused.");
	fprintf(out, "l4lb_last_reload_applied %d\n", report->results & 1 || !report->last_s);
}
