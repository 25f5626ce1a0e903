/* SPDX-License-Identifier: MIT */
/* See metrics_process.h. */
#include "control/metrics_process.h"

#include <inttypes.h>

#include "control/metrics_text.h"
#include "control/service.h"

static void print(FILE *out, const char *name, const char *type, const char *help, uint64_t n)
{
	lb_metrics_text_head(out, name, type, help);
	fprintf(out, "%s %" PRIu64 "\n", name, n);
}

void lb_metrics_print_process(const struct lb_service *s, FILE *out)
{
	const struct lb_kernel_report *report = lb_service_kernel(s);
	uint64_t max, used = lb_service_sockmap_flows(s, &max);

	lb_metrics_text_head(out, "l4lb_sockmap_in_service", "gauge",
			     "1 when the sockmap carrier can be used.");
	fprintf(out, "l4lb_sockmap_in_service{reason=\"%s\"} %d\n", lb_why_word(report->why),
		report->why == LB_WHY_NONE);
	print(out, "l4lb_sockmap_flows", "gauge", "Flows on the sockmap carrier.", used);
	print(out, "l4lb_sockmap_flows_max", "gauge", "As many have room.", max);
	print(out, "l4lb_workers", "gauge", "Worker threads.", lb_service_workers(s));
	print(out, "l4lb_access_log_dropped_total", "counter",
	      "Access-log lines lost: the output was slow, or could not take them.",
	      lb_service_log_dropped(s));
	lb_metrics_text_head(out, "l4lb_build_info", "gauge", "Always 1.");
	fprintf(out, "l4lb_build_info{version=\"%s\"} 1\n", LB_VERSION);
}
