/* SPDX-License-Identifier: MIT */
/*
 * The access log: lines of the workers, written by a thread of their own. A worker never waits for
 * the output: its lines go into a ring, and when the ring is full because the output is slow or
 * broken, they are dropped and counted.
 *
 * Invariants
 *  I1  A line is in the output whole and unmixed, or not at all. The one exception: a file system
 *      that is full in the middle of a line and stays so until the end.
 *  I2  Lines of one worker keep their order.
 *  I3  lb_access_log_close() returns within a few seconds, whatever the output does, unless the
 *      kernel itself holds a write(2) to a file.
 */
#ifndef LB_CONTROL_ACCESS_LOG_H
#define LB_CONTROL_ACCESS_LOG_H

#include <stddef.h>
#include <stdint.h>

struct lb_access_log;

#define LB_ACCESS_LOG_SYSLOG "syslog"

struct lb_access_log_opts {
	/*
	 * "stdout", "stderr", LB_ACCESS_LOG_SYSLOG or a file to append to, made with mode 0640
	 * where it does not exist.
	 */
	const char *path;
	int facility;       /* of the syslog: LOG_DAEMON and so on .. */
	const char *socket; /* .. and where it listens, borrowed; NULL: where it always does */
	unsigned workers;
};

/*
 * A named pipe must have a reader (-ENXIO); the syslog may come later. 0, or -errno with *ret
 * untouched.
 */
int lb_access_log_open(struct lb_access_log **ret, const struct lb_access_log_opts *opts);

/*
 * Starts the writing thread, which inherits the caller's capabilities: open first, drop privileges,
 * then start. Once, before the first line. 0 or -errno.
 */
int lb_access_log_start(struct lb_access_log *log);

/*
 * Queues one line, given without its newline. Only the thread of <worker> (0..workers-1) may call.
 * Never blocks. A NULL log is one that is switched off.
 */
void lb_access_log_write(struct lb_access_log *log, unsigned worker, const char *line, size_t len);

/*
 * Lines lost so far: the ring was full, or the line is larger than a ring or than a datagram may
 * be. Any thread.
 */
uint64_t lb_access_log_dropped(const struct lb_access_log *log);

/*
 * Opens the file's name anew, after it was moved away. Lines queued before may still go to the old
 * file, which is let go within a second. 0; -ENOTSUP: there is no file (stdout, stderr and the
 * syslog stay what they are); -errno: the old file stays in use. Any thread, one at a time.
 */
int lb_access_log_reopen(struct lb_access_log *log);

/*
 * Writes out what is queued, ends the thread, sets *log to NULL. No worker may write any more. What
 * a pipe has not taken within three seconds, or a broken output at once, is lost, with a line in
 * the daemon's log.
 */
void lb_access_log_close(struct lb_access_log **log);

#endif
