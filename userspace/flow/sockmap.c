/* SPDX-License-Identifier: MIT */
/*
 * The sockmap carrier: the verdict program (bpf/sk_verdict.bpf.c) redirects a direction's bytes in
 * the kernel while its gate is KERNEL. When the sink cannot take them the gate goes to USER, the
 * bytes arrive at recv(2) here, and the daemon writes them until nothing is left; then the program
 * takes over again by itself. The daemon also carries every FIN: none crosses in the kernel.
 *
 * Rules that keep the stream whole (each was paid for):
 *  S1  Before the first write of an episode, what was redirected before it must have left the
 *      sink's psock queue: the oracle is TCP_INFO, bytes_sent - bytes_retrans + notsent. The gate's
 *      counter of episodes tells whether an earlier proof still holds.
 *  S2  user_done is published after the write it speaks of.
 *  S3  recv(2) = 0 is the end only when as many bytes were read as were passed: passed bytes may
 *      still wait behind redirected ones of the other direction in the kernel's queue.
 *  S4  shutdown(2) or a clean close(2) of a sink only when it is drained by the same oracle:
 *      either silently drops what the psock still holds. Otherwise RST.
 *  S5  A socket leaves the map by close(2), or at a moment that sockmap_leave.c makes. splice(2)
 *      does not see passed bytes.
 *  S6  Passed bytes are charged to their socket without asking for memory, over every limit of
 *      net.ipv4.tcp_mem (sk_forced_mem_schedule, then skb_set_owner_r): sk_forward_alloc may be
 *      below zero until they are read. When TCP is short of memory, tcp_wmem_schedule() would then
 *      return a negative number to a send(2): EFAULT, and a WARN in the kernel. It does not while
 *      the send buffer is not locked: then the kernel shrinks it and takes the bytes. So SO_SNDBUF
 *      is unlocked again (SO_BUF_LOCK), and a buffer that has shrunk tells of the shortage. The
 *      pair is thrifty then: sources are promised little, and what they were promised before is
 *      read into our own memory although the sink does not take it, for in the kernel it would keep
 *      everybody's TCP short, the sinks' peers too.
 *
 *      Why the two directions never wait for each other: a write is refused only while its leg's
 *      own send queue is not empty (an empty one takes tcp_wmem[0] bytes by force), so an
 *      acknowledgement from that leg's peer is to come and EPOLLOUT with it; for EFAULT, which a
 *      queue of just tcp_wmem[0] can still give, we poll. Nothing the daemon has yet to read or
 *      write of the other direction is waited for. Redirected bytes are sent under the same terms.
 *  S7  In KERNEL mode EPOLLIN is not registered: it would fire per skb.
 *  S8  What is passed while redirected bytes of the other direction wait in the source's own queue
 *      (sk_psock's ingress_skb) is charged to nobody: the window stays open for as long as that
 *      queue is stuck. More unread than the window allows shows it, and the source's window is shut
 *      until it has been read: a receive buffer below one segment.
 *  S9  Bytes are charged once: by the program when it redirects them, here when they are read. For
 *      want of budget they stay unread.
 *  S10 What waits in a receive queue when its socket joins the map is judged before the first
 *      recv(2), which would undo what a redirect does to copied_seq: the bytes would count as
 *      unread for ever (tcp_bpf_recvmsg_parser, since Linux 6.4).
 */
#include "flow/sockmap.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "flow/sockmap_leave.h"
#include "flow/sockmap_memory.h"
#include "flow/sockmap_parts.h"
#include "flow/sockmap_slots.h"
#include "flow/throttle.h"

#define ROUNDS       8
#define ABSORBED_MAX (8u * 1024u * 1024u)
#define POLL_MAX_MS  64u

#define MASK_KERNEL (EPOLLRDHUP | EPOLLET)

enum carried {
	RESTS,     /* nothing to do until the kernel says so */
	AGAIN,     /* the turn's share is used up */
	WAITS,     /* for the sink's EPOLLOUT */
	POLLS,     /* for something that makes no event */
	THROTTLED, /* there are bytes, but no budget for them now */
	SOURCE_FAILED,
	SINK_FAILED,
	OUT_OF_MEMORY,
};

static struct lb_gate *gate_of(const struct lb_pair *p, unsigned int d)
{
	return lb_table_gate(p->env->kernel, p->sockmap_index + d);
}

/* The program writes these under the source's lock; we only look. */
static uint64_t load64(const __u64 *v)
{
	return __atomic_load_n(v, __ATOMIC_ACQUIRE);
}

static uint32_t load32(const __u32 *v)
{
	return __atomic_load_n(v, __ATOMIC_ACQUIRE);
}

/* --- taking over ------------------------------------------------------------------------------ */

static int prepare_leg(struct lb_pair *p, unsigned int i)
{
	struct lb_leg *leg = &p->leg[i];
	socklen_t len = sizeof(leg->cookie);
	struct tcp_info info;
	struct lb_gate *gate;
	int err = lb_sockmap_read_info(leg->watch.fd, &info);

	if (err)
		return err;
	/* The kernel refuses the others too; asking first keeps half-inserted pairs rare. */
	if (info.tcpi_state != LB_TCP_ESTABLISHED)
		return -EOPNOTSUPP;
	if (getsockopt(leg->watch.fd, SOL_SOCKET, SO_COOKIE, &leg->cookie, &len))
		return -errno;
	err = lb_sockmap_memory_prepare(p, i, &info);
	if (err)
		return err;
	/* <i> is the sink of the other direction. */
	p->dir[i ^ 1].written0 = lb_sockmap_written(&info);
	gate = gate_of(p, i);
	memset(gate, 0, sizeof(*gate));
	gate->worker = p->env->worker;
	for (unsigned int b = 0; p->dir[i].budget && b < LB_BUDGET_BUCKETS; b++)
		gate->bucket[b] = p->dir[i].budget->index[b];
	return 0;
}

static int sockmap_start(struct lb_pair *p)
{
	struct lb_kernel *k = p->env->kernel;
	int err = lb_sockmap_slots_take(p->env->slots, p->env->worker, p, &p->sockmap_index);

	if (err) {
		p->why = LB_WHY_MAP_FULL;
		return err;
	}
	for (unsigned int i = 0; i < 2 && !err; i++)
		err = prepare_leg(p, i);
	if (!err)
		err = lb_table_insert(k, p->sockmap_index, p->leg[0].watch.fd, p->leg[0].cookie);
	if (err) {
		lb_sockmap_slots_put(p->env->slots, p->sockmap_index);
		p->why = err == -EOPNOTSUPP ? LB_WHY_NOT_ESTABLISHED : LB_WHY_REFUSED;
		return err;
	}
	/* The way back is not easy (S5). A second leg that is refused, because its FIN has just
	 * come, leaves the first one passing everything: the daemon carries both ways. */
	err = lb_table_insert(k, p->sockmap_index + 1, p->leg[1].watch.fd, p->leg[1].cookie);
	p->tethered = err != 0;
	lb_sockmap_judge_queues(p); /* S10 */
	for (unsigned int d = 0; d < 2; d++) {
		p->dir[d].user = true; /* some may have been passed */
		p->dir[d].drained = false;
		p->dir[d].read_bytes = 0;
	}
	p->poll_since_ns = 0;
	lb_sockmap_memory_begin(p);
	return 0;
}

/* --- the daemon's share ----------------------------------------------------------------------- */

/* S1. For a direction whose source has ended this is also S4's answer. */
bool lb_sockmap_is_drained(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	struct lb_gate *gate = gate_of(p, d);
	uint32_t episode = load32(&gate->episodes);
	uint64_t handed, taken;
	struct tcp_info info;

	if (dir->drained && dir->episode == episode && load32(&gate->mode) == LB_GATE_USER)
		return true;
	handed = load64(&gate->redirected) + gate->user_done;
	if (!handed)
		return true;
	if (lb_sockmap_read_info(p->leg[d ^ 1].watch.fd, &info))
		return false;
	taken = lb_sockmap_written(&info) - dir->written0;
	/* A local -ENOBUFS counts a segment as sent twice. What is acknowledged cannot lie; it
	 * counts our own SYN on the leg that we opened. */
	if (taken > handed)
		taken = info.tcpi_bytes_acked - (d == LB_LEG_CLIENT ? 1 : 0) - dir->written0;
	if (taken != handed)
		return false;
	dir->episode = episode;
	dir->drained = true;
	return true;
}

/*
 * recv(2) of at most <most> bytes into the scratch buffer. A window that was shut is opened before
 * the last bytes are read, for it is reading that tells the peer, which otherwise would find out by
 * ever rarer probes.
 */
static ssize_t read_source(struct lb_pair *p, unsigned int d, size_t most)
{
	if (p->leg[d].promised == LB_WINDOW_SHUT)
		(void)lb_sockmap_memory_steer(p, d);
	return recv(p->leg[d].watch.fd, p->env->scratch,
		    most < LB_SCRATCH_BYTES ? most : LB_SCRATCH_BYTES, 0);
}

/* Puts <len> bytes of the scratch buffer behind what is held. */
static int hold_more(struct lb_pair *p, struct lb_direction *dir, uint32_t len)
{
	char *grown;

	/* Sliding each time would cost more than the bytes that went. */
	if (dir->held_at > dir->held_end / 2) {
		dir->held_end -= dir->held_at;
		memmove(dir->held, dir->held + dir->held_at, dir->held_end);
		dir->held_at = 0;
	}
	grown = realloc(dir->held, dir->held_end + len);
	if (!grown)
		return -ENOMEM;
	memcpy(grown + dir->held_end, p->env->scratch, len);
	dir->held = grown;
	dir->held_end += len;
	return 0;
}

/* What was read will be written: it is charged now. */
static void note_read(struct lb_pair *p, unsigned int d, size_t n)
{
	p->dir[d].read_bytes += n;
	lb_carrier_note_read(p, d);
	lb_throttle_charge(p, d, n);
}

uint64_t lb_sockmap_unread(const struct lb_pair *p, unsigned int d)
{
	return load64(&gate_of(p, d)->passed) - p->dir[d].read_bytes;
}

int lb_sockmap_take_in(struct lb_pair *p, unsigned int d, uint32_t most, uint32_t rest)
{
	struct lb_direction *dir = &p->dir[d];

	while (!dir->eof && dir->held_end - dir->held_at < most && lb_sockmap_unread(p, d) > rest) {
		ssize_t n = read_source(p, d, SIZE_MAX);

		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			p->error = errno; /* it is told only once */
			return -errno;
		}
		if (n <= 0) /* an end is told again to carry() */
			break;
		note_read(p, d, (size_t)n);
		if (hold_more(p, dir, (uint32_t)n))
			return -ENOMEM;
	}
	return 0;
}

/* S6: reads what leg <d> was passed although the sink does not take it, to the bound. */
static enum carried absorb(struct lb_pair *p, unsigned int d)
{
	bool shut = p->leg[d].promised == LB_WINDOW_SHUT;
	int err = 0;

	if (p->dir[d].held)
		err = lb_sockmap_take_in(p, d, shut ? ABSORBED_MAX : p->leg[d].window, 0);
	if (!err)
		return RESTS;
	return err == -ENOMEM ? OUT_OF_MEMORY : SOURCE_FAILED;
}

/* Writes <len> bytes of <data>; *done says how many were taken. RESTS: all of them. */
static enum carried write_out(struct lb_pair *p, unsigned int d, const char *data, size_t len,
			      size_t *done)
{
	struct lb_gate *gate = gate_of(p, d);
	ssize_t n;

	*done = 0;
	n = send(p->leg[d ^ 1].watch.fd, data, len, MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return WAITS;
	if (n < 0 && errno == EFAULT)
		return POLLS; /* S6 */
	if (n < 0) {
		p->error = errno;
		return SINK_FAILED;
	}
	*done = (size_t)n;
	p->last_ns = lb_loop_now_ns(p->env->loop);
	p->poll_since_ns = 0;
	/* S2: everything the program sees through this value is in the sink's write_seq. */
	__atomic_store_n(&gate->user_done, gate->user_done + (uint64_t)n, __ATOMIC_RELEASE);
	return (size_t)n < len ? WAITS : RESTS;
}

static enum carried write_held(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	enum carried carried;
	size_t done;

	if (!lb_sockmap_is_drained(p, d))
		return POLLS;
	carried = write_out(p, d, dir->held + dir->held_at, dir->held_end - dir->held_at, &done);
	dir->held_at += (uint32_t)done;
	if (dir->held_at == dir->held_end)
		lb_carrier_release(dir);
	return carried;
}

static enum carried write_fresh(struct lb_pair *p, unsigned int d, size_t len)
{
	enum carried carried = POLLS;
	size_t done = 0;

	if (lb_sockmap_is_drained(p, d))
		carried = write_out(p, d, p->env->scratch, len, &done);
	if (carried == SINK_FAILED)
		return carried;
	if (done < len &&
	    lb_carrier_hold(&p->dir[d], p->env->scratch + done, (uint32_t)(len - done)))
		return OUT_OF_MEMORY;
	return carried;
}

/* recv(2) said 0: is it the end (S3)? */
static enum carried source_end(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	struct tcp_info info;

	/* The FIN is announced before the last verdict has run, both under the socket's lock;
	 * TCP_INFO takes that lock. */
	(void)lb_sockmap_read_info(p->leg[d].watch.fd, &info);
	if (!(p->tethered && d == LB_LEG_BACKEND) && lb_sockmap_unread(p, d))
		return POLLS;
	dir->eof = true;
	return RESTS;
}

static enum carried carry(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];
	enum carried carried = RESTS;

	for (int round = 0; round < ROUNDS; round++) {
		size_t room;
		ssize_t n;

		if (dir->held) {
			carried = write_held(p, d);
			if (carried != RESTS)
				return carried;
		}
		if (dir->eof)
			return RESTS;
		room = lb_throttle_room(p, d, &n);
		if (room)
			n = read_source(p, d, room);
		else if (n > 0)
			return THROTTLED;
		if (n == 0)
			return source_end(p, d);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return RESTS;
		if (n < 0) {
			p->error = errno;
			return SOURCE_FAILED;
		}
		note_read(p, d, (size_t)n);
		carried = write_fresh(p, d, (size_t)n);
		if (carried != RESTS)
			return carried;
		/* Turns are short because others want theirs. */
		if (lb_throttle_is_short(p, d) && lb_sockmap_unread(p, d))
			return AGAIN;
	}
	return AGAIN;
}

/* True when nothing that was passed is unread or unwritten. */
static bool may_rest(const struct lb_pair *p, unsigned int d)
{
	const struct lb_gate *gate = gate_of(p, d);

	if (p->tethered)
		return true;
	return load32(&gate->mode) == LB_GATE_KERNEL || load64(&gate->passed) == gate->user_done;
}

static void update_masks(struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++) {
		uint32_t mask = MASK_KERNEL;

		if (p->dir[i].user && !p->dir[i].eof)
			mask |= EPOLLIN;
		if (p->dir[i ^ 1].user && p->dir[i ^ 1].held)
			mask |= EPOLLOUT;
		lb_carrier_watch(p, i, mask);
	}
}

/* The next look may wait as long as nothing has moved. 0: a nap. */
static uint64_t poll_wait_ms(struct lb_pair *p)
{
	uint64_t now_ns = lb_loop_now_ns(p->env->loop), ms;

	if (!p->poll_since_ns)
		p->poll_since_ns = now_ns;
	ms = (now_ns - p->poll_since_ns) / 1000000;
	return ms < POLL_MAX_MS ? ms : POLL_MAX_MS;
}

/* The pair's timer, for whatever comes first; <poll>: there is something that makes no event. */
static void arm_timer(struct lb_pair *p, bool poll)
{
	uint64_t ms = lb_throttle_wait_ms(p), poll_ms = 0;

	if (p->thrifty && (!ms || ms > LB_THRIFTY_MS))
		ms = LB_THRIFTY_MS;
	if (poll)
		poll_ms = poll_wait_ms(p);
	else
		p->poll_since_ns = 0;
	if (poll && !poll_ms)
		lb_carrier_soon(p);
	if (poll_ms && (!ms || ms > poll_ms))
		ms = poll_ms;
	if (ms)
		lb_timer_start(p->env->loop, &p->poll, ms);
}

/* True when the pair has ended. */
static bool end_on_failure(struct lb_pair *p, unsigned int d, enum carried carried)
{
	if (carried == OUT_OF_MEMORY)
		p->end(p, LB_REASON_FULL, false);
	else if (carried == SOURCE_FAILED || carried == SINK_FAILED)
		p->end(p, lb_carrier_reset_reason(carried == SOURCE_FAILED ? d : d ^ 1), false);
	else
		return false;
	return true;
}

static void service(struct lb_pair *p)
{
	bool poll = false, again = false;

	lb_sockmap_memory_look(p, false);
	if (load32(&gate_of(p, 0)->broken) || load32(&gate_of(p, 1)->broken)) {
		p->error = ENOMEM;
		p->end(p, LB_REASON_FULL, false);
		return;
	}
	for (unsigned int d = 0; d < 2; d++) {
		struct lb_direction *dir = &p->dir[d];
		enum carried carried, absorbed;

		if (!dir->user || dir->shut)
			continue;
		carried = carry(p, d);
		if (carried == WAITS || carried == POLLS) {
			lb_sockmap_memory_look(p, true);
			absorbed = p->thrifty ? absorb(p, d) : RESTS;
			if (absorbed != RESTS)
				carried = absorbed;
		}
		/* Whoever cannot move now keeps no place in the queue. */
		if (carried != THROTTLED)
			lb_budget_return(dir->budget);
		if (end_on_failure(p, d, carried))
			return;
		if (carried == RESTS && dir->eof) {
			if (!lb_sockmap_is_drained(p, d))
				carried = POLLS;
			else if (lb_carrier_finish(p, d))
				return;
		}
		/* Passed, yet not to be read: it still waits in the kernel's queue (S3). */
		if (carried == RESTS && !dir->eof && !may_rest(p, d))
			carried = POLLS;
		poll |= carried == POLLS;
		again |= carried == AGAIN;
		dir->user = dir->eof ? !dir->shut : carried != RESTS || p->tethered;
	}
	/* A pass in a direction that rests makes a ring event: the program finds that the daemon
	 * owes nothing. It cannot miss that by a hair: user_done was published before the recv(2)
	 * that found nothing, and that call waited for the program at the source's lock. */
	update_masks(p);
	for (unsigned int i = 0; i < 2; i++)
		poll |= lb_sockmap_memory_steer(p, i);
	poll |= lb_sockmap_is_leaving(p);
	if (again)
		lb_carrier_again(p);
	arm_timer(p, poll);
}

static void sockmap_event(struct lb_pair *p, unsigned int leg, uint32_t events)
{
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		p->dir[leg].user = true;
	if (events & EPOLLERR) {
		lb_carrier_leg_failed(p, leg);
		return;
	}
	service(p);
}

static void gate_event(void *arg, const struct lb_event *e)
{
	struct lb_carrier_env *env = arg;
	struct lb_pair *p = lb_sockmap_slots_pair(env->slots, env->worker, e->index);

	/* NULL: the flow ended before its record was read. A reused slot is looked at in vain. */
	if (!p || e->kind != LB_EVENT_GATE_USER)
		return;
	/* What is watched already can wait for the next turn, and must: the ring is read until it
	 * is empty, and a busy source would fill it meanwhile. */
	if (p->dir[e->index & 1].user) {
		lb_carrier_again(p);
		return;
	}
	p->dir[e->index & 1].user = true;
	service(p);
}

void lb_sockmap_ring_event(struct lb_carrier_env *env)
{
	if (!lb_ring_consume(env->kernel, env->worker, gate_event, env))
		return;
	for (uint32_t i = 0; i < lb_sockmap_slots_count(env->slots); i++) {
		struct lb_pair *p = lb_sockmap_slots_pair(env->slots, env->worker, 2 * i);

		if (!p)
			continue;
		p->dir[0].user = p->dir[1].user = true;
		service(p);
	}
}

/* --- reports ---------------------------------------------------------------------------------- */

static uint64_t sockmap_bytes(const struct lb_pair *p, unsigned int d)
{
	const struct lb_gate *gate = gate_of(p, d);

	return p->dir[d].bytes + load64(&gate->redirected) + gate->user_done;
}

static uint64_t sockmap_last_ns(const struct lb_pair *p)
{
	uint64_t last = p->last_ns;

	for (unsigned int d = 0; d < 2; d++) {
		uint64_t ns = load64(&gate_of(p, d)->last_ns);

		if (ns > last)
			last = ns;
	}
	return last;
}

/* The program sees a byte before we read it, and sees also what we never read. */
static uint64_t sockmap_first_ns(const struct lb_pair *p)
{
	uint64_t judged = load64(&gate_of(p, LB_LEG_BACKEND)->first_ns);

	return judged && (!p->first_ns || judged < p->first_ns) ? judged : p->first_ns;
}

static bool sockmap_clean(const struct lb_pair *p)
{
	struct lb_pair *pair = (struct lb_pair *)p;

	for (unsigned int d = 0; d < 2; d++)
		if (!p->dir[d].shut &&
		    (p->dir[d].held || !may_rest(p, d) || !lb_sockmap_is_drained(pair, d)))
			return false;
	return true;
}

static void sockmap_stop(struct lb_pair *p)
{
	for (unsigned int d = 0; d < 2; d++) {
		p->dir[d].bytes = sockmap_bytes(p, d);
		lb_carrier_release(&p->dir[d]);
		lb_table_forget(p->env->kernel, p->leg[d].cookie);
	}
	p->first_ns = sockmap_first_ns(p);
	lb_sockmap_slots_put(p->env->slots, p->sockmap_index);
}

const struct lb_carrier lb_sockmap = {
	.name = "sockmap",
	.id = LB_CARRIER_SOCKMAP,
	.start = sockmap_start,
	.event = sockmap_event,
	.bytes = sockmap_bytes,
	.last_ns = sockmap_last_ns,
	.first_ns = sockmap_first_ns,
	.clean = sockmap_clean,
	.stop = sockmap_stop,
};
