/* SPDX-License-Identifier: MIT */
/*
 * What every tool needs around its own work: a listening socket, a size on the command line, an
 * end by signal, enough descriptors. Not part of the load balancer.
 */
#ifndef LB_TOOLS_TOOL_H
#define LB_TOOLS_TOOL_H

#include <stdint.h>

#include "base/addr.h"
#include "loop/loop.h"

/* Exit codes, the load balancer's own words for them; FAILED is a tool's verdict on the bytes. */
enum lb_tool_exit {
	LB_TOOL_OK = 0,
	LB_TOOL_FAILED = 1,
	LB_TOOL_USAGE = 2,
	LB_TOOL_SYSTEM = 3,
};

/* A non-blocking, listening TCP socket, or -errno. IPv6 sockets listen to IPv6 only. */
int lb_tool_listen(const struct lb_addr *addr);

/* The next waiting connection, non-blocking and with TCP_NODELAY, or -errno (-EAGAIN: none). */
int lb_tool_accept(int fd);

/* "4096", "64KiB", "10MB", "1GiB" in bytes; more than 0. 0, or -EINVAL with *ret untouched. */
int lb_tool_parse_size(const char *text, uint64_t *ret);

/* A plain decimal number from <min> to <max>. 0, or -EINVAL with *ret untouched. */
int lb_tool_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret);

/* Ends the watch and closes its descriptor, which must have no other copy. -1 is fine. */
void lb_tool_close(struct lb_loop *loop, struct lb_watch *w);

/* As many descriptors as the hard limit allows. Failure is harmless and stays silent. */
void lb_tool_raise_nofile(void);

/*
 * SIGINT and SIGTERM stop <loop> from now on; SIGPIPE is ignored. Call before other threads
 * exist. 0 or -errno. The descriptor lives as long as the process.
 */
int lb_tool_stop_on_signal(struct lb_loop *loop);

#endif
