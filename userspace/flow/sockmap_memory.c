/* SPDX-License-Identifier: MIT */
/*
 * Decides how much memory the sockets of a pair on sockmap may take: their buffers, and what their
 * peers are promised. The rules S6 and S8 are told in sockmap.c. It moves no byte.
 */
#include "flow/sockmap_memory.h"

#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <lb/limits.h>

#include "flow/throttle.h"

/* What a source is promised: 8 Gbit/s at its round-trip time, within these bounds. */
#define WINDOW_BYTES_PER_US 1024u
#define WINDOW_MIN          (256u * 1024u)
#define WINDOW_MAX          (4u * 1024u * 1024u)
#define WINDOW_THRIFTY      (32u * 1024u) /* .. while TCP is short of memory (S6) */
#define WINDOW_FREE         (1 << 30)
#define BUF_LOCK_RCVBUF     2 /* SOCK_RCVBUF_LOCK; <linux/socket.h> does not go with libc's */
#define LOOK_NS             1000000000ull
#define LOOK_WORRIED_NS     50000000ull

/* setsockopt doubles the bytes: the kernel counts overhead too. Best effort without the right. */
static void set_buffer(int fd, int force, int plain, uint32_t bytes)
{
	int half = (int)bytes;

	if (setsockopt(fd, SOL_SOCKET, force, &half, sizeof(half)))
		(void)setsockopt(fd, SOL_SOCKET, plain, &half, sizeof(half));
}

/*
 * The receive buffer is set, and so locked, for bytes taken by the gate look like bytes read to the
 * kernel's auto-tuning: it would grow the window to tcp_rmem's maximum (and any TCP_WINDOW_CLAMP
 * with it), and a sink that stalls would then find it full. A small window also ends an episode
 * soon: what a source still has under way is what the daemon must carry.
 */
static void set_window(struct lb_leg *leg, uint32_t bytes)
{
	if (bytes == leg->promised)
		return;
	leg->promised = bytes;
	set_buffer(leg->watch.fd, SO_RCVBUFFORCE, SO_RCVBUF, bytes);
}

/*
 * The send buffer is set and then unlocked (S6). We are the only ones who send(2) there, so nobody
 * meets it while it is locked.
 */
static int set_sndbuf(struct lb_leg *leg)
{
	int lock = BUF_LOCK_RCVBUF, granted;
	socklen_t len = sizeof(granted);

	set_buffer(leg->watch.fd, SO_SNDBUFFORCE, SO_SNDBUF, LB_SNDBUF_BYTES / 2);
	if (setsockopt(leg->watch.fd, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof(lock)) ||
	    getsockopt(leg->watch.fd, SOL_SOCKET, SO_SNDBUF, &granted, &len))
		return -errno;
	leg->sndbuf = (uint32_t)granted;
	return 0;
}

/* min_rtt: what a burst of connections waited for us does not make a path long. */
static uint32_t window_for(const struct tcp_info *info)
{
	uint64_t rtt_us = info->tcpi_min_rtt < info->tcpi_rtt ? info->tcpi_min_rtt : info->tcpi_rtt;
	uint64_t window = rtt_us * WINDOW_BYTES_PER_US;

	if (window < WINDOW_MIN)
		return WINDOW_MIN;
	return window < WINDOW_MAX ? (uint32_t)window : WINDOW_MAX;
}

void lb_sockmap_memory_look(struct lb_pair *p, bool worried)
{
	uint64_t now = lb_loop_now_ns(p->env->loop);
	bool is_short = false;

	if (now - p->looked_ns < (worried ? LOOK_WORRIED_NS : LOOK_NS))
		return;
	p->looked_ns = now;
	if (p->thrifty) {
		/* Once nothing is held: that bounds what is promised and not yet written. */
		if (p->dir[0].held || p->dir[1].held ||
		    now - p->thrifty_ns < LB_THRIFTY_MS * 1000000ull)
			return;
		p->thrifty = false;
		for (unsigned int i = 0; i < 2; i++)
			(void)set_sndbuf(&p->leg[i]);
		return;
	}
	for (unsigned int i = 0; i < 2; i++) {
		int sndbuf;
		socklen_t len = sizeof(sndbuf);

		if (!getsockopt(p->leg[i].watch.fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, &len))
			is_short |= (uint32_t)sndbuf < p->leg[i].sndbuf;
	}
	if (is_short) {
		p->thrifty = true;
		p->thrifty_ns = now;
	}
}

/* The program writes it under the source's lock; we only look. */
static uint64_t passed(const struct lb_pair *p, unsigned int d)
{
	const struct lb_gate *gate = lb_table_gate(p->env->kernel, p->sockmap_index + d);

	return __atomic_load_n(&gate->passed, __ATOMIC_ACQUIRE);
}

static uint64_t unread(const struct lb_pair *p, unsigned int d)
{
	return p->tethered && d == LB_LEG_BACKEND ? 0 : passed(p, d) - p->dir[d].read_bytes;
}

/* By its round-trip time, or by what its budget is worth. */
static uint32_t window_of(const struct lb_pair *p, unsigned int i)
{
	uint32_t most = lb_throttle_window(p, i), window = p->leg[i].window;

	return window < most ? window : most;
}

bool lb_sockmap_memory_steer(struct lb_pair *p, unsigned int i)
{
	struct lb_leg *leg = &p->leg[i];
	uint32_t window = window_of(p, i);
	uint64_t most = leg->promised == LB_WINDOW_SHUT ? window : 2ull * window;
	bool shut = unread(p, i) > most;

	if (shut)
		set_window(leg, LB_WINDOW_SHUT);
	else
		set_window(leg, p->thrifty ? WINDOW_THRIFTY : window);
	return shut;
}

int lb_sockmap_memory_prepare(struct lb_pair *p, unsigned int i, const struct tcp_info *info)
{
	struct lb_leg *leg = &p->leg[i];
	int clamp, err = set_sndbuf(leg);

	if (err)
		return err;
	leg->window = window_for(info);
	leg->promised = 0;
	set_window(leg, window_of(p, i));
	/* With a locked buffer it does not follow along. */
	clamp = (int)leg->window;
	(void)setsockopt(leg->watch.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &clamp, sizeof(clamp));
	return 0;
}

void lb_sockmap_memory_begin(struct lb_pair *p)
{
	p->thrifty = false;
	p->looked_ns = lb_loop_now_ns(p->env->loop);
}

void lb_sockmap_memory_shut(struct lb_pair *p, unsigned int i)
{
	set_window(&p->leg[i], LB_WINDOW_SHUT);
}

void lb_sockmap_memory_end(struct lb_pair *p)
{
	const int free_window = WINDOW_FREE, unlocked = 0;

	for (unsigned int i = 0; i < 2; i++) {
		struct lb_leg *leg = &p->leg[i];

		/* From where a window that was shut can grow again. */
		set_window(leg, leg->window);
		(void)setsockopt(leg->watch.fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &free_window,
				 sizeof(free_window));
		(void)setsockopt(leg->watch.fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked,
				 sizeof(unlocked));
		leg->promised = leg->throttled = 0;
	}
	p->thrifty = false;
}
