/* SPDX-License-Identifier: MIT */
/*
 * same_host_bypass in the kernel: two programs, their tables, where they are attached. See
 * include/lb/same_host.h.
 *
 * Life: lb_same_host_open() once in the main thread, before privileges are dropped;
 * lb_same_host_add() for every endpoint, before the listeners are opened; lb_same_host_close()
 * once, after every worker has ended. Sockets that are under watch by then stay so until they are
 * closed, and the kernel keeps the tables for as long: what they have yet to read is not lost.
 */
#ifndef LB_KERNEL_SAME_HOST_H
#define LB_KERNEL_SAME_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <lb/same_host.h>

#include "base/addr.h"

struct lb_same_host;

struct lb_same_host_opts {
	const char *instance; /* NULL: the default */
	uint32_t sockets;     /* under watch at once */
	uint32_t endpoints;   /* at most so many lb_same_host_add() */
};

struct lb_same_host_report {
	char detail[256];   /* one human sentence when it is not in service */
	char cgroup[128];   /* directory of the control group it is attached to */
	char pin_note[192]; /* why there are no pins, "" otherwise */
};

/*
 * 0 with *ret set: from now on connections of added endpoints are watched. Otherwise -errno, *ret
 * untouched, report->detail says why and nothing stays behind. The report is always filled in.
 * Attached through a link of this process: when it ends, however it ends, nothing stays attached.
 */
int lb_same_host_open(struct lb_same_host **ret, const struct lb_same_host_opts *opts,
		      struct lb_same_host_report *report);
/* NULL is fine. */
void lb_same_host_close(struct lb_same_host *h);

/*
 * Another daemon of this instance picks new connections, and pins its own; those that are under
 * watch stay so. And the way back: 0 or -errno. NULL is fine.
 */
void lb_same_host_leave(struct lb_same_host *h);
int lb_same_host_take(struct lb_same_host *h, const char *instance);

/* A listener's or a backend's address. 0, also when it is known; -ENOSPC, -ENOMEM; -errno. */
int lb_same_host_add(struct lb_same_host *h, const struct lb_addr *endpoint);
/* Connections to <endpoint> may be bypassed: it, or one it shares addresses with, was added. */
bool lb_same_host_covers(const struct lb_same_host *h, const struct lb_addr *endpoint);

/* Sum over the CPUs. Any thread. */
uint64_t lb_same_host_count(const struct lb_same_host *h, enum lb_same_host_counter which);
const char *lb_same_host_counter_word(enum lb_same_host_counter which);

/*
 * Pure: the first cgroup2 file system that <mounts>, in the format of /proc/self/mounts, names.
 * 0; -ENOENT.
 */
int lb_same_host_find_cgroup(FILE *mounts, char *ret, size_t size);

#endif
