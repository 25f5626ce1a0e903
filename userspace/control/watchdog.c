/* SPDX-License-Identifier: MIT */
/*
 * See watchdog.h. Four looks in the manager's interval: each asks all workers to answer before the
 * next one. A worker that was asked late, or takes long over a turn, has three more. Must never
 * wait for a worker.
 */
#include "control/watchdog.h"

#include "base/log.h"
#include "base/notify.h"
#include "control/service_parts.h"
#include "worker.h"

#define LOOKS 4

void lb_watchdog_init(struct lb_watchdog *w)
{
	uint64_t ms = lb_notify_watchdog_us() / 1000 / LOOKS;

	/* poll(2) counts in int. */
	if (ms > 3600 * 1000)
		ms = 3600 * 1000;
	*w = (struct lb_watchdog){.every_ms = ms};
}

/* All of them are asked, also when the first one owes an answer. */
static bool all_turn(struct lb_service *s)
{
	bool all = true;

	for (uint32_t i = 0; i < s->workers_count; i++)
		all &= lb_worker_turns(s->workers[i]);
	return all;
}

int lb_watchdog_look(struct lb_watchdog *w, struct lb_service *s, uint64_t now_ms)
{
	if (!w->every_ms)
		return -1;
	if (now_ms < w->due_ms)
		return (int)(w->due_ms - now_ms);
	w->due_ms = now_ms + w->every_ms;
	if (all_turn(s)) {
		w->silent = false;
		(void)lb_notify("WATCHDOG=1");
	} else if (!w->silent) {
		w->silent = true;
		lb_warn("watchdog: a worker's loop has not turned for %llu ms",
			(unsigned long long)w->every_ms);
	}
	return (int)w->every_ms;
}
