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
 *  - redirect behind bytes the daemon has been passed and not yet written,
 *  - pass while the source's own psock queue holds redirected bytes of the other direction, if it
 *    can be helped: the skb would wait behind them, and the kernel's worker would then charge it to
 *    the socket without the socket's lock (sk_psock_backlog -> skb_set_owner_r), which loses count
 *    of sk_forward_alloc. So a direction looks for a moment when that queue is empty from half a
 *    send buffer on and redirects until seven eighths of LB_SNDBUF_BYTES; and while one direction
 *    is with the daemon, the other one goes there too. A direction without budget looks for such a
 *    moment at once, and what it redirects until then it owes.
 *    Once TCP is short of memory a queue does not empty any more: the kernel shrinks send buffers.
 *    With both of them stuck there are no such moments. So from tcp_mem[0] on, where the kernel
 *    does not care yet, the daemon carries, and a direction goes there only when its sink's queue
 *    is empty too, for then the other one can follow at once.
 */
#include <linux/bpf.h>
#include <linux/types.h>
#include <stdbool.h>

#include <bpf/bpf_helpers.h>

#include <lb/event.h>
#include <lb/flow.h>
#include <lb/limits.h>

#include "bucket.bpf.h"
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

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32);
	__type(value, struct lb_bucket);
} lb_buckets SEC(".maps");

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

/* One socket of the flow, read in one go. */
struct end {
	__u32 write_seq;
	__u32 queued;
	__u32 sndbuf;
	bool open;
};

static __always_inline void end_read(const struct tcp_sock *tp, struct end *e)
{
	const struct sock *sk = (const struct sock *)tp;
	__u8 state = sk->__sk_common.skc_state;

	e->write_seq = tp->write_seq;
	e->queued = sk->sk_wmem_queued;
	e->sndbuf = sk->sk_sndbuf;
	e->open = (state == LB_TCP_ESTABLISHED || state == LB_TCP_CLOSE_WAIT) && !sk->sk_err &&
		  !(sk->sk_shutdown & LB_SEND_SHUTDOWN);
}

/* False when the slot is empty: the other leg is gone or not yet inserted. */
static __always_inline bool sink_read(__u32 index, struct end *e)
{
	struct bpf_sock *sk = bpf_map_lookup_elem(&lb_socks, &index);
	struct tcp_sock *tp;

	if (!sk)
		return false;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		end_read(tp, e);
	bpf_sk_release(sk);
	return tp != NULL;
}

/* Bytes of <gate>'s direction still in the psock queue of its sink, whose write_seq this is. */
static __always_inline __u32 in_flight(const struct lb_gate *gate, __u64 user_done, __u32 write_seq)
{
	__s32 n = (__u32)(gate->redirected + user_done) - (write_seq - gate->base);

	/* Less than nothing: the daemon has written and not yet published. */
	return gate->redirected && n > 0 ? (__u32)n : 0;
}

static __always_inline void tell_worker(struct lb_gate *gate, __u32 index)
{
	struct lb_event e = {.kind = LB_EVENT_GATE_USER, .index = index};
	__u32 worker = gate->worker;
	void *ring = bpf_map_lookup_elem(&lb_rings, &worker);
	struct lb_ring_state *state;

	if (ring && !bpf_ringbuf_output(ring, &e, sizeof(e), 0))
		return;
	state = bpf_map_lookup_elem(&lb_ring_state, &worker);
	if (state)
		__sync_fetch_and_add(&state->lost, 1);
	/* The worker may have emptied the ring and looked at <lost> in between; then there is room
	 * now. If there still is none, it has yet to look. */
	if (ring)
		bpf_ringbuf_output(ring, &e, sizeof(e), 0);
}

/* The buckets of a direction; NULL: none. */
struct limits {
	struct lb_bucket *client, *backend;
};

static __always_inline struct lb_bucket *bucket_of(__u32 index)
{
	return index == LB_BUCKET_NONE ? NULL : bpf_map_lookup_elem(&lb_buckets, &index);
}

/*
 * As if it were half a burst earlier: what a bucket has to spare while flows wait in the daemon,
 * whose turns come late when processors are busy, is theirs first. Otherwise the flows that happen
 * to be with the kernel would have it all.
 */
static __always_inline bool limits_admit(const struct limits *l, __u32 bytes, __u64 now)
{
	now -= LB_BUCKET_BURST_NS / 2;
	return (!l->client || bucket_admits(l->client, bytes, now)) &&
	       (!l->backend || bucket_admits(l->backend, bytes, now));
}

static __always_inline void limits_charge(const struct limits *l, __u32 bytes, __u64 now)
{
	if (l->client)
		bucket_charge(l->client, bytes, now);
	if (l->backend)
		bucket_charge(l->backend, bytes, now);
}

/* bpf_skb_adjust_room() takes at most this many bytes at a time; an skb is at most 64 KB. */
#define TRIM_STEP  0xfffu
#define TRIM_STEPS 17

/*
 * A retransmission that was cut differently may begin with bytes we have seen. recvmsg(2) skips
 * them by copied_seq, but tcp_read_skb() hands over the whole skb: cut them off, else they would
 * travel twice. cb[0] is TCP_SKB_CB(skb)->seq. 0, or -1 when the kernel has no memory to do it.
 */
static __always_inline int trim(struct __sk_buff *skb, struct lb_gate *gate,
				const struct tcp_sock *source)
{
	__u32 seq = skb->cb[0], end = seq + skb->len, old;

	if (!gate->judged) {
		gate->next_seq = source->copied_seq;
		gate->judged = 1;
	}
	old = gate->next_seq - seq;
	gate->next_seq = end;
	if (__builtin_expect((__s32)old <= 0, 1))
		return 0;
	for (int i = 0; i < TRIM_STEPS && old; i++) {
		__u32 step = old < TRIM_STEP ? old : TRIM_STEP;

		if (bpf_skb_adjust_room(skb, -(__s32)step, 0, 0))
			return -1;
		old -= step;
	}
	return old ? -1 : 0;
}

/*
 * TCP's memory is above tcp_mem[0]: the kernel begins to care from tcp_mem[1] on and does so until
 * it is below tcp_mem[0] again (__sk_mem_raise_allocated). Whoever is with the daemon comes back
 * below three quarters of it.
 */
static __always_inline bool memory_runs_low(const struct tcp_sock *tp, __u32 mode)
{
	const struct proto *prot = ((const struct sock *)tp)->__sk_common.skc_prot;
	long mark = 0;

	if (bpf_probe_read_kernel(&mark, sizeof(mark), prot->sysctl_mem))
		return false;
	if (mode == LB_GATE_USER)
		mark -= mark >> 2;
	return prot->memory_allocated->counter > mark;
}

/* True when the skb was handed to the sink; false when the daemon must carry it. */
static __always_inline bool redirect(struct __sk_buff *skb, struct lb_gate *gate, __u32 index,
				     const struct tcp_sock *source)
{
	const struct limits limits = {bucket_of(gate->bucket[0]), bucket_of(gate->bucket[1])};
	__u32 sink_index = index ^ 1, len = skb->len, queued, load;
	__u64 user_done, other_done;
	struct lb_gate *other;
	struct end sink = {};
	bool wants_daemon, low;

	/* Before the sink's write_seq: what <user_done> says is written must be in it. */
	user_done = *(volatile __u64 *)&gate->user_done;
	other = bpf_map_lookup_elem(&lb_gates, &sink_index);
	if (!other || !sink_read(sink_index, &sink) || !sink.open)
		return false;
	if (gate->mode == LB_GATE_USER && user_done != gate->passed)
		return false;

	queued = in_flight(gate, user_done, sink.write_seq);
	load = sink.queued + queued + len;
	/* An eighth stays free: skb overhead is charged too, and a full buffer makes the kernel's
	 * worker poll every jiffy. Not of sk_sndbuf: the kernel shrinks that when TCP is short of
	 * memory, and we would begin to pass with both queues full. */
	if (load > LB_SNDBUF_BYTES - (LB_SNDBUF_BYTES >> 3))
		return false;
	if (sink.sndbuf > LB_SNDBUF_BYTES)
		sink.sndbuf = LB_SNDBUF_BYTES;
	other_done = *(volatile __u64 *)&other->user_done;
	low = memory_runs_low(source, gate->mode);
	wants_daemon = low || load > sink.sndbuf >> 1 || other->passed != other_done ||
		       !limits_admit(&limits, len, gate->last_ns);
	if (wants_daemon && !(low && queued) && !in_flight(other, other_done, source->write_seq))
		return false;

	if (gate->mode == LB_GATE_USER) {
		/* The daemon holds nothing of ours, and the sink's queue held nothing when it wrote
		 * (it checks): write_seq is exactly this far. */
		gate->base = sink.write_seq - (__u32)(gate->redirected + user_done);
		gate->mode = LB_GATE_KERNEL;
	}
	/* SK_DROP when the slot emptied meanwhile. */
	if (bpf_sk_redirect_map(skb, &lb_socks, sink_index, 0) != SK_PASS)
		return false;
	gate->redirected += len;
	limits_charge(&limits, len, gate->last_ns);
	return true;
}

SEC("sk_skb/stream_verdict")
int sk_verdict(struct __sk_buff *skb)
{
	struct tcp_sock *source;
	struct lb_gate *gate;
	__u64 cookie, owed;
	__u32 *index;
	bool tell;

	if (!skb->len)
		return SK_DROP;
	cookie = bpf_get_socket_cookie(skb);
	index = bpf_map_lookup_elem(&lb_cookies, &cookie);
	gate = index ? bpf_map_lookup_elem(&lb_gates, index) : NULL;
	source = skb->sk ? bpf_skc_to_tcp_sock(skb->sk) : NULL;
	if (!gate || !source)
		return SK_PASS;
	gate->last_ns = bpf_ktime_get_coarse_ns();
	if (trim(skb, gate, source)) {
		/* The stream cannot be kept whole: the daemon resets the flow. */
		gate->broken = 1;
		tell_worker(gate, *index);
		return SK_DROP;
	}
	if (!skb->len)
		return SK_DROP; /* nothing new in it */
	if (!gate->redirected && !gate->passed)
		gate->first_ns = bpf_ktime_get_ns();
	if (redirect(skb, gate, *index, source))
		return SK_PASS;

	/* The daemon watches while it owes us bytes; otherwise it has to be told. */
	owed = gate->passed - *(volatile __u64 *)&gate->user_done;
	tell = gate->mode == LB_GATE_KERNEL || !owed;
	if (tell) {
		gate->mode = LB_GATE_USER;
		gate->episodes++;
	}
	/* It may be watching the sink only, and what waits behind the source's own queue is charged
	 * to nobody: so that it can shut the window, a word each time the debt has grown. */
	tell |= (owed ^ (owed + skb->len)) >> LB_OWED_TOLD_SHIFT != 0;
	gate->passed += skb->len;
	if (tell)
		tell_worker(gate, *index);
	return SK_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
