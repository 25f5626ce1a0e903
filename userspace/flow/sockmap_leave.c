/* SPDX-License-Identifier: MIT */
/*
 * See sockmap_leave.h. To take a living socket out of a sockmap loses what its psock holds, and
 * what a verdict under way is about to put there or finds no program for (sk_psock_drop,
 * sk_psock_verdict_recv). Hence a moment is made in which there is neither:
 *
 *  L1  Nothing is to be verdicted: SO_RCVLOWAT beyond anything that comes keeps the kernel from
 *      calling the socket's data_ready (tcp_data_ready, since Linux 5.12, and before in
 *      tcp_data_queue), which is where the program runs. Bytes wait in the receive queue, are
 *      charged there, and the window closes in front of them. To set it takes the socket's lock, so
 *      a verdict that was under way has ended.
 *  L2  Nothing is in a psock: all that was passed has been read (S3), all that was redirected is
 *      in the sink's send queue (S1).
 *  L3  Some things run the program all the same: a FIN behind bytes that wait, a window that is
 *      used up, memory that is short. Before L2 they only make it wait. That one comes in the few
 *      microseconds between L2 and the end of the removal cannot be ruled out, but it is found: all
 *      that a socket has ever received was carried, or is still in its queue. If not, bytes were
 *      lost, and the flow is reset.
 *
 * Must never let a flow go on that has lost a byte.
 */
#include "flow/sockmap_leave.h"

#include <errno.h>
#include <limits.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "flow/graft_socket.h"
#include "flow/handover.h"
#include "flow/sockmap_memory.h"
#include "flow/sockmap_parts.h"
#include "flow/sockmap_slots.h"

#define LEAVE_NS (LB_SOCKMAP_LEAVE_MS * 1000000ull)
/* Read into our own memory, of each direction: with one more read a record has room for it. */
#define TAKE_IN_MAX (LB_HANDOVER_HELD_MAX - LB_SCRATCH_BYTES)
/* Bytes may come between two looks, but not each time. */
#define LOOKS      1000
#define REST_LOOKS 32

static void set_lowat(const struct lb_pair *p, int bytes)
{
	for (unsigned int i = 0; i < 2; i++)
		(void)setsockopt(p->leg[i].watch.fd, SOL_SOCKET, SO_RCVLOWAT, &bytes,
				 sizeof(bytes));
}

void lb_sockmap_judge_queues(const struct lb_pair *p)
{
	set_lowat(p, 1);
}

static bool is_in_map(const struct lb_pair *p, unsigned int i)
{
	return !(p->tethered && i == LB_LEG_BACKEND);
}

static uint64_t unread(const struct lb_pair *p, unsigned int d)
{
	return is_in_map(p, d) ? lb_sockmap_unread(p, d) : 0;
}

/* L2 of one direction. Where only the first leg is in the map nothing is ever redirected. */
static bool is_at_rest(struct lb_pair *p, unsigned int d)
{
	const struct lb_direction *dir = &p->dir[d];

	if (dir->eof && !dir->shut)
		return false;
	return !unread(p, d) && lb_sockmap_is_drained(p, d);
}

/* L3. Payload bytes that leg <i> has received. Of a source that has ended all have been read. */
static bool is_whole(const struct lb_pair *p, unsigned int i)
{
	const struct lb_gate *gate = lb_table_gate(p->env->kernel, p->sockmap_index + i);
	const struct lb_direction *dir = &p->dir[i];
	uint64_t carried = p->leg[i].lead_in + dir->bytes + dir->read_bytes +
			   __atomic_load_n(&gate->redirected, __ATOMIC_ACQUIRE);
	int fd = p->leg[i].watch.fd, unread;

	for (int look = 0; look < LOOKS && !dir->eof; look++) {
		struct tcp_info before, after;

		if (lb_graft_socket_info(fd, &before) || ioctl(fd, SIOCINQ, &unread) ||
		    lb_graft_socket_info(fd, &after))
			return true; /* it is gone, and will say so itself */
		if (before.tcpi_bytes_received != after.tcpi_bytes_received)
			continue;
		return lb_graft_socket_received(&after, false) == carried + (uint32_t)unread;
	}
	return dir->eof;
}

/* 0 or -errno. */
static int take_in(struct lb_pair *p, uint32_t rest)
{
	int err = 0;

	for (unsigned int d = 0; d < 2 && !err; d++)
		if (unread(p, d) > rest)
			err = lb_sockmap_take_in(p, d, TAKE_IN_MAX, rest);
	return err;
}

/*
 * Begins L1. What is passed and stuck behind a slow sink is taken in. A passed byte cannot be read
 * while another one waits for a verdict (tcp_bpf_recvmsg_parser), and to read makes the peer send:
 * so all but what one read takes is read behind a window that is shut.
 */
static int begin(struct lb_pair *p)
{
	int err;

	for (unsigned int i = 0; i < 2; i++)
		if (unread(p, i) > LB_SCRATCH_BYTES)
			lb_sockmap_memory_shut(p, i);
	err = take_in(p, LB_SCRATCH_BYTES);
	for (unsigned int i = 0; i < 2; i++)
		(void)lb_sockmap_memory_steer(p, i);
	p->leave_ns = lb_loop_now_ns(p->env->loop);
	set_lowat(p, INT_MAX);
	return err ? err : take_in(p, 0);
}

/*
 * What is redirected already is with its sink within microseconds, once the kernel's worker has had
 * a processor. True when L2 has come.
 */
static bool comes_to_rest(struct lb_pair *p)
{
	for (int look = 0; look < REST_LOOKS; look++) {
		if (is_at_rest(p, 0) && is_at_rest(p, 1))
			return true;
		if (unread(p, 0) || unread(p, 1))
			break;
		(void)sched_yield();
	}
	return false;
}

static void stay(struct lb_pair *p)
{
	p->leave_ns = 0;
	set_lowat(p, 1);
}

bool lb_sockmap_is_leaving(struct lb_pair *p)
{
	if (p->leave_ns && lb_loop_now_ns(p->env->loop) - p->leave_ns > LEAVE_NS)
		stay(p);
	return p->leave_ns != 0;
}

int lb_sockmap_leave(struct lb_pair *p)
{
	int err = p->leave_ns ? 0 : begin(p);

	if (err || !comes_to_rest(p)) {
		/* An error of a socket makes an event of its own. */
		if (err || unread(p, 0) || unread(p, 1))
			stay(p);
		lb_carrier_again(p);
		return -EAGAIN;
	}
	for (unsigned int i = 0; i < 2; i++)
		if (is_in_map(p, i))
			lb_table_remove(p->env->kernel, p->sockmap_index + i);
	if (is_whole(p, 0) && is_whole(p, 1))
		return 0;
	p->error = EIO;
	p->end(p, LB_REASON_DRAINED, false);
	return -ECONNABORTED;
}

void lb_sockmap_become_relay(struct lb_pair *p)
{
	uint64_t bytes[2], last = p->carrier->last_ns(p);

	p->first_ns = p->carrier->first_ns(p);
	for (unsigned int d = 0; d < 2; d++)
		bytes[d] = p->carrier->bytes(p, d);
	for (unsigned int i = 0; i < 2; i++) {
		p->dir[i].bytes = bytes[i];
		p->dir[i].user = false;
		lb_table_forget(p->env->kernel, p->leg[i].cookie);
	}
	lb_sockmap_slots_put(p->env->slots, p->sockmap_index);
	lb_sockmap_memory_end(p);
	p->last_ns = last;
	p->tethered = false;
	p->leave_ns = 0;
	p->carrier = &lb_relay;
	p->reads = 0;
	p->judged_bytes = bytes[0] + bytes[1];
	if (p->why == LB_WHY_NONE)
		p->why = LB_WHY_SHORT;
	for (unsigned int i = 0; i < 2; i++) {
		p->leg[i].readable = p->leg[i].writable = true;
		lb_carrier_watch(p, i, LB_LEG_EVENTS);
	}
	set_lowat(p, 1);
	lb_carrier_again(p);
}
