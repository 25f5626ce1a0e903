/* SPDX-License-Identifier: MIT */
/*
 * Takes a pair from SPLIT to the point where both sockets are gone (graft_watch.c: how it gets to
 * SPLIT). Rules that keep the stream whole (include/lb/graft.h has the idea):
 *
 *  G1  Nothing depends on the program before it has been seen to see this flow, on both legs.
 *  G2  SPLIT begins when relay holds nothing: what is then still unread arrived before, or is on
 *      its way from the program to the socket. Nothing new comes: these late bytes are bounded,
 *      and their receiver takes them whether it reads or not (graft_narrow.h).
 *  G3  Our socket hears of every acknowledgement of what it has sent, and of none beyond: the other
 *      peer may send again what our socket still has to. The program looks at the socket itself.
 *  G4  A FIN that our socket got before SPLIT is passed on by our sockets, as a late byte is; one
 *      that comes later never reaches them.
 *  G5  The sockets go when both have been read empty and everything they sent is acknowledged, at
 *      the earliest SETTLE_NS after SPLIT began: a packet that had passed the program before has
 *      then reached its socket, both are one run of the receive path (__netif_receive_skb_core).
 *  G6  Once SPLIT has begun a socket of ours never ends by an ordinary close: its sequence numbers
 *      are the past. Both vanish, and if the flow ends here, both peers are reset by hand.
 *  G7  They do not go before CLOSE_MS after FULL began: a copy for them that the program let go
 *      before may still be on its way, and without a socket it is answered with a RST that the
 *      peer has to believe. A processor may be taken away from under the kernel for that long.
 */
#include "flow/graft.h"

#include <errno.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "flow/graft_judge.h"
#include "flow/graft_socket.h"
#include "flow/grafts.h"

#define LATE_BYTES  (64u * 1024u)
#define ROUNDS      16
#define POLL_MAX_MS 64u
#define SETTLE_NS   1000000ull
#define CLOSE_MS    20u

/* Brings a mark that the program raises too up to <v>; returns by how much. */
static uint32_t raise_mark(__u32 *mark, uint32_t v)
{
	uint32_t old = __atomic_load_n(mark, __ATOMIC_RELAXED);

	while ((int32_t)(v - old) > 0)
		if (__atomic_compare_exchange_n(mark, &old, v, false, __ATOMIC_ACQ_REL,
						__ATOMIC_RELAXED))
			return v - old;
	return 0;
}

void lb_graft_poll_soon(struct lb_pair *p)
{
	lb_timer_start(p->env->loop, &p->poll, p->poll_ms);
	if (p->poll_ms < POLL_MAX_MS)
		p->poll_ms *= 2;
}

/* Payload bytes that leg <i>'s socket has received. */
static uint64_t received(const struct lb_pair *p, unsigned int i, const struct tcp_info *info)
{
	return lb_graft_socket_received(info, p->dir[i].eof) - p->leg[i].lead_in;
}

/* The backend's first byte, if there is one now and nobody has noted its time. */
static void note_first(const struct lb_pair *p, uint64_t received)
{
	struct lb_graft_leg *leg = &lb_grafts_entry(p)->leg[LB_LEG_BACKEND];
	uint64_t none = 0, now = p->first_ns ? p->first_ns : lb_loop_now_ns(p->env->loop);

	if (received)
		__atomic_compare_exchange_n(&leg->first_ns, &none, now, false, __ATOMIC_RELAXED,
					    __ATOMIC_RELAXED);
}

/* Brings the program's books up to what our socket has received. */
static int note_received(struct lb_pair *p, unsigned int i)
{
	struct lb_graft_leg *leg = &lb_grafts_entry(p)->leg[i];
	struct tcp_info info;
	uint32_t moved;
	int err = lb_graft_socket_info(p->leg[i].watch.fd, &info);

	if (err)
		return err;
	moved = raise_mark(&leg->seq_end, p->graft_in[i] + (uint32_t)received(p, i, &info));
	__atomic_fetch_add(&leg->bytes, moved, __ATOMIC_RELAXED);
	if (i == LB_LEG_BACKEND)
		note_first(p, moved);
	return 0;
}

/*
 * What leg <i>'s peer may be told at most in SPLIT (lb_graft_leg.ack_limit): as far as it was
 * promised. Less would hold back what nobody says again.
 */
static uint32_t limit_of(const struct lb_pair *p, unsigned int i, uint32_t received)
{
	uint32_t limit, own, peers;

	if (lb_graft_socket_windows(p->leg[i].watch.fd, &own, &peers) || own < p->narrow.limit)
		own = p->narrow.limit;
	limit = received + own;
	return limit + !limit;
}

/* What the program counts from, by leg: as our socket stands now. */
static int fill_books(struct lb_pair *p, unsigned int i)
{
	struct lb_graft *g = lb_grafts_entry(p);
	struct lb_graft_leg *leg = &g->leg[i];
	struct tcp_info info;
	int unacked, err;

	/* The window is read after what it stands beside: the edge is no further than it is. */
	if (ioctl(p->leg[i].watch.fd, SIOCOUTQ, &unacked))
		return -errno;
	err = lb_graft_socket_info(p->leg[i].watch.fd, &info);
	if (err)
		return err;
	if (info.tcpi_state != LB_TCP_ESTABLISHED)
		return -EPIPE;
	leg->bytes = received(p, i, &info);
	leg->seq_end = p->graft_in[i] + (uint32_t)leg->bytes;
	leg->data_ns = p->last_ns;
	if (i == LB_LEG_BACKEND)
		note_first(p, leg->bytes);
	leg->ack_max = p->graft_out[i] + (uint32_t)p->dir[i ^ 1].bytes - (uint32_t)unacked;
	leg->edge = leg->ack_max + info.tcpi_snd_wnd;
	g->leg[i ^ 1].ack_limit = limit_of(p, i, leg->seq_end);
	return 0;
}

int lb_graft_split(struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++) {
		int err = fill_books(p, i);

		if (err)
			return err;
	}
	__atomic_store_n(&lb_grafts_entry(p)->stage, LB_GRAFT_SPLIT, __ATOMIC_SEQ_CST);
	return 0;
}

/* True when the sink took all that is held. */
static bool flush(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];

	while (dir->held) {
		ssize_t n = send(p->leg[d ^ 1].watch.fd, dir->held + dir->held_at,
				 dir->held_end - dir->held_at, MSG_NOSIGNAL);

		if (n < 0)
			return false; /* EAGAIN, or an error that makes an event of its own */
		dir->held_at += (uint32_t)n;
		if (dir->held_at == dir->held_end)
			lb_carrier_release(dir);
	}
	return true;
}

/* G4. The program has not seen this FIN: it learns of it here. */
static void pass_fin(struct lb_pair *p, unsigned int d)
{
	struct lb_graft_leg *leg = &lb_grafts_entry(p)->leg[d];

	(void)note_received(p, d);
	leg->fin_end = leg->seq_end + 1;
	__atomic_fetch_or(&leg->flags, LB_GRAFT_FIN, __ATOMIC_RELEASE);
	(void)shutdown(p->leg[d ^ 1].watch.fd, SHUT_WR);
	p->dir[d].shut = true;
}

/* Moves late bytes. 0; -errno when memory is out. */
static int move_late(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];

	for (int i = 0; i < ROUNDS && flush(p, d) && !dir->eof; i++) {
		ssize_t n = recv(p->leg[d].watch.fd, p->env->scratch, LATE_BYTES, 0), sent;

		if (n < 0)
			return 0; /* empty, or an error that makes an event of its own */
		if (n == 0) {
			dir->eof = true;
			break;
		}
		/* Before they can be acknowledged: the program believes no word of what it has
		 * not heard of. */
		(void)note_received(p, d);
		sent = send(p->leg[d ^ 1].watch.fd, p->env->scratch, (size_t)n, MSG_NOSIGNAL);
		if (sent < 0)
			sent = 0;
		if (sent < n && lb_carrier_hold(dir, p->env->scratch + sent, (uint32_t)(n - sent)))
			return -ENOMEM;
	}
	if (dir->eof && !dir->shut && !dir->held)
		pass_fin(p, d);
	return 0;
}

/* True when our socket on leg <i> has nothing to read and nothing it still has to answer for. */
static bool owes_nothing(const struct lb_pair *p, unsigned int i)
{
	int unread = 0, unacked = 0;

	if (p->dir[i].held || (p->dir[i].eof && !p->dir[i].shut))
		return false;
	if (ioctl(p->leg[i].watch.fd, SIOCOUTQ, &unacked) || unacked)
		return false;
	/* After a FIN it counts that as a byte, for ever. */
	return p->dir[i].eof || (!ioctl(p->leg[i].watch.fd, SIOCINQ, &unread) && !unread);
}

static void close_both(struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++) {
		int fd = p->leg[i].watch.fd;

		if (fd < 0)
			continue;
		lb_watch_remove(p->env->loop, &p->leg[i].watch, !p->leg[i].shared);
		lb_graft_socket_vanish(fd);
	}
}

/*
 * Whether leg <i>'s peer may wait for a word of the other one that has no cause to say it again:
 * an acknowledgement was held back in SPLIT (lb_graft_leg.ack_limit), or the last window that our
 * socket announced is below a segment, and a sender waits for more (RFC 9293, 3.8.6.2.1). Before
 * 6.2 the kernel does not tell (0), and it may wait.
 */
static bool waits(const struct lb_pair *p, unsigned int i)
{
	const struct lb_graft_leg *other = &lb_grafts_entry(p)->leg[i ^ 1];
	struct tcp_info info;
	uint32_t own, peers;

	if (lb_graft_has_ended(lb_grafts_entry(p)))
		return false;
	if ((int32_t)(other->ack_max + other->ack_shift - other->ack_limit) > 0)
		return true;
	return !lb_graft_socket_info(p->leg[i].watch.fd, &info) &&
	       !lb_graft_socket_windows(p->leg[i].watch.fd, &own, &peers) && own < info.tcpi_advmss;
}

/* From here on the pair is the keeper's; the session goes. */
static void leave(struct lb_pair *p)
{
	const bool waiting[2] = {waits(p, 0), waits(p, 1)};

	close_both(p);
	for (unsigned int i = 0; i < 2; i++)
		if (waiting[i])
			lb_graft_nudge_peer(lb_grafts_entry(p), i ^ 1);
	p->left(p, lb_grafts_entry(p));
}

static void set_stage(struct lb_pair *p, enum lb_graft_stage stage)
{
	__atomic_store_n(&lb_grafts_entry(p)->stage, stage, __ATOMIC_SEQ_CST);
	p->graft_since_ns = lb_loop_now_ns(p->env->loop);
}

static bool owe_nothing(const struct lb_pair *p)
{
	/* Ended meanwhile: what our sockets still hold nobody waits for. */
	return lb_graft_has_ended(lb_grafts_entry(p)) || (owes_nothing(p, 0) && owes_nothing(p, 1));
}

/*
 * All is acknowledged. A window that opened as SPLIT began passed the program before, and has
 * reached our socket now.
 */
static void note_edge(struct lb_pair *p, unsigned int i)
{
	struct tcp_info to, from;

	if (!lb_graft_socket_info(p->leg[i].watch.fd, &to) &&
	    !lb_graft_socket_info(p->leg[i ^ 1].watch.fd, &from))
		(void)raise_mark(&lb_grafts_entry(p)->leg[i].edge,
				 p->graft_out[i] + (uint32_t)received(p, i ^ 1, &from) +
					 to.tcpi_snd_wnd);
}

/* G7 */
static void finish(struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++) {
		(void)note_received(p, i);
		note_edge(p, i);
	}
	set_stage(p, LB_GRAFT_FULL);
	lb_timer_start(p->env->loop, &p->poll, CLOSE_MS);
}

/* What peers have been told meanwhile was not held back: they may not be told less. */
static void split_again(struct lb_pair *p)
{
	struct lb_graft *g = lb_grafts_entry(p);

	for (unsigned int i = 0; i < 2; i++) {
		(void)note_received(p, i);
		__atomic_store_n(
			&g->leg[i ^ 1].ack_limit,
			limit_of(p, i, __atomic_load_n(&g->leg[i].seq_end, __ATOMIC_RELAXED)),
			__ATOMIC_RELAXED);
	}
	set_stage(p, LB_GRAFT_SPLIT);
}

/* True when the pair is done with, or is still to wait. */
static bool finished(struct lb_pair *p, uint32_t events)
{
	if (lb_grafts_entry(p)->stage != LB_GRAFT_FULL)
		return false;
	if (!owe_nothing(p)) {
		/* A packet took all that time from the program to our socket. */
		split_again(p);
		return false;
	}
	if (events & EPOLLERR ||
	    lb_loop_now_ns(p->env->loop) - p->graft_since_ns >= CLOSE_MS * 1000000ull)
		leave(p);
	return true;
}

static void end_early(struct lb_pair *p)
{
	__atomic_store_n(&lb_grafts_entry(p)->stage, LB_GRAFT_FULL, __ATOMIC_SEQ_CST);
	leave(p);
}

static void graft_event(struct lb_pair *p, unsigned int leg, uint32_t events)
{
	if (finished(p, events))
		return;
	if (events & EPOLLERR) {
		/* Ended before our sockets were gone, a new connection with the same addresses got
		 * their answer and reset them: that is not how this flow ended. */
		if (lb_graft_has_ended(lb_grafts_entry(p)))
			end_early(p);
		else
			lb_carrier_leg_failed(p, leg);
		return;
	}
	for (unsigned int d = 0; d < 2; d++) {
		if (move_late(p, d)) {
			p->end(p, LB_REASON_FULL, false);
			return;
		}
		(void)note_received(p, d);
	}
	if (owe_nothing(p) && lb_loop_now_ns(p->env->loop) - p->graft_since_ns >= SETTLE_NS)
		finish(p);
	else
		lb_graft_poll_soon(p);
}

/* --- reports ---------------------------------------------------------------------------------- */

static uint64_t graft_bytes(const struct lb_pair *p, unsigned int d)
{
	return __atomic_load_n(&lb_grafts_entry(p)->leg[d].bytes, __ATOMIC_RELAXED);
}

static uint64_t graft_last_ns(const struct lb_pair *p)
{
	uint64_t seen = lb_graft_last_data_ns(lb_grafts_entry(p));

	return seen > p->last_ns ? seen : p->last_ns;
}

static uint64_t graft_first_ns(const struct lb_pair *p)
{
	return __atomic_load_n(&lb_grafts_entry(p)->leg[LB_LEG_BACKEND].first_ns, __ATOMIC_RELAXED);
}

/* G6: there is no clean end to give. */
static bool graft_clean(const struct lb_pair *p)
{
	return false;
}

/* The session ends in SPLIT. */
static void graft_quit(struct lb_pair *p, bool clean)
{
	struct lb_grafts *grafts = p->env->grafts;

	for (unsigned int d = 0; d < 2; d++) {
		p->dir[d].bytes = graft_bytes(p, d);
		lb_carrier_release(&p->dir[d]);
	}
	p->first_ns = graft_first_ns(p);
	close_both(p);
	lb_graft_unhook(grafts, p->graft_pair);
	if (!clean)
		lb_graft_reset_peers(lb_grafts_entry(p));
	lb_grafts_release(grafts, p->graft_pair, p->ports);
}

static void graft_stop(struct lb_pair *p)
{
}

const struct lb_carrier lb_graft = {
	.name = "graft",
	.id = LB_CARRIER_GRAFT,
	.event = graft_event,
	.bytes = graft_bytes,
	.last_ns = graft_last_ns,
	.first_ns = graft_first_ns,
	.clean = graft_clean,
	.quit = graft_quit,
	.stop = graft_stop,
};
