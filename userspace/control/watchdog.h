/* SPDX-License-Identifier: MIT */
/*
 * The service manager's watchdog: it hears of us while every worker's loop turns, and restarts us
 * when it does not (systemd: WatchdogSec=). Main thread only, which thereby vouches for itself.
 */
#ifndef LB_CONTROL_WATCHDOG_H
#define LB_CONTROL_WATCHDOG_H

#include <stdbool.h>
#include <stdint.h>

struct lb_service;

struct lb_watchdog {
	uint64_t every_ms; /* 0: nobody wants to hear */
	uint64_t due_ms;
	bool silent; /* a worker owes an answer */
};

/* Whether the environment asks for it. */
void lb_watchdog_init(struct lb_watchdog *w);
/* To be called again within so many ms, lb_clock_ms() scale for <now_ms>; -1: whenever. */
int lb_watchdog_look(struct lb_watchdog *w, struct lb_service *s, uint64_t now_ms);

#endif
