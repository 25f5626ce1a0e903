/* SPDX-License-Identifier: GPL-2.0-only OR MIT */
/*
 * TCP options of a packet that is being rewritten: timestamps and SACK edges, wherever they stand.
 * All others go through as they are.
 *
 * Contract: works on p->f.opt alone, p->tcp_len says how much of it counts; never writes beyond.
 * The layout Linux and most others send (NOP NOP TS [NOP NOP SACK]) has a short way; anything else
 * takes a bounded walk, one option a step.
 */
#ifndef LB_BPF_GRAFT_OPTIONS_H
#define LB_BPF_GRAFT_OPTIONS_H

#include "graft.bpf.h"

#define OPT_END  0
#define OPT_NOP  1
#define OPT_SACK 5
#define OPT_TS   8

#define TS_BYTES    10
#define SACK_BLOCKS 4
#define OPT_MAX     40u
/* How the aligned layouts begin. */
#define HEAD_TS   0x0101080a
#define HEAD_SACK 0x01010500

/*
 * Whether both numbers lie where the peer's next ones must. Fewer are believed than in the books:
 * a stranger's clock must not rule over the peer's own, whose packets would look old (PAWS).
 */
static __always_inline bool is_credible(const struct tcphdr *th, const struct lb_graft_leg *leg,
					const struct lb_graft_leg *other)
{
	__u32 seq = bpf_ntohl(th->seq) + leg->seq_shift, ack = bpf_ntohl(th->ack_seq);

	return th->ack && !th->syn && !th->rst &&
	       seq - other->ack_max <= other->edge - other->ack_max &&
	       ack - leg->ack_max <= leg->edge - leg->ack_max;
}

/*
 * The distance of TSval, fixed by the leg's first credible packet so that the other leg's peer sees
 * our own clock go on, a margin ahead (it is in ts_clock): no jitter then looks like time going
 * backwards. Until then every packet carries our clock.
 */
static __always_inline __u32 shift_timestamp(struct lb_graft_leg *leg, bool credible, __u32 value)
{
	__u32 shift = *(volatile __u32 *)&leg->ts_shift, old;

	if (__builtin_expect(!shift, 0)) {
		shift = (__u32)(bpf_ktime_get_ns() / 1000000) + leg->ts_clock - value;
		shift += !shift;
		old = credible ? __sync_val_compare_and_swap(&leg->ts_shift, 0, shift) : 0;
		if (old)
			shift = old;
	}
	return value + shift;
}

/* An echo of a clock we have not shifted yet says nothing to the other side: 0. */
static __always_inline __u32 shift_echo(const struct lb_graft_leg *other, __u32 echo)
{
	__u32 shift = *(volatile __u32 *)&other->ts_shift;

	return echo && shift ? echo - shift : 0;
}

static __always_inline bool rewrite_aligned(struct packet *p, struct lb_graft_leg *leg,
					    const struct lb_graft_leg *other)
{
	__be32 *word = (__be32 *)p->f.opt;
	__u32 words = (p->tcp_len - sizeof(struct tcphdr)) / 4;
	__u32 bytes;

	if (words < 3 || word[0] != bpf_htonl(HEAD_TS))
		return false;
	if (words > 3 && (word[3] & bpf_htonl(0xffffff00)) != bpf_htonl(HEAD_SACK))
		return false;
	if (words > 3) {
		bytes = bpf_ntohl(word[3]) & 0xff;
		if (bytes != (words - 4) * 4 + 2)
			return false;
	}
	change32(p, &word[1],
		 bpf_htonl(shift_timestamp(leg, is_credible(&p->f.th, leg, other),
					   bpf_ntohl(word[1]))));
	change32(p, &word[2], bpf_htonl(shift_echo(other, bpf_ntohl(word[2]))));
	for (__u32 i = 4; i < OPT_MAX / 4; i++)
		if (i < words)
			change32(p, &word[i], bpf_htonl(bpf_ntohl(word[i]) + leg->ack_shift));
	return true;
}

struct walk {
	struct lb_graft_leg *leg;
	const struct lb_graft_leg *other;
	__u8 opt[64]; /* a power of two, so that a mask keeps every offset inside */
	__u32 at, end;
	bool credible;
};

static __always_inline __u32 read32(const struct walk *w, __u32 at)
{
	return (__u32)w->opt[at & 63] << 24 | (__u32)w->opt[(at + 1) & 63] << 16 |
	       (__u32)w->opt[(at + 2) & 63] << 8 | w->opt[(at + 3) & 63];
}

static __always_inline void write32(struct walk *w, __u32 at, __u32 v)
{
	w->opt[at & 63] = (__u8)(v >> 24);
	w->opt[(at + 1) & 63] = (__u8)(v >> 16);
	w->opt[(at + 2) & 63] = (__u8)(v >> 8);
	w->opt[(at + 3) & 63] = (__u8)v;
}

static long step(__u32 n, void *ctx)
{
	struct walk *w = ctx;
	__u32 at = w->at, kind, len;

	if (at >= w->end)
		return 1;
	kind = w->opt[at & 63];
	if (kind == OPT_END)
		return 1;
	if (kind == OPT_NOP) {
		w->at = at + 1;
		return 0;
	}
	len = w->opt[(at + 1) & 63];
	/* Contradicts itself: what the endpoint would not understand is not ours to mend. */
	if (len < 2 || at + len > w->end)
		return 1;
	if (kind == OPT_TS && len == TS_BYTES) {
		write32(w, at + 2, shift_timestamp(w->leg, w->credible, read32(w, at + 2)));
		write32(w, at + 6, shift_echo(w->other, read32(w, at + 6)));
	} else if (kind == OPT_SACK) {
		for (__u32 i = 0; i < SACK_BLOCKS * 2; i++)
			if (2 + i * 4 + 4 <= len)
				write32(w, at + 2 + i * 4,
					read32(w, at + 2 + i * 4) + w->leg->ack_shift);
	}
	w->at = at + len;
	return 0;
}

/* Not static: the verifier looks at it once, and not once for every way that leads here. */
__noinline int rewrite_any(struct packet *p, struct lb_graft_leg *leg,
			   const struct lb_graft_leg *other)
{
	struct walk w = {.leg = leg, .other = other};

	if (!p || !leg || !other)
		return 0;
	w.end = p->tcp_len - sizeof(struct tcphdr);
	w.credible = is_credible(&p->f.th, leg, other);
	__builtin_memcpy(w.opt, p->f.opt, OPT_MAX);
	bpf_loop(OPT_MAX, step, &w, 0);
	p->diff += (__u32)bpf_csum_diff((__be32 *)p->f.opt, OPT_MAX, (__be32 *)w.opt, OPT_MAX, 0);
	__builtin_memcpy(p->f.opt, w.opt, OPT_MAX);
	return 0;
}

static __always_inline void rewrite_options(struct packet *p, struct lb_graft_leg *leg,
					    const struct lb_graft_leg *other)
{
	if (!rewrite_aligned(p, leg, other))
		rewrite_any(p, leg, other);
}

#endif
