// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * same_host: for every connection that a process of the control group makes or takes, decide
 * whether its socket is put under watch of same_host_msg.
 *
 * It is when the connection is one of the daemon's network namespace, one of its ends is an
 * endpoint of a rule with same_host_bypass, and the route to the other end leads back to this host:
 * the kernel sends to its own addresses through the loopback device, whatever interface has them.
 *
 * It must never
 *  - put a socket under watch that may talk to another machine: such a socket would pay and never
 *    gain,
 *  - replace a socket (BPF_NOEXIST): of two with one tuple one is dead or in another namespace.
 *
 * The kernel takes a socket out when it is closed; its address goes when TCP is done with it.
 */
#include "same_host.bpf.h"

/* Of the daemon; set before load. */
volatile const __u64 netns_cookie;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, struct lb_same_host_endpoint);
	__type(value, __u32); /* nothing to say */
} lb_same_scope SEC(".maps");

static __always_inline bool is_in_scope(const __be32 addr[4], __u32 port)
{
	struct lb_same_host_endpoint e = {{addr[0], addr[1], addr[2], addr[3]}, port};

	if (bpf_map_lookup_elem(&lb_same_scope, &e))
		return true;
	/* Any address: of IPv4 what stands behind ::ffff:, else all of it. */
	if (e.addr[0] || e.addr[1] || e.addr[2] != bpf_htonl(0xffff))
		e.addr[0] = e.addr[1] = e.addr[2] = 0;
	e.addr[3] = 0;
	return bpf_map_lookup_elem(&lb_same_scope, &e);
}

static __always_inline bool leads_to_this_host(const struct tcp_sock *tp)
{
	const struct dst_entry *dst = ((const struct sock *)tp)->sk_dst_cache;
	const struct net_device *dev = dst ? dst->dev : NULL;

	return dev && dev->flags & LB_IFF_LOOPBACK;
}

static __always_inline void watch(struct bpf_sock_ops *ops, struct lb_same_host_tuple *t)
{
	struct bpf_sock *sk = ops->sk;
	const struct tcp_sock *tp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	if (!tp || !leads_to_this_host(tp))
		return;
	/* Never both a new socket and an old address. */
	bpf_map_delete_elem(&lb_same_peers, t);
	if (bpf_sock_hash_update(ops, &lb_same_socks, t, BPF_NOEXIST)) {
		count(LB_SAME_HOST_REFUSED, 1);
		return;
	}
	bpf_sock_ops_cb_flags_set(ops, ops->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	bpf_map_update_elem(&lb_same_peers, t, &tp, BPF_ANY);
	count(LB_SAME_HOST_SOCKETS, 1);
}

SEC("sockops")
int same_host(struct bpf_sock_ops *ops)
{
	struct lb_same_host_tuple t = {};

	if (ops->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB &&
	    ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && ops->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	if (bpf_get_netns_cookie(ops) != netns_cookie || !tuple_read(ops, &t))
		return 1;
	if (!is_in_scope(t.local_addr, t.local_port) && !is_in_scope(t.remote_addr, t.remote_port))
		return 1;
	if (ops->op != BPF_SOCK_OPS_STATE_CB)
		watch(ops, &t);
	else if (ops->args[1] == LB_TCP_CLOSE)
		bpf_map_delete_elem(&lb_same_peers, &t);
	return 1;
}

char _license[] SEC("license") = "Dual MIT/GPL";
