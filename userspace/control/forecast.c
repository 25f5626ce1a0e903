/* SPDX-License-Identifier: MIT */
/*
 * Decides what counts as "how it goes": the last few seconds, older ones ever less. Must never
 * promise an end that nothing points to.
 */
#include "control/forecast.h"

/* Half of what is said comes from so long ago or longer, roughly. */
#define MEMORY_MS 5000.0
/* Rarer ends than one in so many seconds are none. */
#define ENDS_MIN (1.0 / 600)

static double blend(double old, double fresh, double share)
{
	return old + (fresh - old) * share;
}

void lb_forecast_feed(struct lb_forecast *f, uint64_t now_ms, uint64_t flows, uint64_t idle,
		      uint64_t bytes)
{
	double ms = (double)(now_ms - f->at_ms), bytes_now, ends_now, share;

	if (f->begun && now_ms > f->at_ms) {
		bytes_now = (double)(bytes - f->bytes) * 1000 / ms;
		ends_now = f->flows > flows ? (double)(f->flows - flows) * 1000 / ms : 0;
		share = ms / (MEMORY_MS + ms);
		/* Until there is a memory, what is new is all there is. */
		if (f->bytes_per_second == 0 && f->ends_per_second == 0)
			share = 1;
		f->bytes_per_second = blend(f->bytes_per_second, bytes_now, share);
		f->ends_per_second = blend(f->ends_per_second, ends_now, share);
	}
	f->begun = true;
	f->at_ms = now_ms;
	f->flows = flows;
	f->idle = idle;
	f->bytes = bytes;
}

uint64_t lb_forecast_gone_ms(const struct lb_forecast *f)
{
	if (f->begun && !f->flows)
		return 0;
	if (!f->begun || f->ends_per_second < ENDS_MIN)
		return LB_FORECAST_UNKNOWN;
	return (uint64_t)((double)f->flows * 1000 / f->ends_per_second);
}
