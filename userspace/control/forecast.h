/* SPDX-License-Identifier: MIT */
/*
 * What becomes of a backend's flows if all goes on as it does: fed with what is counted now and
 * then, it tells how fast they move and end. Pure: no clock of its own.
 */
#ifndef LB_CONTROL_FORECAST_H
#define LB_CONTROL_FORECAST_H

#include <stdbool.h>
#include <stdint.h>

/* Zero is "nothing known yet". */
struct lb_forecast {
	bool begun;
	uint64_t at_ms;
	uint64_t flows, idle; /* at the last look */
	uint64_t bytes;       /* moved since whenever */
	double bytes_per_second, ends_per_second;
};

/* Not known, or never. */
#define LB_FORECAST_UNKNOWN UINT64_MAX

/* A look: <bytes> never fall; what comes in the millisecond of the last one replaces it. */
void lb_forecast_feed(struct lb_forecast *f, uint64_t now_ms, uint64_t flows, uint64_t idle,
		      uint64_t bytes);
/* From the last look on: when the last flow will have ended by itself. */
uint64_t lb_forecast_gone_ms(const struct lb_forecast *f);

#endif
