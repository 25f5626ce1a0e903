/* SPDX-License-Identifier: MIT */
/*
 * The graft program, its tables and its pins: loads them or adopts what an earlier daemon of the
 * same instance left behind. See include/lb/graft.h for what the tables hold.
 *
 * Life: lb_graft_table_open() once in the main thread, before privileges are dropped;
 * lb_graft_table_close() once, after every worker has ended. In between the functions below may be
 * called from any worker. None of them allocates.
 */
#ifndef LB_KERNEL_GRAFT_TABLE_H
#define LB_KERNEL_GRAFT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <lb/graft.h>

#include "kernel/kernel.h"

struct lb_graft_table;

struct lb_graft_table_opts {
	const char *instance; /* NULL: the default */
	uint32_t pairs;       /* 1..LB_GRAFT_PAIRS_MAX; adopted tables keep their own size */
	/* False: only adopt what is there, make nothing new (-ENOENT, LB_WHY_CONFIGURED). */
	bool create;
};

struct lb_graft_table_report {
	enum lb_why why;  /* LB_WHY_NONE: in service */
	char detail[256]; /* one human sentence */
	char pins[128];   /* directory of the pins; "" when there are none: then nothing survives */
	char pin_note[192];   /* why there are no pins, "" otherwise */
	bool adopted;         /* tables of an earlier daemon go on, with this daemon's program */
	uint32_t foreign_abi; /* an older version's tables were set aside; 0: none were */
};

/*
 * 0 with *ret set; otherwise -errno, *ret untouched, report->why and ->detail say why, and what was
 * pinned before is as it was. An adopted table keeps every graft in it.
 */
int lb_graft_table_open(struct lb_graft_table **ret, const struct lb_graft_table_opts *opts,
			struct lb_graft_table_report *report);
/*
 * With <keep> pins and filters stay and grafted flows go on without us; otherwise everything is
 * removed. NULL is fine.
 */
void lb_graft_table_close(struct lb_graft_table *t, bool keep);

/*
 * A daemon that was to take over has come to nothing: the pin and the filters lead to our program
 * again. 0 or -errno. The main thread; nobody follows meanwhile.
 */
int lb_graft_table_reclaim(struct lb_graft_table *t);

/*
 * `--unload`: removes filters, programs and pins of an instance that no daemon runs. Grafted flows
 * break. Prints one line per thing removed to stdout. 0, or -errno after a message on stderr;
 * nothing there is no error.
 */
int lb_graft_table_unload(const char *instance);

/* --- the tables ------------------------------------------------------------------------------- */

uint32_t lb_graft_table_pairs(const struct lb_graft_table *t);
/* Shared memory, valid until close. */
struct lb_graft *lb_graft_table_pair(struct lb_graft_table *t, uint32_t pair);

/* An address pair as a packet arrives with it: what the keys are made of. */
struct lb_graft_tuple {
	bool ipv6;
	__be32 saddr[4], daddr[4]; /* IPv4 in [0] */
	__be16 sport, dport;
};

/* 0; -EEXIST when another graft has it; -ENOSPC when the table is full; -errno. */
int lb_graft_table_add(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
		       uint32_t index);
/* Removes it if it still leads to <index>. */
void lb_graft_table_remove(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			   uint32_t index);
/* 0 with *index; -ENOENT. */
int lb_graft_table_find(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			uint32_t *index);

/* Pollable descriptor of the event ring (EPOLLIN), owned by <t>. */
int lb_graft_table_ring_fd(struct lb_graft_table *t);
/*
 * Hands every pending event to <fn>. True when events were lost since the last call: look at all
 * pairs. From one thread only.
 */
bool lb_graft_table_consume(struct lb_graft_table *t,
			    void (*fn)(void *arg, const struct lb_graft_event *e), void *arg);

/* Sum over the CPUs since the program's tables were made. */
uint64_t lb_graft_table_count(struct lb_graft_table *t, enum lb_graft_counter which);

/* --- where it is attached --------------------------------------------------------------------- */

/*
 * Attaches at TC ingress of <interfaces>, or, when there are none, of every interface that has an
 * address and Ethernet framing, lo included. Interfaces that come, get an address, or go are
 * followed: poll lb_graft_table_netlink_fd() for EPOLLIN and call lb_graft_table_follow(), from one
 * thread. 0 or -errno (no interface could be attached).
 */
int lb_graft_table_attach(struct lb_graft_table *t, char *const *interfaces, size_t count);
int lb_graft_table_netlink_fd(struct lb_graft_table *t);
/* True when lb_graft_table_route() may now answer otherwise than before. */
bool lb_graft_table_follow(struct lb_graft_table *t);
/* "lo, eth0": for the log line. Returns buf. */
const char *lb_graft_table_attached(struct lb_graft_table *t, char *buf, size_t size);

struct lb_graft_route {
	uint32_t ifindex; /* where packets to it leave; 0: the address is this host's own */
};
/*
 * The route of our packets from <tuple>'s daddr to its saddr, as the kernel sees it now. 0;
 * -EHOSTUNREACH; -EOPNOTSUPP when it leads over an interface where the program cannot work (not
 * attached, no Ethernet framing).
 */
int lb_graft_table_route(struct lb_graft_table *t, const struct lb_graft_tuple *tuple,
			 struct lb_graft_route *ret);

#endif
