/* SPDX-License-Identifier: MIT */
/* Decides how a histogram looks in Prometheus' text format. */
#include "control/metrics_histogram.h"

#include <inttypes.h>

#include "control/metrics_text.h"

static void begin(FILE *out, const struct lb_metrics_histogram *h, const char *suffix,
		  const char *rule, const char *backend)
{
	fprintf(out, "%s_%s", h->name, suffix);
	lb_metrics_text_label(out, "rule", rule, true);
	if (backend)
		lb_metrics_text_label(out, "backend", backend, false);
}

void lb_metrics_print_histogram(FILE *out, const struct lb_metrics_histogram *h, const char *rule,
				const char *backend, const uint64_t *counts, uint64_t sum)
{
	uint64_t below = 0;

	for (size_t b = 0; b < h->buckets; b++) {
		below += counts[b];
		begin(out, h, "bucket", rule, backend);
		fprintf(out, ",le=\"%g\"} %" PRIu64 "\n", (double)h->bounds[b] / h->per_second,
			below);
	}
	below += counts[h->buckets];
	begin(out, h, "bucket", rule, backend);
	fprintf(out, ",le=\"+Inf\"} %" PRIu64 "\n", below);
	begin(out, h, "sum", rule, backend);
	fprintf(out, "} %.6f\n", (double)sum / h->per_second);
	begin(out, h, "count", rule, backend);
	fprintf(out, "} %" PRIu64 "\n", below);
}
