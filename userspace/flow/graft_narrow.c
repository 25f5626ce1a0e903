/* SPDX-License-Identifier: MIT */
/*
 * See graft_narrow.h. Must never hold a direction back for long that does not drain: what its
 * receiver waits for may be what we do not read.
 */
#include "flow/graft_narrow.h"

#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "flow/graft_socket.h"

/* A new socket of ours announces more at once. */
#define LIMIT_LEAST (16u * 1024u)
#define LIMIT_MOST  (48u * 1024u)
#define READ_MOST   (64u * 1024u) /* what relay reads in one go by copying */
#define WINDOW_FREE (1 << 30)
/* No acknowledgement for so long, and at so many looks: a turn of the loop may take long itself. */
#define STUCK_NS      200000000ull
#define STUCK_LOOKS   4u
#define LOOK_MAX_MS   50u
#define LOOKS_DOUBLED 5u

static void clamp_windows(struct lb_pair *p, uint32_t bytes)
{
	const int clamp = (int)bytes;

	for (unsigned int i = 0; i < 2; i++)
		(void)setsockopt(p->leg[i].watch.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &clamp,
				 sizeof(clamp));
}

/*
 * Of the limit so much may wait to be read, so much be unacknowledged when relay reads that, and as
 * much again have come then: once a stream is narrow, it stays close.
 */
static uint32_t share(const struct lb_pair *p)
{
	return p->narrow.limit / 3;
}

void lb_graft_narrow_init(struct lb_pair *p)
{
	uint32_t limit = LIMIT_MOST;

	for (unsigned int i = 0; i < 2; i++) {
		uint32_t own, peers;

		if (lb_graft_socket_windows(p->leg[i].watch.fd, &own, &peers))
			own = 0;
		if (own < limit)
			limit = own;
	}
	p->narrow = (struct lb_narrow){.limit = limit > LIMIT_LEAST ? limit : LIMIT_LEAST};
	/* What a peer was promised beyond the other peer's window would be dropped there. */
	clamp_windows(p, share(p));
}

/* These two answer 0 for a socket in trouble: that is found when SPLIT begins. */
static uint32_t unread(const struct lb_pair *p, unsigned int i)
{
	int n = 0;

	return ioctl(p->leg[i].watch.fd, SIOCINQ, &n) ? 0 : (uint32_t)n;
}

static uint32_t unacked(const struct lb_pair *p, unsigned int i)
{
	int n = 0;

	return ioctl(p->leg[i].watch.fd, SIOCOUTQ, &n) ? 0 : (uint32_t)n;
}

/* All of direction <d> that its source was told has arrived, and its sink has not said so. */
static uint32_t lag_of(const struct lb_pair *p, unsigned int d)
{
	const struct lb_direction *dir = &p->dir[d];

	return unread(p, d) + (dir->held ? dir->held_end - dir->held_at : 0) + dir->piped +
	       unacked(p, d ^ 1);
}

/* Bytes of direction <d> that the sink has acknowledged, a header in front of them included. */
static uint64_t acked(const struct lb_pair *p, unsigned int d)
{
	return p->dir[d].bytes + p->leg[d ^ 1].lead_out - unacked(p, d ^ 1);
}

/* What leg <i>'s peer takes beyond what it has acknowledged, read or not. */
static uint32_t window_of(const struct lb_pair *p, unsigned int i)
{
	uint32_t own, peers;

	return lb_graft_socket_windows(p->leg[i].watch.fd, &own, &peers) ? UINT32_MAX : peers;
}

static bool is_close(const struct lb_pair *p, unsigned int d, uint32_t lag)
{
	return lag <= p->narrow.limit && lb_carrier_holds_nothing(&p->dir[d]) &&
	       lag <= window_of(p, d ^ 1);
}

/*
 * When to look again at a direction that is not close, ms: as it drains it may have come halfway
 * then; while it does not, less and less often.
 */
static uint64_t look_after_ms(struct lb_pair *p, unsigned int d, uint32_t lag, uint64_t now)
{
	struct lb_narrow *n = &p->narrow;
	uint64_t total = acked(p, d), moved = total - n->acked[d], took = now - n->since_ns[d];

	if (!moved)
		return n->looks[d]++ < LOOKS_DOUBLED ? 1u << n->looks[d] : LOOK_MAX_MS;
	n->looks[d] = 0;
	n->acked[d] = total;
	n->since_ns[d] = now;
	return lag <= n->limit ? 1 : (lag - n->limit) * (took / 1000) / moved / 2000 + 1;
}

static bool is_stuck(const struct lb_pair *p, unsigned int d, uint64_t now)
{
	return p->narrow.looks[d] >= STUCK_LOOKS && now - p->narrow.since_ns[d] > STUCK_NS;
}

static void set_rcvbuf(const struct lb_pair *p, unsigned int i, uint32_t bytes)
{
	const int half = (int)(bytes / 2); /* the kernel doubles it */

	(void)setsockopt(p->leg[i].watch.fd, SOL_SOCKET, SO_RCVBUFFORCE, &half, sizeof(half));
}

static uint32_t memory_of(const struct lb_pair *p, unsigned int i, uint32_t *rcvbuf)
{
	uint32_t info[SK_MEMINFO_VARS] = {0};
	socklen_t len = sizeof(info);

	(void)getsockopt(p->leg[i].watch.fd, SOL_SOCKET, SO_MEMINFO, info, &len);
	*rcvbuf = info[SK_MEMINFO_RCVBUF];
	return info[SK_MEMINFO_RMEM_ALLOC];
}

/*
 * Source <i>'s window stays shut until what it has sent is read: <bytes> of <waiting> are about to
 * be. Its buffer, locked so that it does not grow again, shrinks to what will be in it and what has
 * been promised; anything less would drop what is under way (tcp_try_rmem_schedule).
 */
static void tighten(struct lb_pair *p, unsigned int i, uint32_t waiting, uint32_t bytes)
{
	uint32_t now, used = memory_of(p, i, &now), own = 0, peers, want;

	if (lb_graft_socket_windows(p->leg[i].watch.fd, &own, &peers))
		return;
	want = 2 * own;
	if (waiting > bytes)
		want += (uint32_t)((uint64_t)used * (waiting - bytes) / waiting);
	if (want < 2 * share(p))
		want = 2 * share(p);
	if (want < now)
		set_rcvbuf(p, i, want);
}

static void begin(struct lb_pair *p, uint64_t now)
{
	p->narrow.on = true;
	for (unsigned int d = 0; d < 2; d++) {
		p->narrow.acked[d] = acked(p, d);
		p->narrow.since_ns[d] = now;
		p->narrow.looks[d] = 0;
		(void)memory_of(p, d, &p->narrow.rcvbuf[d]);
		tighten(p, d, 1, 0);
	}
	clamp_windows(p, share(p));
}

enum lb_graft_narrow lb_graft_narrow(struct lb_pair *p)
{
	uint64_t now = lb_loop_now_ns(p->env->loop), wait_ms = 1;
	uint32_t lag[2] = {lag_of(p, 0), lag_of(p, 1)};

	if (is_close(p, 0, lag[0]) && is_close(p, 1, lag[1]))
		return LB_GRAFT_CLOSE;
	if (!p->narrow.on)
		begin(p, now);
	for (unsigned int d = 0; d < 2; d++) {
		uint64_t ms;

		if (is_close(p, d, lag[d]))
			continue;
		ms = look_after_ms(p, d, lag[d], now);
		if (is_stuck(p, d, now))
			return LB_GRAFT_STUCK;
		if (ms > wait_ms)
			wait_ms = ms;
	}
	lb_timer_start(p->env->loop, &p->poll, wait_ms < LOOK_MAX_MS ? wait_ms : LOOK_MAX_MS);
	return LB_GRAFT_COMING;
}

void lb_graft_widen(struct lb_pair *p)
{
	const int unlocked = 0;

	clamp_windows(p, WINDOW_FREE);
	if (!p->narrow.on)
		return;
	p->narrow.on = false;
	for (unsigned int i = 0; i < 2; i++) {
		set_rcvbuf(p, i, p->narrow.rcvbuf[i]);
		(void)setsockopt(p->leg[i].watch.fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked,
				 sizeof(unlocked));
	}
	lb_carrier_again(p);
}

size_t lb_graft_room(struct lb_pair *p, unsigned int d)
{
	uint32_t waiting, room;

	if (!p->narrow.on)
		return SIZE_MAX;
	waiting = unread(p, d);
	/* What has piled up goes as the sink takes it; the last of it when the sink has little. */
	if (waiting > share(p))
		room = waiting - share(p);
	else
		room = unacked(p, d ^ 1) <= share(p) ? share(p) : 0;
	if (room > READ_MOST)
		room = READ_MOST;
	if (room)
		tighten(p, d, waiting, room);
	return room;
}
