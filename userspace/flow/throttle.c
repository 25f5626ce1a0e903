/* SPDX-License-Identifier: MIT */
/* See throttle.h. Must never take a byte out of a socket: peeking is not reading. */
#include "flow/throttle.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/* Long enough for a way of so long a round-trip time. */
#define WINDOW_PARTS 4
/* What a fresh socket has promised already, net.ipv4.tcp_rmem's default. */
#define WINDOW_MIN (64u * 1024u)
/* Beyond what the kernel gives by itself there is nothing to hold back. */
#define WINDOW_MAX  (3u * 1024u * 1024u)
#define WINDOW_FREE (1 << 30)
#define TURN_SHORT  (64u * 1024u)

uint32_t lb_throttle_window(const struct lb_pair *p, unsigned int i)
{
	uint64_t rate = lb_budget_rate(p->dir[i].budget), window = rate / WINDOW_PARTS;

	if (!rate || window > WINDOW_MAX)
		return UINT32_MAX;
	return window < WINDOW_MIN ? WINDOW_MIN : (uint32_t)window;
}

/*
 * With SO_RCVBUF the buffer does not grow by itself any more. The kernel doubles the value, for
 * overhead; the clamp keeps bytes out of that.
 */
static void set_window(int fd, uint32_t window)
{
	const int unlocked = 0;
	int bytes = window == UINT32_MAX ? WINDOW_FREE : (int)window;

	(void)setsockopt(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP, &bytes, sizeof(bytes));
	if (window == UINT32_MAX)
		(void)setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &unlocked, sizeof(unlocked));
	else if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)))
		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof(bytes));
}

void lb_throttle_windows(struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++) {
		uint32_t window = lb_throttle_window(p, i);

		if (window == p->leg[i].throttled || (window == UINT32_MAX && !p->leg[i].throttled))
			continue;
		p->leg[i].throttled = window;
		set_window(p->leg[i].watch.fd, window);
	}
}

size_t lb_throttle_room(struct lb_pair *p, unsigned int d, ssize_t *peeked)
{
	struct lb_budget *b = p->dir[d].budget;
	uint64_t now = lb_loop_now_ns(p->env->loop), room = lb_budget_room(b, now);
	uint32_t turn;

	*peeked = 1;
	if (room)
		return room < SIZE_MAX ? room : SIZE_MAX;
	if (lb_budget_wait_ns(b, now))
		return 0;
	turn = lb_budget_turn(b, now);
	if (turn > LB_SCRATCH_BYTES)
		turn = LB_SCRATCH_BYTES;
	/* TCP copies nothing for MSG_TRUNC; other protocols need the buffer. */
	*peeked = recv(p->leg[d].watch.fd, p->env->scratch, turn, MSG_PEEK | MSG_TRUNC);
	if (*peeked <= 0)
		return 0;
	return lb_budget_reserve(b, (uint32_t)*peeked, now);
}

size_t lb_throttle_room_for(struct lb_pair *p, unsigned int d, uint32_t waiting)
{
	struct lb_budget *b = p->dir[d].budget;
	uint64_t now = lb_loop_now_ns(p->env->loop), room = lb_budget_room(b, now);

	if (room)
		return room < SIZE_MAX ? room : SIZE_MAX;
	return lb_budget_wait_ns(b, now) ? 0 : lb_budget_reserve(b, waiting, now);
}

bool lb_throttle_is_short(const struct lb_pair *p, unsigned int d)
{
	const struct lb_budget *b = p->dir[d].budget;

	return b && lb_budget_turn(b, lb_loop_now_ns(p->env->loop)) < TURN_SHORT;
}

void lb_throttle_charge(struct lb_pair *p, unsigned int d, size_t bytes)
{
	lb_budget_charge(p->dir[d].budget, bytes, lb_loop_now_ns(p->env->loop));
}

uint64_t lb_throttle_wait_ms(const struct lb_pair *p)
{
	uint64_t now = lb_loop_now_ns(p->env->loop), least = 0;

	for (unsigned int d = 0; d < 2; d++) {
		uint64_t ns = lb_budget_wait_ns(p->dir[d].budget, now);

		if (ns && (!least || ns < least))
			least = ns;
	}
	return (least + 999999) / 1000000;
}

void lb_throttle_wait(struct lb_pair *p)
{
	uint64_t ms = lb_throttle_wait_ms(p);

	if (ms)
		lb_timer_start(p->env->loop, &p->poll, ms);
	else
		lb_timer_stop(p->env->loop, &p->poll);
}
