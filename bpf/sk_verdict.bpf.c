// SPDX-License-Identifier: GPL-2.0-only OR MIT
/*
 * sk_verdict: for every skb that arrives on a leg, decide who carries it to the other leg: the
 * kernel (redirect) or the daemon (pass).
 *
 * A redirect has no backpressure of its own: the skb is charged to nobody and the sender's window
 * stays open (net/core/skmsg.c, sk_psock_verdict_apply -> tcp_eat_skb). So the credit gate
 * redirects only what the sink's send buffer can take now, counting what is still on its way there:
 *
 *	in flight = (redirected + user_done) - (write_seq - base)
 *
 * Everything else is passed: it is charged to the source's receive buffer, the window closes and
 * the sender stops. The program runs under the source socket's lock (tcp_data_queue ->
 * sk_data_ready), hence is serialised per direction; that is what makes the flips race-free.
 *
 * It must never
 *  - let a zero-length skb (a bare FIN) into a queue: redirected, the sink would get EPIPE;
 *    passed while redirected bytes of the other direction wait in the source's own queue, the
 *    source would (sk_psock_backlog takes a length of 0 for a failure). The FIN itself is already
 *    in the socket's state (tcp_fin runs before sk_data_ready), so nothing is lost by dropping it,
 *  - drop anything else: the bytes were already acknowledged to the sender,
 *  - redirect behind bytes the daemon has been passed and not yet written.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include <lb/event.h>
#include <lb/flow.h>
#include <lb/limits.h>

#include "kernel.bpf.h"

/* Sizes are placeholders: the daemon sets them before load. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32); /* leg index */
	__type(value, __u64);
} lb_socks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);   /* socket cookie: sk_skb programs have no socket storage */
	__type(value, __u32); /* leg index */
} lb_cookies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* leg index of the source */
	__type(value, struct lb_gate);
} lb_gates SEC(".maps");

struct lb_ring {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LB_RING_BYTES);
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32); /* worker */
	__array(values, struct lb_ring);
} lb_rings SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* worker */
	__type(value, struct lb_ring_state);
} lb_ring_state SEC(".maps");

/* What the sink can take, read in one go. */
struct sink {
	__u32 write_seq;
	__u32 queued;
	__u32 limit;
	bool open;
};

/* False when the slot is empty: the other leg is gone or not yet inserted. */
static __always_inline bool sink_read(__u32 index, struct sink *s)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&lb_socks, &index);
	struct tcp_sock *tp;
	bool found = false;

	if (!sk)
		return false;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp) {
		struct sock *base = (struct sock *)tp;
		__u8 state = base->__sk_common.skc_state;

		s->write_seq = tp->write_seq;
		s->queued = base->sk_wmem_queued;
		/* An eighth stays free: skb overhead is charged too, and a full buffer makes the
		 * kernel's worker poll every jiffy. */
		s->limit = base->sk_sndbuf - (base->sk_sndbuf >> 3);
		s->open = (state == LB_TCP_ESTABLISHED || state == LB_TCP_CLOSE_WAIT) &&
			  !base->sk_err && !(base->sk_shutdown & LB_SEND_SHUTDOWN);
		found = true;
	}
	bpf_sk_release(sk);
	return found;
}

static __always_inline void tell_worker(__u32 worker, __u32 index)
{
	struct lb_event e = {.kind = LB_EVENT_GATE_USER, .index = index};
	void *ring = bpf_map_lookup_elem(&lb_rings, &worker);
	struct lb_ring_state *state;

	if (ring && !bpf_ringbuf_output(ring, &e, sizeof(e), 0))
		return;
	state = bpf_map_lookup_elem(&lb_ring_state, &worker);
	if (state)
		__sync_fetch_and_add(&state->lost, 1);
}

SEC("sk_skb/stream_verdict")
int sk_verdict(struct __sk_buff *skb)
{
	__u32 len = skb->len, sink_index, in_flight;
	__u64 cookie, user_done;
	struct sink sink = {};
	struct lb_gate *gate;
	__u32 *index;

	if (!len)
		return SK_DROP;
	cookie = bpf_get_socket_cookie(skb);
	index = bpf_map_lookup_elem(&lb_cookies, &cookie);
	if (!index)
		return SK_PASS;
	gate = bpf_map_lookup_elem(&lb_gates, index);
	if (!gate)
		return SK_PASS;
	gate->last_ns = bpf_ktime_get_coarse_ns();

	/* Before the sink's write_seq: what <user_done> says is written must be in it. */
	user_done = *(volatile __u64 *)&gate->user_done;
	sink_index = *index ^ 1;
	if (!sink_read(sink_index, &sink))
		goto pass;

	if (gate->mode == LB_GATE_USER) {
		if (user_done != gate->passed)
			goto pass;
		/* The daemon holds nothing of ours and the sink's queue held nothing when it wrote
		 * (it checks), so write_seq is exactly this far. */
		gate->base = sink.write_seq - (__u32)(gate->redirected + user_done);
		gate->mode = LB_GATE_KERNEL;
	}

	in_flight = (__u32)(gate->redirected + user_done) - (sink.write_seq - gate->base);
	if (!sink.open || sink.queued + in_flight + len > sink.limit)
		goto pass;
	/* SK_DROP when the slot emptied meanwhile. */
	if (bpf_sk_redirect_map(skb, &lb_socks, sink_index, 0) != SK_PASS)
		goto pass;
	gate->redirected += len;
	return SK_PASS;

pass:
	gate->passed += len;
	if (gate->mode == LB_GATE_KERNEL) {
		gate->mode = LB_GATE_USER;
		gate->episodes++;
		tell_worker(gate->worker, *index);
	}
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
