/* SPDX-License-Identifier: MIT */
/*
 * See graft_socket.h. Must never leave a socket in repair mode: the kernel would keep its segments
 * to itself (tcp_write_xmit).
 */
#include "flow/graft_socket.h"

#include <errno.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

/* include/net/tcp_states.h */
#define STATE_TIME_WAIT  6
#define STATE_CLOSE      7
#define STATE_CLOSE_WAIT 8
#define STATE_LAST_ACK   9
#define STATE_CLOSING    11

#define TRIES 16

static int set(int fd, int option, int value)
{
	return setsockopt(fd, IPPROTO_TCP, option, &value, sizeof(value)) ? -errno : 0;
}

static int get_u32(int fd, int option, uint32_t *ret)
{
	socklen_t len = sizeof(*ret);

	return getsockopt(fd, IPPROTO_TCP, option, ret, &len) ? -errno : 0;
}

/*
 * The kernel notes the state before it takes the lock under which it reads the rest (tcp_get_info):
 * a FIN that comes in between counts as a byte received by a socket that looks ESTABLISHED. The
 * state of a second look, later than those bytes, tells.
 */
int lb_graft_socket_info(int fd, struct tcp_info *info)
{
	socklen_t len = sizeof(*info), state_len = sizeof(info->tcpi_state);
	uint8_t state;

	memset(info, 0, sizeof(*info));
	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len) ||
	    getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &state_len))
		return -errno;
	info->tcpi_state = state;
	return 0;
}

int lb_graft_socket_windows(int fd, uint32_t *own, uint32_t *peers)
{
	/* tcpi_rcv_wnd came with 6.2, right behind the last field that our headers may know. */
	struct {
		struct tcp_info info;
		uint32_t more[16];
	} answer = {0};
	const size_t at = offsetof(struct tcp_info, tcpi_snd_wnd) + sizeof(uint32_t);
	socklen_t len = sizeof(answer);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &answer, &len))
		return -errno;
	*peers = answer.info.tcpi_snd_wnd;
	memcpy(own, (const char *)&answer + at, sizeof(*own));
	return 0;
}

uint64_t lb_graft_socket_received(const struct tcp_info *info, bool eof)
{
	uint8_t state = info->tcpi_state;
	/*
	 * A FIN moves rcv_nxt like a byte (tcp_fin, tcp_rcv_nxt_update). With both FINs come and
	 * acknowledged the socket is CLOSE, unread bytes or not (tcp_done). CLOSE by a RST is one
	 * byte short then, but its bytes the program has counted.
	 */
	bool fin = eof || state == STATE_CLOSE_WAIT || state == STATE_LAST_ACK ||
		   state == STATE_CLOSING || state == STATE_TIME_WAIT || state == STATE_CLOSE;

	return info->tcpi_bytes_received - fin;
}

/* rcv_nxt and bytes_received of one moment: packets may come in between. */
static int read_in(int fd, uint32_t *ret)
{
	struct tcp_info info;
	uint32_t before, after;
	int err;

	err = set(fd, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
	for (int i = 0; !err && i < TRIES; i++) {
		err = get_u32(fd, TCP_QUEUE_SEQ, &before);
		if (!err)
			err = lb_graft_socket_info(fd, &info);
		if (!err)
			err = get_u32(fd, TCP_QUEUE_SEQ, &after);
		if (!err && before == after) {
			*ret = before - (uint32_t)info.tcpi_bytes_received;
			return 0;
		}
	}
	return err ? err : -EAGAIN;
}

/*
 * While the send queue is the one in repair, segments that an ACK lets go are taken for sent and
 * are not (tcp_write_xmit): they would wait for a retransmission. Hence out of it at once.
 */
static int read_out(int fd, uint64_t written, uint32_t *ret)
{
	uint32_t write_seq;
	int err, back;

	err = set(fd, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
	if (err)
		return err;
	err = get_u32(fd, TCP_QUEUE_SEQ, &write_seq);
	back = set(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
	*ret = write_seq - (uint32_t)written;
	return err ? err : back;
}

/* With a window probe: its answer shows that the program sees this peer's packets. */
static int leave_repair(int fd)
{
	const int one = 1;
	int err = set(fd, TCP_REPAIR, TCP_REPAIR_OFF);

	/* Leaving repair takes SO_REUSEADDR away; the port must stay free for a restart. */
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return err;
}

void lb_graft_socket_probe(int fd)
{
	if (!set(fd, TCP_REPAIR, TCP_REPAIR_ON))
		(void)leave_repair(fd);
}

int lb_graft_socket_position(int fd, uint64_t written, struct lb_graft_position *ret)
{
	struct lb_graft_position p = {0};
	uint32_t now_ms;
	int err, off;

	err = set(fd, TCP_REPAIR, TCP_REPAIR_ON);
	if (err)
		return err;
	err = read_in(fd, &p.in);
	if (!err)
		err = read_out(fd, written, &p.out);
	now_ms = (uint32_t)lb_clock_ms();
	if (!err && !get_u32(fd, TCP_TIMESTAMP, &p.ts_clock))
		p.ts_clock -= now_ms;
	off = leave_repair(fd);
	err = err ? err : off;
	if (!err)
		*ret = p;
	return err;
}

void lb_graft_socket_vanish(int fd)
{
	/* tcp_close() of a socket in repair only disconnects it. */
	(void)set(fd, TCP_REPAIR, TCP_REPAIR_ON);
	close(fd);
}

static int set_queue(int fd, int queue, uint32_t seq)
{
	int err = set(fd, TCP_REPAIR_QUEUE, queue);

	return err ? err : set(fd, TCP_QUEUE_SEQ, (int)seq);
}

/*
 * A socket that stands in the connection <from>..<to> as if it had always been there, in repair;
 * what it sends next is <seq>. Nobody's socket may be there. Or -errno.
 */
static int stand_in(const struct lb_addr *from, const struct lb_addr *to, uint32_t seq,
		    uint32_t ack)
{
	LB_AUTO_CLOSE int fd = -1;
	int err;

	fd = socket(to->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* In repair bind(2) asks nobody (SK_FORCE_REUSE): the listener has the same address. */
	err = set(fd, TCP_REPAIR, TCP_REPAIR_ON);
	if (!err)
		err = set_queue(fd, TCP_SEND_QUEUE, seq);
	if (!err)
		err = set_queue(fd, TCP_RECV_QUEUE, ack);
	if (!err && bind(fd, &from->sa, lb_addr_len(from)))
		err = -errno;
	/* Established at once, without a packet: that is what repair is for. */
	if (!err && connect(fd, &to->sa, lb_addr_len(to)))
		err = -errno;
	return err ? err : LB_TAKE_FD(fd);
}

int lb_graft_socket_reset(const struct lb_addr *from, const struct lb_addr *to, uint32_t seq,
			  uint32_t ack)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	LB_AUTO_CLOSE int fd = stand_in(from, to, seq, ack);
	int err;

	if (fd < 0)
		return fd;
	err = set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	if (!err && setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)))
		err = -errno;
	if (err)
		(void)set(fd, TCP_REPAIR, TCP_REPAIR_ON);
	return err;
}

int lb_graft_socket_nudge(const struct lb_addr *from, const struct lb_addr *to, uint32_t seq,
			  uint32_t ack)
{
	const struct tcp_repair_window window = {
		.snd_wl1 = ack, .snd_wnd = 1, .max_window = 1, .rcv_wnd = 1, .rcv_wup = ack};
	/* It ends before what <to> has acknowledged, and comes to nothing (tcp_sequence). */
	int fd = stand_in(from, to, seq - 2, ack), err = 0;

	if (fd < 0)
		return fd;
	if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &window, sizeof(window)))
		err = -errno;
	if (!err)
		err = set(fd, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	if (!err && send(fd, "", 1, MSG_NOSIGNAL) < 0)
		err = -errno;
	lb_graft_socket_vanish(fd);
	return err;
}
