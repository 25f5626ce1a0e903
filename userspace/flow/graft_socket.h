/* SPDX-License-Identifier: MIT */
/*
 * What a graft needs of a TCP socket and only TCP_REPAIR (CAP_NET_ADMIN) gives: where both streams
 * begin, a close without a packet, a reset where no socket is left. Any thread.
 */
#ifndef LB_FLOW_GRAFT_SOCKET_H
#define LB_FLOW_GRAFT_SOCKET_H

#include <linux/tcp.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"

struct lb_graft_position {
	uint32_t in;       /* sequence number of the peer's first byte */
	uint32_t out;      /* .. of our own first byte of those that were told of */
	uint32_t ts_clock; /* TSval of ours minus CLOCK_MONOTONIC, ms */
};

/*
 * getsockopt(TCP_INFO), zero-filled where the kernel knows less; tcpi_state is not older than the
 * rest. 0 or -errno.
 */
int lb_graft_socket_info(int fd, struct tcp_info *info);
/*
 * Bytes received since the connection began: a FIN is not counted. <eof>: it was read,
 * which a socket that is closed altogether does not tell any more.
 */
uint64_t lb_graft_socket_received(const struct tcp_info *info, bool eof);

/*
 * The last window we announced to the peer (0 where the kernel does not tell: before 6.2), and the
 * last one it announced to us, bytes. 0 or -errno.
 */
int lb_graft_socket_windows(int fd, uint32_t *own, uint32_t *peers);

/*
 * <written>: bytes that were written to the socket so far, all by the calling thread, but for those
 * that are not to count: the last ones count. Makes the peer answer with an ACK: it is sent a
 * probe. 0 or -errno.
 */
int lb_graft_socket_position(int fd, uint64_t written, struct lb_graft_position *ret);

/* Sends the probe once more: the kernel of a peer answers two a second. */
void lb_graft_socket_probe(int fd);

/* Closes the socket; not a packet leaves, whatever was queued is gone. */
void lb_graft_socket_vanish(int fd);

/*
 * Sends a RST from <from> to <to> with sequence number <seq>, which must be what <to> expects next,
 * and acknowledgement <ack>. No socket may own the connection any more. 0 or -errno.
 */
int lb_graft_socket_reset(const struct lb_addr *from, const struct lb_addr *to, uint32_t seq,
			  uint32_t ack);

/*
 * Makes <to> say at once what it acknowledges: it gets a byte once more that it has, which its
 * kernel answers without counting how often. The rest as above.
 */
int lb_graft_socket_nudge(const struct lb_addr *from, const struct lb_addr *to, uint32_t seq,
			  uint32_t ack);

#endif
