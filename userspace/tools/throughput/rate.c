/* SPDX-License-Identifier: MIT */
/* See rate.h. Decimal units: a link of 10 Gbit/s carries 1.25 GB/s. */
#include "tools/throughput/rate.h"

#include <stdio.h>

#include "base/cleanup.h"

void lb_rate_start(struct lb_rate *r, uint64_t now_ns)
{
	*r = (struct lb_rate){.start_ns = now_ns, .line_ns = now_ns};
}

bool lb_rate_moved(const struct lb_rate *r)
{
	return r->bytes != r->line_bytes;
}

double lb_rate_seconds(const struct lb_rate *r, uint64_t now_ns)
{
	return (double)(now_ns - r->start_ns) / 1e9;
}

const char *lb_rate_format(double bytes, char buf[32])
{
	static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
	size_t u = 0;

	while (bytes >= 1000 && u + 1 < LB_ARRAY_SIZE(units)) {
		bytes /= 1000;
		u++;
	}
	snprintf(buf, 32, "%.*f %s", u ? 2 : 0, bytes, units[u]);
	return buf;
}

void lb_rate_print(struct lb_rate *r, uint64_t now_ns, unsigned int connections)
{
	double per_second = 0;
	char text[32];

	if (now_ns > r->line_ns)
		per_second =
			(double)(r->bytes - r->line_bytes) * 1e9 / (double)(now_ns - r->line_ns);
	printf("%6.1f s  %10s/s  %7.2f Gbit/s  %u connections\n", lb_rate_seconds(r, now_ns),
	       lb_rate_format(per_second, text), per_second * 8 / 1e9, connections);
	fflush(stdout);
	r->line_ns = now_ns;
	r->line_bytes = r->bytes;
}
