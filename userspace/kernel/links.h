/* SPDX-License-Identifier: MIT */
/*
 * The interfaces a program is attached to: those that were named, or every one that has an address
 * and Ethernet framing, lo included. Interfaces that come, get an address, or go are followed. How
 * a program gets there is its owner's business.
 *
 * One thread opens, attaches, follows and closes; lb_links_is_attached() and lb_links_attached()
 * may be called by any.
 */
#ifndef LB_KERNEL_LINKS_H
#define LB_KERNEL_LINKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <net/if.h>

#include "kernel/netlink.h"

/* Interfaces that are looked at; what is beyond is not attached. */
#define LB_LINKS_MAX 4096

struct lb_links;

/*
 * Of a TC filter of ours: tells instances and versions apart, by 23 bits of a hash of the
 * instance's pin directory and 8 of <abi>. Pure, and must not change: later versions find filters
 * by it.
 */
#define LB_LINKS_HANDLE_MASK 0xffffff00u /* the instance */
uint32_t lb_links_handle(const char *pin_name, uint32_t abi);

/* An interface that we are, or want to be, attached to. */
struct lb_link {
	uint32_t ifindex;
	bool attached;
	bool complained; /* why it is not attached stands in the log */
	char name[IF_NAMESIZE];
};

/* What attach() answers when there is nothing to do. */
#define LB_LINKS_NOT_THERE 1

struct lb_links_opts {
	const char *what; /* first word of the log's lines */
	void *arg;        /* of the functions */
	/*
	 * Attaches to <i>, or makes sure of it; when it is not <wanted>, only where an earlier
	 * daemon was. 0, with *fresh when there was nothing of ours before; LB_LINKS_NOT_THERE; or
	 * -errno.
	 */
	int (*attach)(void *arg, const struct lb_netlink_iface *i, bool wanted, bool *fresh);
	void (*detach)(void *arg, const struct lb_link *link);
	const char *(*explain)(int err);
};

/* 0 or -errno; <opts> is copied. */
int lb_links_open(struct lb_links **ret, const struct lb_links_opts *opts);
/* Detaches everywhere, unless <keep>. NULL is fine. */
void lb_links_close(struct lb_links **l, bool keep);

/*
 * Attaches to <interfaces>, or, when there are none, as said above. 0 or -errno (no interface could
 * be attached).
 */
int lb_links_attach(struct lb_links *l, char *const *interfaces, size_t count);

/* The same with what was asked for last, wherever it is attached already. */
int lb_links_attach_again(struct lb_links *l);

/* Readable when there are news: lb_links_follow(). */
int lb_links_fd(const struct lb_links *l);
/* Does what the news ask for. LB_NETLINK_NEWS_*, or -ENOBUFS: anything may have happened. */
int lb_links_follow(struct lb_links *l);

bool lb_links_is_attached(struct lb_links *l, uint32_t ifindex);
/* "lo, eth0": for the log line. Returns buf. */
const char *lb_links_attached(struct lb_links *l, char *buf, size_t size);

#endif
