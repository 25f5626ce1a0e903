/* SPDX-License-Identifier: MIT */
/*
 * The two services of the demo backend. Each listens on the address it is given and lives on the
 * one loop of the process; a process may have several of each.
 */
#ifndef LB_TOOLS_DEMO_H
#define LB_TOOLS_DEMO_H

#include "base/addr.h"
#include "base/list.h"
#include "loop/loop.h"

struct lb_demo_http;
struct lb_demo_echo;

/*
 * 0 with *ret set, or -errno with *ret untouched. <name> and <loop> must outlive the service.
 * Free from the loop's thread after the loop has stopped; open connections are cut. NULL is fine.
 */
int lb_demo_http_new(struct lb_demo_http **ret, struct lb_loop *loop, const struct lb_addr *addr,
		     const char *name);
void lb_demo_http_free(struct lb_demo_http *http);

int lb_demo_echo_new(struct lb_demo_echo **ret, struct lb_loop *loop, const struct lb_addr *addr);
void lb_demo_echo_free(struct lb_demo_echo *echo);

#endif
