/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * The few fields of kernel structures the programs read, relocated at load time (CO-RE): no
 * generated vmlinux.h, so the build needs no BTF and shows what is relied on.
 */
#ifndef LB_BPF_KERNEL_H
#define LB_BPF_KERNEL_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	long counter;
} atomic64_t;

struct proto {                        /* all sockets of the protocol together: */
	atomic64_t *memory_allocated; /* pages */
	unsigned long *memory_pressure;
	long *sysctl_mem; /* net.ipv4.tcp_mem */
};

struct sock_common {
	volatile unsigned char skc_state;
	struct proto *skc_prot;
};

struct net_device {
	unsigned int flags;
};

struct dst_entry {
	struct net_device *dev;
};

struct sock {
	struct sock_common __sk_common;
	struct {
		struct {
			int counter;
		} rmem_alloc; /* "sk_rmem_alloc": bytes charged to the receive queues */
	} sk_backlog;
	struct dst_entry *sk_dst_cache;
	int sk_rcvbuf;
	int sk_wmem_queued; /* bytes (with overhead) in the send queue */
	int sk_sndbuf;
	int sk_err;
	__u8 sk_shutdown; /* RCV_SHUTDOWN 1 | SEND_SHUTDOWN 2 */
};

struct inet_connection_sock {
	const void *icsk_ulp_ops; /* a protocol on top: kernel TLS, MPTCP .. */
};

struct tcp_sock {
	__u32 copied_seq; /* first byte nobody has read yet */
	__u32 rcv_nxt;    /* what is expected next from the peer */
	__u32 snd_nxt;    /* what is sent next to the peer */
	__u32 write_seq;  /* one past the last byte in the send queue */
};

#pragma clang attribute pop

/* include/net/tcp_states.h */
enum {
	LB_TCP_ESTABLISHED = 1,
	LB_TCP_FIN_WAIT1 = 4,
	LB_TCP_FIN_WAIT2 = 5,
	LB_TCP_CLOSE = 7,
	LB_TCP_CLOSE_WAIT = 8,
	LB_TCP_LISTEN = 10,
};
/* include/net/sock.h */
#define LB_RCV_SHUTDOWN  1
#define LB_SEND_SHUTDOWN 2
/* include/uapi/linux/if.h */
#define LB_IFF_LOOPBACK (1 << 3)

#endif
