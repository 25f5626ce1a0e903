/* SPDX-License-Identifier: MIT */
/* struct lb_graft_table, for the graft files of this folder (and their tests) only. */
#ifndef LB_KERNEL_GRAFT_HANDLE_H
#define LB_KERNEL_GRAFT_HANDLE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <net/if.h>

#include "kernel/graft_load.h"
#include "kernel/graft_pin.h"
#include "kernel/graft_route.h"
#include "kernel/graft_table.h"
#include "kernel/links.h"

struct ring_buffer;

/* Versions whose tables can wait for their end at a time. */
#define LB_GRAFT_FOREIGN_MAX 4

/* Tables of another version, in abi<N>; its program is still attached. */
struct lb_graft_foreign {
	uint32_t abi;
	int dir_fd;
	int count_fd;       /* its lb_graft_count; -1: not readable, so it stays */
	uint64_t forwarded; /* as seen last */
	uint64_t since_ms;  /* .. and since when it is that */
};

struct lb_graft_table {
	struct lb_graft_load load;
	struct lb_graft_pin pin;

	/* The consumer's. */
	struct ring_buffer *records;
	uint64_t lost_seen;
	void (*fn)(void *arg, const struct lb_graft_event *e);
	void *arg;

	pthread_mutex_t counts_lock;
	uint64_t *counts; /* one per possible CPU */

	/* The follower's. */
	uint32_t handle; /* of our filters */
	struct lb_links *links;
	int poll_fd;  /* epoll over the links' descriptor and <timer_fd> */
	int timer_fd; /* readable every minute; -1: nothing to look at */
	struct lb_graft_foreign foreign[LB_GRAFT_FOREIGN_MAX];
	size_t foreign_count;
	uint64_t foreign_checked_ms;

	pthread_mutex_t route_lock;
	struct mnl_socket *route;
};

/* Sum over the CPUs of <key> of per-CPU array <fd>. <values> has room for all. 0 or -errno. */
int lb_graft_count_sum(int fd, uint32_t key, uint64_t *values, uint64_t *ret);

/* --- graft_attach.c --------------------------------------------------------------------------- */

/*
 * Of the filters. Low priorities are asked first: whoever attached a policy of his own, with a
 * number or with one that tc chose (49152 and below), is heard before us. It may not change: a
 * later version finds our filters by it and by lb_links_handle().
 */
#define LB_GRAFT_PRIORITY 0xf000u

/* 0 or -errno; to be closed in either case. */
int lb_graft_attach_open(struct lb_graft_table *t);
/* Makes the follower's descriptor readable when <fd> is. 0 or -errno. */
int lb_graft_attach_watch(const struct lb_graft_table *t, int fd);
/* Detaches everywhere, unless <keep>. */
void lb_graft_attach_close(struct lb_graft_table *t, bool keep);
/*
 * Removes every filter whose handle, under <mask>, is <handle>, and says so to <told> (may be
 * NULL). 0 or the first -errno.
 */
int lb_graft_attach_sweep(uint32_t handle, uint32_t mask,
			  void (*told)(const char *ifname, uint32_t handle));

/* --- graft_foreign.c -------------------------------------------------------------------------- */

/*
 * Finds what was set aside, and sees to it that it is looked at. Whatever cannot be read stays.
 * After lb_graft_attach_open().
 */
void lb_graft_foreign_open(struct lb_graft_table *t);
/* At most once a minute: removes the tables that no packet has used for a quarter of an hour. */
void lb_graft_foreign_check(struct lb_graft_table *t, uint64_t now_ms);
/* Removes all of them, unless <keep>. */
void lb_graft_foreign_close(struct lb_graft_table *t, bool keep);

#endif
