/* SPDX-License-Identifier: MIT */
/* See metrics_same_host.h. */
#include "control/metrics_same_host.h"

#include <inttypes.h>

#include "control/metrics_text.h"

static uint64_t same_host_count(const struct lb_same_host *h, enum lb_same_host_counter which)
{
	return h ? lb_same_host_count(h, which) : 0;
}

void lb_metrics_print_same_host(const struct lb_same_host *h, FILE *out)
{
	lb_metrics_text_head(out, "l4lb_same_host_in_service", "gauge",
			     "1 when same_host_bypass is asked for and works.");
	fprintf(out, "l4lb_same_host_in_service %d\n", h != NULL);
	lb_metrics_text_head(
		out, "l4lb_same_host_sockets_total", "counter",
		"Sockets of this host's processes put under watch, or not taken by the kernel.");
	for (unsigned int c = LB_SAME_HOST_SOCKETS; c <= LB_SAME_HOST_REFUSED; c++)
		fprintf(out, "l4lb_same_host_sockets_total{result=\"%s\"} %" PRIu64 "\n",
			lb_same_host_counter_word(c), same_host_count(h, c));
	lb_metrics_text_head(out, "l4lb_same_host_redirects_total", "counter",
			     "Messages that went from process to process without TCP.");
	fprintf(out, "l4lb_same_host_redirects_total %" PRIu64 "\n",
		same_host_count(h, LB_SAME_HOST_REDIRECTS));
	lb_metrics_text_head(out, "l4lb_same_host_bytes_total", "counter", "Their bytes.");
	fprintf(out, "l4lb_same_host_bytes_total %" PRIu64 "\n",
		same_host_count(h, LB_SAME_HOST_BYTES));
	lb_metrics_text_head(out, "l4lb_same_host_passes_total", "counter",
			     "Messages of watched sockets that went through TCP, by reason.");
	for (unsigned int c = LB_SAME_HOST_NO_PEER; c < LB_SAME_HOST_MAX_; c++)
		fprintf(out, "l4lb_same_host_passes_total{reason=\"%s\"} %" PRIu64 "\n",
			lb_same_host_counter_word(c), same_host_count(h, c));
}
