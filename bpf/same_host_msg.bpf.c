// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * same_host_msg: for every message that is written into a socket under watch, decide whether it
 * goes straight into the receive queue of the socket at the other end, or through TCP.
 *
 * Order. The receiver has two queues: what was redirected, and what TCP brought; it empties the
 * first one before it looks into the second one. So bytes through TCP may follow redirected ones
 * at any time, but nothing may be redirected while bytes that went through TCP are unread: it would
 * overtake them. "All read" is exact, because both ends of the connection are here:
 *
 *	write_seq of the sender == copied_seq of the receiver
 *
 * Bytes that are still in the send queue or on their way keep the two apart like those in the
 * receive queue; redirected bytes have no sequence numbers and change neither. copied_seq only
 * grows, so a value read a moment too early only lets a message go through TCP. A stranger's socket
 * that should ever stand for the peer fails the same comparison.
 *
 * Memory. A redirect knows no limit (net/ipv4/tcp_bpf.c, bpf_tcp_ingress), so the program sets one:
 * half the receive buffer in bytes and LB_SAME_HOST_RUN_MAX in messages. Beyond that messages go
 * through TCP, whose window then stops the sender. The other half stays free for what the window
 * had promised: a receive buffer that is full of redirected bytes would make TCP drop segments and
 * wait for timers.
 *
 * It must never drop, cork, cut or change a message.
 */
#include "same_host.bpf.h"

#include <bpf/bpf_core_read.h>

/* Belongs to the sender's socket and goes with it; used under its lock. */
struct run {
	__u32 messages;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct run);
} lb_same_run SEC(".maps");

/* One end of the connection, read in one go. */
struct end {
	__u32 write_seq;
	__u32 copied_seq;
	__u32 unread; /* bytes charged to the receive queues */
	__u32 rcvbuf;
	__u8 state;
	__u8 shutdown;
	bool layered;
};

/* <tp> may lead nowhere. */
static __always_inline void end_read(const struct tcp_sock *tp, struct end *e)
{
	const struct inet_connection_sock *icsk = (const void *)tp;
	const struct sock *sk = (const void *)tp;

	e->write_seq = BPF_CORE_READ(tp, write_seq);
	e->copied_seq = BPF_CORE_READ(tp, copied_seq);
	e->unread = (__u32)BPF_CORE_READ(sk, sk_backlog.rmem_alloc.counter);
	e->rcvbuf = (__u32)BPF_CORE_READ(sk, sk_rcvbuf);
	e->state = BPF_CORE_READ(sk, __sk_common.skc_state);
	e->shutdown = BPF_CORE_READ(sk, sk_shutdown);
	e->layered = BPF_CORE_READ(icsk, icsk_ulp_ops);
}

/* TCP as a whole wants memory back: a redirect could fail for good, a send through TCP waits. */
static __always_inline bool is_short_of_memory(const struct sock *sk)
{
	const unsigned long *pressure = BPF_CORE_READ(sk, __sk_common.skc_prot, memory_pressure);
	unsigned long value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), pressure);
	return value;
}

static __always_inline bool may_send(const struct end *e)
{
	return (e->state == LB_TCP_ESTABLISHED || e->state == LB_TCP_CLOSE_WAIT) &&
	       !(e->shutdown & LB_SEND_SHUTDOWN);
}

static __always_inline bool may_receive(const struct end *e)
{
	return (e->state == LB_TCP_ESTABLISHED || e->state == LB_TCP_FIN_WAIT1 ||
		e->state == LB_TCP_FIN_WAIT2) &&
	       !(e->shutdown & LB_RCV_SHUTDOWN);
}

static __always_inline void swap(const struct lb_same_host_tuple *t, struct lb_same_host_tuple *ret)
{
	for (int i = 0; i < 4; i++) {
		ret->local_addr[i] = t->remote_addr[i];
		ret->remote_addr[i] = t->local_addr[i];
	}
	ret->local_port = t->remote_port;
	ret->remote_port = t->local_port;
}

/* What became of the message: REDIRECTS, or why not. */
static __always_inline __u32 redirect(struct sk_msg_md *msg)
{
	struct lb_same_host_tuple own = {}, swapped;
	struct end sender = {}, receiver = {};
	struct bpf_sock *sk = msg->sk;
	const struct tcp_sock *tp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;
	struct run *run;
	__u64 *peer;

	if (!tp || !tuple_read(msg, &own))
		return LB_SAME_HOST_FAILED;
	swap(&own, &swapped);
	peer = bpf_map_lookup_elem(&lb_same_peers, &swapped);
	if (!peer)
		return LB_SAME_HOST_NO_PEER;
	end_read(tp, &sender);
	end_read((const struct tcp_sock *)*peer, &receiver);
	if (!may_send(&sender) || !may_receive(&receiver))
		return LB_SAME_HOST_CLOSING;
	/* Its receiver would take plain text for a record, or never look into our queue. */
	if (sender.layered || receiver.layered)
		return LB_SAME_HOST_LAYERED;
	if (sender.write_seq != receiver.copied_seq)
		return LB_SAME_HOST_UNREAD;
	if (is_short_of_memory((const struct sock *)tp))
		return LB_SAME_HOST_MEMORY;

	run = bpf_sk_storage_get(&lb_same_run, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	if (!run)
		return LB_SAME_HOST_FAILED;
	if (!receiver.unread)
		run->messages = 0;
	if (run->messages >= LB_SAME_HOST_RUN_MAX ||
	    (__u64)receiver.unread + msg->size > receiver.rcvbuf >> 1)
		return LB_SAME_HOST_FULL;
	/* SK_DROP when the peer went meanwhile. */
	if (bpf_msg_redirect_hash(msg, &lb_same_socks, &swapped, BPF_F_INGRESS) != SK_PASS)
		return LB_SAME_HOST_FAILED;
	run->messages++;
	return LB_SAME_HOST_REDIRECTS;
}

SEC("sk_msg")
int same_host_msg(struct sk_msg_md *msg)
{
	__u32 outcome = redirect(msg);

	count(outcome, 1);
	if (outcome == LB_SAME_HOST_REDIRECTS)
		count(LB_SAME_HOST_BYTES, msg->size);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
