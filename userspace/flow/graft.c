/* SPDX-License-Identifier: MIT */
/*
 * Takes a pair from relay to the point where both sockets are gone. Rules that keep the stream
 * whole (include/lb/graft.h has the idea):
 *
 *  G1  Nothing depends on the program before it has been seen to see this flow, on both legs.
 *  G2  SPLIT begins when relay holds nothing: what is then still unread arrived before, or is on
 *      its way from the program to the socket. Nothing new comes: these late bytes are bounded.
 *  G3  Before n late bytes are written to a leg its <wend> is raised by n: our socket must hear of
 *      the acknowledgement that covers them.
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
#include <netinet/in.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "flow/graft_judge.h"
#include "flow/graft_socket.h"
#include "flow/grafts.h"

#define LATE_BYTES   (64u * 1024u)
#define ROUNDS       16
#define POLL_MIN_MS  1u
#define POLL_MAX_MS  64u
#define TRY_MAX_MS   1000u
#define HOLD_MS      20u
#define UNSEEN_NS    3000000000ull
#define SETTLE_NS    1000000ull
#define CLOSE_MS     20u
#define WINDOW_CLAMP (64 * 1024)
#define WINDOW_FREE  (1 << 30)
/* Every peer has been promised that much at once: a new socket's window is larger. */
#define WINDOW_LEAST (16 * 1024)
/* Ahead of our clock, so that the two peers' jitter never looks like time going backwards. */
#define TS_MARGIN_MS 100u
/* What a peer may have been promised by us at most; afterwards the other peer's windows count. */
#define EDGE_SLACK        (1024u * 1024u)
#define STATE_ESTABLISHED 1 /* include/net/tcp_states.h */

static struct lb_graft *entry_of(const struct lb_pair *p)
{
	return lb_graft_table_pair(p->env->grafts->table, p->graft_pair);
}

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

/* --- watching --------------------------------------------------------------------------------- */

static void clamp_windows(struct lb_pair *p, int bytes)
{
	for (unsigned int i = 0; i < 2; i++)
		(void)setsockopt(p->leg[i].watch.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &bytes,
				 sizeof(bytes));
}

static int add_keys(struct lb_pair *p, const struct lb_graft_tuple tuple[2])
{
	struct lb_graft_table *table = p->env->grafts->table;
	int err = lb_graft_table_add(table, &tuple[0], p->graft_pair * 2);

	if (err)
		return err;
	err = lb_graft_table_add(table, &tuple[1], p->graft_pair * 2 + 1);
	if (err)
		lb_graft_table_remove(table, &tuple[0], p->graft_pair * 2);
	return err;
}

/* Reads where the streams begin; both peers answer a probe. */
static int read_positions(struct lb_pair *p)
{
	struct lb_graft *g = entry_of(p);
	struct lb_graft_position at[2];

	for (unsigned int i = 0; i < 2; i++) {
		int err = lb_graft_socket_position(p->leg[i].watch.fd, p->dir[i ^ 1].bytes, &at[i]);

		if (err)
			return err;
		p->graft_in[i] = at[i].in;
		p->graft_out[i] = at[i].out;
	}
	for (unsigned int i = 0; i < 2; i++) {
		struct lb_graft_leg *leg = &g->leg[i];

		leg->seq_shift = at[i ^ 1].out - at[i].in;
		leg->ack_shift = at[i ^ 1].in - at[i].out;
		leg->ts_clock = at[i ^ 1].ts_clock + TS_MARGIN_MS;
	}
	return 0;
}

static enum lb_why watch(struct lb_pair *p)
{
	struct lb_grafts *grafts = p->env->grafts;
	struct lb_graft_ways ways;
	enum lb_why why = lb_graft_judge(p, &ways);
	struct lb_graft *g;

	if (why != LB_WHY_NONE)
		return why;
	if (lb_grafts_get(grafts, &p->graft_pair))
		return LB_WHY_MAP_FULL;
	g = entry_of(p);
	lb_graft_fill(g, &ways);
	__atomic_store_n(&g->stage, LB_GRAFT_PASS, __ATOMIC_RELEASE);
	if (add_keys(p, ways.tuple)) {
		lb_grafts_put(grafts, p->graft_pair);
		return LB_WHY_MAP_FULL;
	}
	lb_ports_take(p->ports, ntohs(ways.tuple[LB_LEG_BACKEND].dport));
	p->graft = LB_PAIR_GRAFT_WATCHED;
	/* After ours are there: of two that race at least one sees the other. */
	if (lb_graft_is_chained(grafts->table, &ways))
		return LB_WHY_CHAINED;
	p->graft_since_ns = lb_loop_now_ns(p->env->loop);
	/* What a peer was promised beyond the other peer's window would be dropped there. */
	clamp_windows(p, WINDOW_CLAMP);
	return read_positions(p) ? LB_WHY_REFUSED : LB_WHY_NONE;
}

void lb_graft_unwatch(struct lb_pair *p)
{
	struct lb_grafts *grafts = p->env->grafts;

	if (p->graft == LB_PAIR_GRAFT_WATCHED) {
		uint16_t port = ntohs(entry_of(p)->leg[LB_LEG_CLIENT].sport);

		lb_graft_unhook(grafts, p->graft_pair);
		lb_grafts_put(grafts, p->graft_pair);
		lb_ports_leave(p->ports, port);
	}
	p->graft = LB_PAIR_GRAFT_OFF;
}

/* Relay reads again. What arrived meanwhile has made its event. */
static void read_on(struct lb_pair *p)
{
	if (p->hold_reads)
		lb_carrier_again(p);
	p->hold_reads = false;
}

static void refuse(struct lb_pair *p, enum lb_why why)
{
	bool watched = p->graft == LB_PAIR_GRAFT_WATCHED;

	lb_graft_unwatch(p);
	p->why = why;
	if (watched)
		clamp_windows(p, WINDOW_FREE);
	read_on(p);
}

static bool has_earned_it(const struct lb_pair *p)
{
	const struct lb_graft_config *config = &p->env->grafts->config;
	uint64_t age = lb_loop_now_ns(p->env->loop) - p->start_ns;

	return p->acceleration == LB_ACCELERATION_GRAFT ||
	       p->dir[0].bytes + p->dir[1].bytes >= config->after_bytes ||
	       age >= config->after_ms * 1000000ull;
}

static void poll_soon(struct lb_pair *p)
{
	lb_timer_start(p->env->loop, &p->poll, p->poll_ms);
	if (p->poll_ms < POLL_MAX_MS)
		p->poll_ms *= 2;
}

/* --- SPLIT ------------------------------------------------------------------------------------ */

static bool is_ending(const struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++)
		if (p->leg[i].until_empty || p->dir[i].eof)
			return true;
	return false;
}

static bool holds_nothing(const struct lb_direction *dir)
{
	return !dir->held && !dir->piped;
}

/* Brings the program's books up to what our socket has received. */
static int note_received(struct lb_pair *p, unsigned int i)
{
	struct lb_graft_leg *leg = &entry_of(p)->leg[i];
	struct tcp_info info;
	uint32_t moved;
	int err = lb_graft_socket_info(p->leg[i].watch.fd, &info);

	if (err)
		return err;
	moved = raise_mark(&leg->seq_end, p->graft_in[i] + (uint32_t)lb_graft_socket_received(
								   &info, p->dir[i].eof));
	__atomic_fetch_add(&leg->bytes, moved, __ATOMIC_RELAXED);
	return 0;
}

/* What a peer may be told at most in SPLIT (lb_graft_leg.ack_limit): it was promised that much. */
static uint32_t limit_of(uint32_t received)
{
	uint32_t limit = received + WINDOW_LEAST;

	return limit + !limit;
}

/* What the program counts from, by leg: as our socket stands now. */
static int fill_books(struct lb_pair *p, unsigned int i, uint32_t *snd_wnd)
{
	struct lb_graft *g = entry_of(p);
	struct lb_graft_leg *leg = &g->leg[i];
	struct tcp_info info;
	int unacked, err = lb_graft_socket_info(p->leg[i].watch.fd, &info);

	if (err)
		return err;
	if (info.tcpi_state != STATE_ESTABLISHED)
		return -EPIPE;
	if (ioctl(p->leg[i].watch.fd, SIOCOUTQ, &unacked))
		return -errno;
	leg->bytes = info.tcpi_bytes_received;
	leg->seq_end = p->graft_in[i] + (uint32_t)info.tcpi_bytes_received;
	leg->data_ns = p->last_ns;
	g->wend[i] = p->graft_out[i] + (uint32_t)p->dir[i ^ 1].bytes;
	leg->ack_max = g->wend[i] - (uint32_t)unacked;
	g->leg[i ^ 1].ack_limit = limit_of(leg->seq_end);
	*snd_wnd = info.tcpi_snd_wnd;
	return 0;
}

static int begin_split(struct lb_pair *p)
{
	struct lb_graft *g = entry_of(p);
	uint32_t snd_wnd[2] = {0};

	for (unsigned int i = 0; i < 2; i++) {
		int err = fill_books(p, i, &snd_wnd[i]);

		if (err)
			return err;
	}
	for (unsigned int i = 0; i < 2; i++) {
		const struct lb_graft_leg *other = &g->leg[i ^ 1];
		struct lb_graft_leg *leg = &g->leg[i];

		/* What its peer can take; roomy, because a window it opens before SPLIT may reach
		 * our socket after we have looked, and what is beyond is not believed. */
		leg->edge = leg->ack_max + snd_wnd[i];
		(void)raise_mark(&leg->edge, other->seq_end + other->seq_shift + EDGE_SLACK);
	}
	__atomic_store_n(&g->stage, LB_GRAFT_SPLIT, __ATOMIC_SEQ_CST);
	return 0;
}

/* Less and less often: each try stops the readers for a while. */
static void try_later(struct lb_pair *p)
{
	p->graft_next_ns = lb_loop_now_ns(p->env->loop) + p->poll_ms * 1000000ull;
	lb_timer_start(p->env->loop, &p->poll, p->poll_ms + 1);
	if (p->poll_ms < TRY_MAX_MS)
		p->poll_ms *= 2;
	read_on(p);
}

/*
 * Relay stops reading, so that what it holds comes to an end (G2). Not for long: a client that reads
 * its download only when its upload is done would wait for ever. From then on only a direction that
 * has just got rid of what it held stops for a turn: that is the moment.
 */
static void hold_reads(struct lb_pair *p)
{
	if (p->hold_reads)
		return;
	p->hold_reads = true;
	p->graft_next_ns = lb_loop_now_ns(p->env->loop) + HOLD_MS * 1000000ull;
	lb_timer_start(p->env->loop, &p->poll, HOLD_MS + 1);
}

/* True when the graft carrier has taken over. */
static bool take_over(struct lb_pair *p)
{
	struct lb_graft *g = entry_of(p);
	uint32_t flags[2] = {__atomic_load_n(&g->leg[0].flags, __ATOMIC_RELAXED),
			     __atomic_load_n(&g->leg[1].flags, __ATOMIC_RELAXED)};

	if ((flags[0] | flags[1]) & LB_GRAFT_IRREGULAR) {
		refuse(p, LB_WHY_IRREGULAR);
		return false;
	}
	if (!(flags[0] & flags[1] & LB_GRAFT_SEEN)) {
		if (lb_loop_now_ns(p->env->loop) - p->graft_since_ns >= UNSEEN_NS)
			refuse(p, LB_WHY_UNSEEN);
		else
			poll_soon(p);
		return false;
	}
	if (!p->hold_reads && lb_loop_now_ns(p->env->loop) < p->graft_next_ns)
		return false;
	if (!holds_nothing(&p->dir[0]) || !holds_nothing(&p->dir[1])) {
		hold_reads(p);
		return false;
	}
	if (!lb_graft_windows_fit(p)) {
		p->why = LB_WHY_WINDOW;
		try_later(p);
		return false;
	}
	if (begin_split(p)) {
		refuse(p, LB_WHY_NOT_ESTABLISHED);
		return false;
	}
	if (p->promoted)
		p->promoted(p, &lb_graft);
	p->graft = LB_PAIR_GRAFT_CARRIED;
	p->carrier = &lb_graft;
	p->why = LB_WHY_NONE;
	p->poll_ms = POLL_MIN_MS;
	p->graft_since_ns = lb_loop_now_ns(p->env->loop);
	/* At once: bytes that came before SPLIT have made their event already. */
	lb_graft.event(p, 0, 0);
	return true;
}

bool lb_graft_consider(struct lb_pair *p)
{
	enum lb_why why;

	if (p->graft == LB_PAIR_GRAFT_OFF)
		return false;
	if (is_ending(p)) {
		/* It ends as it is; why it was not grafted stays as it was. */
		read_on(p);
		lb_graft_unwatch(p);
		return false;
	}
	if (p->graft == LB_PAIR_GRAFT_WATCHED)
		return take_over(p);
	if (!has_earned_it(p))
		return false;
	p->poll_ms = POLL_MIN_MS;
	why = watch(p);
	if (why != LB_WHY_NONE)
		refuse(p, why);
	else
		poll_soon(p);
	return false;
}

/* G3 */
static void announce(struct lb_pair *p, unsigned int sink, uint32_t bytes)
{
	__u32 *wend = &entry_of(p)->wend[sink];

	__atomic_store_n(wend, *wend + bytes, __ATOMIC_RELEASE);
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
	struct lb_graft_leg *leg = &entry_of(p)->leg[d];

	(void)note_received(p, d);
	leg->fin_end = leg->seq_end + 1;
	__atomic_fetch_or(&leg->flags, LB_GRAFT_FIN, __ATOMIC_RELEASE);
	announce(p, d ^ 1, 1);
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
		announce(p, d ^ 1, (uint32_t)n);
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
		lb_watch_remove(p->env->loop, &p->leg[i].watch, true);
		lb_graft_socket_vanish(fd);
	}
}

/* From here on the pair is the keeper's; the session goes. */
static void leave(struct lb_pair *p)
{
	close_both(p);
	p->left(p, entry_of(p));
}

static void set_stage(struct lb_pair *p, enum lb_graft_stage stage)
{
	__atomic_store_n(&entry_of(p)->stage, stage, __ATOMIC_SEQ_CST);
	p->graft_since_ns = lb_loop_now_ns(p->env->loop);
}

static bool owe_nothing(const struct lb_pair *p)
{
	/* Ended meanwhile: what our sockets still hold nobody waits for. */
	return lb_graft_has_ended(entry_of(p)) || (owes_nothing(p, 0) && owes_nothing(p, 1));
}

/* G7 */
static void finish(struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++)
		(void)note_received(p, i);
	set_stage(p, LB_GRAFT_FULL);
	lb_timer_start(p->env->loop, &p->poll, CLOSE_MS);
}

/* True when the pair is done with, or is still to wait. */
static bool finished(struct lb_pair *p, uint32_t events)
{
	if (entry_of(p)->stage != LB_GRAFT_FULL)
		return false;
	if (!owe_nothing(p)) {
		/* A packet took all that time from the program to our socket. */
		set_stage(p, LB_GRAFT_SPLIT);
		return false;
	}
	if (events & EPOLLERR ||
	    lb_loop_now_ns(p->env->loop) - p->graft_since_ns >= CLOSE_MS * 1000000ull)
		leave(p);
	return true;
}

static void end_early(struct lb_pair *p)
{
	__atomic_store_n(&entry_of(p)->stage, LB_GRAFT_FULL, __ATOMIC_SEQ_CST);
	leave(p);
}

static void graft_event(struct lb_pair *p, unsigned int leg, uint32_t events)
{
	if (finished(p, events))
		return;
	if (events & EPOLLERR) {
		/* Ended before our sockets were gone, a new connection with the same addresses got
		 * their answer and reset them: that is not how this flow ended. */
		if (lb_graft_has_ended(entry_of(p)))
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
		poll_soon(p);
}

/* --- reports ---------------------------------------------------------------------------------- */

static uint64_t graft_bytes(const struct lb_pair *p, unsigned int d)
{
	return __atomic_load_n(&entry_of(p)->leg[d].bytes, __ATOMIC_RELAXED);
}

static uint64_t graft_last_ns(const struct lb_pair *p)
{
	uint64_t last = p->last_ns;

	for (unsigned int i = 0; i < 2; i++) {
		uint64_t ns = __atomic_load_n(&entry_of(p)->leg[i].data_ns, __ATOMIC_RELAXED);

		if (ns > last)
			last = ns;
	}
	return last;
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
	struct lb_graft *g = entry_of(p);
	uint16_t port = ntohs(g->leg[LB_LEG_CLIENT].sport);

	for (unsigned int d = 0; d < 2; d++) {
		p->dir[d].bytes = graft_bytes(p, d);
		lb_carrier_release(&p->dir[d]);
	}
	close_both(p);
	lb_graft_unhook(grafts, p->graft_pair);
	if (!clean)
		lb_graft_reset_peers(g);
	lb_grafts_put(grafts, p->graft_pair);
	lb_ports_leave(p->ports, port);
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
	.clean = graft_clean,
	.quit = graft_quit,
	.stop = graft_stop,
};
