/* SPDX-License-Identifier: MIT */
/*
 * What is asked of rtnetlink, in the network namespace of the caller: which interfaces and
 * addresses there are and when that changes, which filters they have. Needs no capability but for
 * lb_netlink_clsact().
 */
#ifndef LB_KERNEL_NETLINK_H
#define LB_KERNEL_NETLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <net/if.h>

#include "base/addr.h"

struct mnl_socket;

struct lb_netlink_iface {
	uint32_t ifindex;
	uint16_t type;  /* ARPHRD_* */
	bool loopback;  /* .. is ARPHRD_LOOPBACK */
	bool framed;    /* Ethernet header, as on loopback */
	bool addressed; /* it has an IPv4 or a global IPv6 address */
	uint8_t mac[6]; /* zero: it has none of that length */
	char name[IF_NAMESIZE];
};

/*
 * Fills <ret> with the interfaces as they are now. Returns how many, at most <max> (what is beyond
 * is not looked at), or -errno.
 */
int lb_netlink_ifaces(struct lb_netlink_iface *ret, size_t max);

/*
 * Hands every address of this host to <fn>, lo's included, port 0; some perhaps twice. 0 or -errno.
 */
int lb_netlink_addresses(void (*fn)(void *arg, const struct lb_addr *addr), void *arg);

/* Non-blocking; readable when an interface, an address or a route came, changed or went. 0 or
 * -errno. */
int lb_netlink_watch(struct mnl_socket **ret);
/* Bits: what lb_netlink_news() tells. */
enum {
	LB_NETLINK_NEWS_LINKS = 1 << 0, /* of interfaces or addresses */
	LB_NETLINK_NEWS_ROUTES = 1 << 1,
};

/*
 * Reads all news and hands every removed interface to <gone>. What they were about, 0: there were
 * none; -ENOBUFS: news were lost, anything may have happened.
 */
int lb_netlink_news(struct mnl_socket *watch, void (*gone)(void *arg, uint32_t ifindex), void *arg);

/* A filter at TC ingress of the kind "bpf". */
struct lb_netlink_filter {
	uint32_t ifindex;
	uint32_t handle;
	uint32_t priority;
	char program[16]; /* the name of what it runs, as libbpf attaches it; else "" */
};
/* Hands those of <ifindex> to <fn>; none is no error. 0 or -errno. */
int lb_netlink_filters(uint32_t ifindex, void (*fn)(void *arg, const struct lb_netlink_filter *f),
		       void *arg);

/* Makes sure that <ifindex> has a clsact qdisc. 0 or -errno. */
int lb_netlink_clsact(uint32_t ifindex);

#endif
