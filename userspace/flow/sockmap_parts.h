/* SPDX-License-Identifier: MIT */
/* What sockmap.c and sockmap_leave.c have of each other. Worker's thread only. */
#ifndef LB_FLOW_SOCKMAP_PARTS_H
#define LB_FLOW_SOCKMAP_PARTS_H

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "flow/carrier.h"

/* 0 or -errno. */
static inline int lb_sockmap_read_info(int fd, struct tcp_info *info)
{
	socklen_t len = sizeof(*info);

	memset(info, 0, sizeof(*info));
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &len) ? -errno : 0;
}

/* Payload bytes the socket has taken into its send queue since it was connected. */
static inline uint64_t lb_sockmap_written(const struct tcp_info *info)
{
	return info->tcpi_bytes_sent - info->tcpi_bytes_retrans + info->tcpi_notsent_bytes;
}

/*
 * All that was handed to the sink of direction <d>, by the program and by us, is in its socket's
 * send queue: nothing is left in the psock's (S1). For a direction whose source has ended this is
 * also S4's answer.
 */
bool lb_sockmap_is_drained(struct lb_pair *p, unsigned int d);
/* So much more was passed than has been read. */
uint64_t lb_sockmap_unread(const struct lb_pair *p, unsigned int d);
/*
 * Reads what direction <d> was passed into what is held, whether its sink takes it or not, as long
 * as less than <most> bytes are held and more than <rest> are unread. 0 or -errno, p->error set
 * unless it is -ENOMEM.
 */
int lb_sockmap_take_in(struct lb_pair *p, unsigned int d, uint32_t most, uint32_t rest);

#endif
