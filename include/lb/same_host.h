/* SPDX-License-Identifier: MIT */
/*
 * same_host_bypass: what one process of this host writes into a connection goes straight into the
 * receive queue of the other process. bpf/same_host.bpf.c picks the sockets,
 * bpf/same_host_msg.bpf.c moves the bytes, the daemon says which endpoints are meant.
 *
 * Addresses are IPv6 in network byte order, IPv4 as ::ffff:a.b.c.d, so a dual-stack socket and its
 * IPv4 peer find each other. Ports are in host byte order.
 */
#ifndef LB_SAME_HOST_H
#define LB_SAME_HOST_H

#include <linux/types.h>

/* A connection as the socket itself sees it; the peer has it with both halves swapped. */
struct lb_same_host_tuple {
	__be32 local_addr[4];
	__be32 remote_addr[4];
	__u32 local_port;
	__u32 remote_port;
};

/* A listener or a backend. :: and ::ffff:0.0.0.0 mean every address of their family. */
struct lb_same_host_endpoint {
	__be32 addr[4];
	__u32 port;
};

/*
 * Messages redirected since the receiver was last seen with nothing to read. The kernel charges a
 * receiver for payload alone, not for the kilobyte that the smallest message takes.
 */
#define LB_SAME_HOST_RUN_MAX 1024u

enum lb_same_host_counter {
#define LB_SAME_HOST_COUNTER(symbol, word, help) LB_SAME_HOST_##symbol,
#include <lb/same_host_counters.def>
#undef LB_SAME_HOST_COUNTER
	LB_SAME_HOST_MAX_
};

_Static_assert(sizeof(struct lb_same_host_tuple) == 40, "a hash key has no hidden padding");
_Static_assert(sizeof(struct lb_same_host_endpoint) == 20, "a hash key has no hidden padding");

#endif
