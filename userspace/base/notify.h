/* SPDX-License-Identifier: MIT */
/*
 * Tells the service manager how we are: systemd's notification protocol, sd_notify(3), which its
 * manual describes for programs to speak without its library. Nothing happens unless NOTIFY_SOCKET
 * is set. One thread at a time.
 */
#ifndef LB_BASE_NOTIFY_H
#define LB_BASE_NOTIFY_H

#include <stdint.h>

/*
 * Sends assignments, "READY=1\nSTATUS=..". Waits a second at most when the manager is behind. 0,
 * also when nobody wants to know, or -errno.
 */
int lb_notify(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* How often the manager wants to hear WATCHDOG=1, microseconds; 0: it does not. */
uint64_t lb_notify_watchdog_us(void);

#endif
