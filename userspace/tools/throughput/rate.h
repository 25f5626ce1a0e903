/* SPDX-License-Identifier: MIT */
/* Bytes moved since the start and since the last line: what both roles print every second. */
#ifndef LB_TOOLS_RATE_H
#define LB_TOOLS_RATE_H

#include <stdbool.h>
#include <stdint.h>

struct lb_rate {
	uint64_t bytes; /* so far; the owner adds to it */
	uint64_t start_ns, line_ns, line_bytes;
};

/* now_ns: lb_clock_ns(). */
void lb_rate_start(struct lb_rate *r, uint64_t now_ns);
/* One line on stdout about the time since the line before, or since the start. */
void lb_rate_print(struct lb_rate *r, uint64_t now_ns, unsigned int connections);
/* Whether bytes moved since the last line, or since the start. */
bool lb_rate_moved(const struct lb_rate *r);
double lb_rate_seconds(const struct lb_rate *r, uint64_t now_ns);
/* Writes "12.3 GB", "456 B". Returns <buf>. */
const char *lb_rate_format(double bytes, char buf[32]);

#endif
