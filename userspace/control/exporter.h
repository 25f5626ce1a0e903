/* SPDX-License-Identifier: MIT */
/*
 * The HTTP endpoint of the metrics: GET /metrics. And of two questions that are answered by the
 * status: /healthz (is there a daemon: 200), /readyz (does it take new clients: 200 or 503). When
 * somebody wants it, the dashboard besides: / and what that asks for, /overview.json. A thread of
 * its own, a handful of connections at a time, ten seconds of patience with each; nothing in it can
 * hold up a worker.
 */
#ifndef LB_CONTROL_EXPORTER_H
#define LB_CONTROL_EXPORTER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/addr.h"

struct lb_exporter;

/*
 * Writes the metrics to <out>. Called from the exporter's thread, one call at a time, for every
 * scrape. Not 0: the scrape is answered with 500.
 */
typedef int (*lb_exporter_render_fn)(FILE *out, void *arg);
/* Whether new clients are taken. As above. */
typedef bool (*lb_exporter_ready_fn)(void *arg);
/* What the dashboard shows, in *ret, from malloc. As above. */
typedef int (*lb_exporter_overview_fn)(char **ret, size_t *len, void *arg);

struct lb_exporter_opts {
	const struct lb_addr *addr;
	lb_exporter_render_fn render;
	lb_exporter_ready_fn ready;
	lb_exporter_overview_fn overview; /* NULL: no dashboard */
	void *arg;
	int fd; /* listens at <addr> already: taken over in any case; -1: none does */
};

/* 0, or -errno with *ret untouched: -EADDRINUSE and what else socket, bind and listen say. */
int lb_exporter_open(struct lb_exporter **ret, const struct lb_exporter_opts *opts);

/* The address it listens on, with the port the kernel chose when <addr> had port 0. */
const struct lb_addr *lb_exporter_addr(const struct lb_exporter *e);

/* The listening socket, to be shared. */
int lb_exporter_fd(const struct lb_exporter *e);
/*
 * Another daemon is to have it: no more new clients here, and those that ask are answered, or four
 * seconds are over, when this returns. And the way back.
 */
void lb_exporter_pause(struct lb_exporter *e);
void lb_exporter_resume(struct lb_exporter *e);
/* After lb_exporter_pause(): the other one has it. */
void lb_exporter_leave(struct lb_exporter *e);

/* <render> is not called any more when this returns. Sets *e to NULL; NULL is fine. */
void lb_exporter_close(struct lb_exporter **e);

#endif
