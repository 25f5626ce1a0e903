/* SPDX-License-Identifier: MIT */
/* Where the access log goes: a file, a pipe, a standard stream, or the local syslog. */
#ifndef LB_CONTROL_ACCESS_LOG_OUTPUT_H
#define LB_CONTROL_ACCESS_LOG_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "control/syslog.h"

struct lb_access_log_output {
	int fd; /* polls as writable after -EAGAIN; -1: nothing to poll */
	bool atomic_chunks;
	bool to_syslog;
	struct lb_syslog syslog;
};

/* A descriptor for <path>, "stdout", "stderr" or a file, or -errno. */
int lb_access_log_output_open(const char *path);
/* May <path> be opened anew, because somebody may have moved it? */
bool lb_access_log_output_is_file(const char *path);

/* Takes over <fd>. */
void lb_access_log_output_set(struct lb_access_log_output *o, int fd);
/* <socket>: where the syslog listens; borrowed. */
void lb_access_log_output_set_syslog(struct lb_access_log_output *o, const char *socket,
				     int facility);
void lb_access_log_output_close(struct lb_access_log_output *o);

/*
 * Writes from the front of <len> bytes of whole lines. How many were written; -EAGAIN: the output
 * is full; -EMSGSIZE: the first line will never go; or -errno. Blocks on a file at most.
 */
ssize_t lb_access_log_output_write(struct lb_access_log_output *o, const char *text, size_t len);

#endif
