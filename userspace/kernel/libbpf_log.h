/* SPDX-License-Identifier: MIT */
/* libbpf's messages in the daemon's log, one level lower, and the last complaint at hand. */
#ifndef LB_KERNEL_LIBBPF_LOG_H
#define LB_KERNEL_LIBBPF_LOG_H

/* Routes libbpf's messages to lb_log() from now on, and forgets the last complaint. */
void lb_libbpf_log_start(void);

/* libbpf's last warning in this thread since lb_libbpf_log_start(), without newline; "" if none. */
const char *lb_libbpf_log_last(void);

#endif
