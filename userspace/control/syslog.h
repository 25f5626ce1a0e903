/* SPDX-License-Identifier: MIT */
/*
 * The local syslog, /dev/log: one datagram a line. syslog(3) is not used because it blocks while
 * nobody reads, and connects again by itself when that suits it. One thread at a time.
 */
#ifndef LB_CONTROL_SYSLOG_H
#define LB_CONTROL_SYSLOG_H

#include <stddef.h>

struct lb_syslog {
	int fd; /* -1: not connected */
	int priority;
	const char *path; /* borrowed */
};

#define LB_SYSLOG_PATH "/dev/log"

/* Connects when there is something to send, not now. <facility>: LOG_DAEMON and so on. */
void lb_syslog_init(struct lb_syslog *s, const char *path, int facility);
/*
 * Sends one line. 0; -EAGAIN when the reader is behind: <s>->fd polls as writable when it is not;
 * -EMSGSIZE: this line will never go; or -errno: nobody is there, call again later. Never blocks.
 */
int lb_syslog_send(struct lb_syslog *s, const char *line, size_t len);
void lb_syslog_fini(struct lb_syslog *s);

#endif
