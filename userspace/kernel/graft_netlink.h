/* SPDX-License-Identifier: MIT */
/*
 * What graft asks rtnetlink, in the network namespace of the caller: which interfaces there are and
 * when that changes, which filters they have, where a packet would go. Needs no capability but for
 * lb_graft_netlink_clsact().
 */
#ifndef LB_KERNEL_GRAFT_NETLINK_H
#define LB_KERNEL_GRAFT_NETLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <net/if.h>

#include "kernel/graft_table.h"

struct mnl_socket;

struct lb_graft_iface {
	uint32_t ifindex;
	uint16_t type;  /* ARPHRD_* */
	bool loopback;  /* .. is ARPHRD_LOOPBACK */
	bool framed;    /* Ethernet header, as on loopback */
	bool addressed; /* it has an IPv4 or a global IPv6 address */
	char name[IF_NAMESIZE];
};

/*
 * Fills <ret> with the interfaces as they are now. Returns how many, at most <max> (what is beyond
 * is not looked at), or -errno.
 */
int lb_graft_netlink_ifaces(struct lb_graft_iface *ret, size_t max);

/* Non-blocking; readable when an interface, an address or a route came, changed or went. 0 or
 * -errno. */
int lb_graft_netlink_watch(struct mnl_socket **ret);
/* Bits: what lb_graft_netlink_news() tells. */
enum {
	LB_GRAFT_NEWS_LINKS = 1 << 0, /* of interfaces or addresses */
	LB_GRAFT_NEWS_ROUTES = 1 << 1,
};

/*
 * Reads all news and hands every removed interface to <gone>. What they were about, 0: there were
 * none; -ENOBUFS: news were lost, anything may have happened.
 */
int lb_graft_netlink_news(struct mnl_socket *watch, void (*gone)(void *arg, uint32_t ifindex),
			  void *arg);

/* A filter at TC ingress of the kind "bpf". */
struct lb_graft_filter {
	uint32_t ifindex;
	uint32_t handle;
	uint32_t priority;
	bool ours; /* it runs a program that is called tc_graft */
};
/* Hands those of <ifindex> to <fn>; none is no error. 0 or -errno. */
int lb_graft_netlink_filters(uint32_t ifindex,
			     void (*fn)(void *arg, const struct lb_graft_filter *f), void *arg);

/* Makes sure that <ifindex> has a clsact qdisc. 0 or -errno. */
int lb_graft_netlink_clsact(uint32_t ifindex);

/* --- graft_route.c ---------------------------------------------------------------------------- */

/* Where a packet of ours leaves. */
struct lb_graft_hop {
	bool local;       /* to this host itself */
	uint32_t ifindex; /* .. over it, all the same */
};
/* A socket for lb_graft_route_get(). 0 or -errno. */
int lb_graft_route_open(struct mnl_socket **ret);
/*
 * The route from <tuple>'s daddr to its saddr. 0; -EHOSTUNREACH; -EOPNOTSUPP: one that a program
 * cannot follow (link-local, encapsulated, multicast). One thread at a time.
 */
int lb_graft_route_get(struct mnl_socket *s, const struct lb_graft_tuple *tuple,
		       struct lb_graft_hop *ret);

#endif
