/* SPDX-License-Identifier: MIT */
/* libbpf's messages in the daemon's log, one level lower, and the first complaint at hand. */
#ifndef LB_KERNEL_LIBBPF_LOG_H
#define LB_KERNEL_LIBBPF_LOG_H

#include <stdbool.h>

/* Routes libbpf's messages to lb_log() from now on, and forgets the first complaint. */
void lb_libbpf_log_start(void);

/*
 * libbpf's first warning in this thread since lb_libbpf_log_start(), without newline; "" if none.
 * It names the cause; later ones only tell which steps failed because of it.
 */
const char *lb_libbpf_log_cause(void);

/* libxdp's messages too, and all of both at debug level: for what may fail and has another way. */
void lb_libbpf_log_quiet(bool quiet);

#endif
