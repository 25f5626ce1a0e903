/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * What the two programs of same_host_bypass share. Each object declares the maps; the daemon makes
 * those of same_host and lets same_host_msg use them.
 */
#ifndef LB_BPF_SAME_HOST_H
#define LB_BPF_SAME_HOST_H

#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include <lb/same_host.h>

#include "kernel.bpf.h"

/* The sockets under watch. Sizes are placeholders: the daemon sets them before load. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 2);
	__type(key, struct lb_same_host_tuple);
	__type(value, __u64);
} lb_same_socks SEC(".maps");

/*
 * Where the kernel keeps each of them: sk_msg programs may not look a socket up, for they cannot
 * release one (bpf_sk_release). The address is only ever read from, by a helper that survives
 * whatever it finds there; what is read counts only if the redirect then finds a socket in
 * lb_same_socks under the same tuple. Entries go when the connection does.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct lb_same_host_tuple);
	__type(value, __u64); /* struct tcp_sock * */
} lb_same_peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, LB_SAME_HOST_MAX_);
	__type(key, __u32); /* enum lb_same_host_counter */
	__type(value, __u64);
} lb_same_count SEC(".maps");

#define LB_AF_INET  2
#define LB_AF_INET6 10

static __always_inline void count(__u32 which, __u64 n)
{
	__u64 *counter = bpf_map_lookup_elem(&lb_same_count, &which);

	if (counter)
		*counter += n;
}

static __always_inline void set_ipv4(__be32 addr[4], __be32 ipv4)
{
	addr[0] = addr[1] = 0;
	addr[2] = bpf_htonl(0xffff);
	addr[3] = ipv4;
}

/*
 * <ctx> is a struct bpf_sock_ops or a struct sk_msg_md: they call these fields the same. The
 * verifier wants each field read at an offset it knows: the barrier keeps the compiler from joining
 * the branches into one read at either offset. False for another family.
 */
#define tuple_read(ctx, ret)                                              \
	({                                                                \
		struct lb_same_host_tuple *tuple_ = (ret);                \
		bool known_ = true;                                       \
                                                                          \
		tuple_->local_port = (ctx)->local_port;                   \
		tuple_->remote_port = bpf_ntohl((ctx)->remote_port);      \
		if ((ctx)->family == LB_AF_INET) {                        \
			set_ipv4(tuple_->local_addr, (ctx)->local_ip4);   \
			set_ipv4(tuple_->remote_addr, (ctx)->remote_ip4); \
			barrier();                                        \
		} else if ((ctx)->family == LB_AF_INET6) {                \
			tuple_->local_addr[0] = (ctx)->local_ip6[0];      \
			tuple_->local_addr[1] = (ctx)->local_ip6[1];      \
			tuple_->local_addr[2] = (ctx)->local_ip6[2];      \
			tuple_->local_addr[3] = (ctx)->local_ip6[3];      \
			tuple_->remote_addr[0] = (ctx)->remote_ip6[0];    \
			tuple_->remote_addr[1] = (ctx)->remote_ip6[1];    \
			tuple_->remote_addr[2] = (ctx)->remote_ip6[2];    \
			tuple_->remote_addr[3] = (ctx)->remote_ip6[3];    \
		} else {                                                  \
			known_ = false;                                   \
		}                                                         \
		known_;                                                   \
	})

#endif
