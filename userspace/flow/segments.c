/* SPDX-License-Identifier: MIT */
/*
 * See segments.h. Best effort: where the kernel does not tell or take a size, flows that would need
 * it are refused as grafts later (LB_WHY_MSS). It must never allow more than without it.
 */
#include "flow/segments.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "base/cleanup.h"

/* The option with its padding: an mss as getsockopt(2) gives it is without. */
#define TIMESTAMP_BYTES 12
#define IPV4_HEADERS    40
#define IPV6_HEADERS    60
/* No sender fills more than half a window with one segment (tcp_bound_to_half_wnd): this is just
 * below half of the first one. */
#define SEGMENT_MAX 32000

static int option(int fd, int level, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);

	return getsockopt(fd, level, name, &value, &len) ? 0 : value;
}

static void limit(int fd, int mss)
{
	if (mss > SEGMENT_MAX)
		mss = SEGMENT_MAX;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_MAXSEG, &mss, sizeof(mss));
}

/* What the route to <addr> carries, as an mss; 0: nobody knows. */
static int carried_to(const struct lb_addr *addr)
{
	bool ipv6 = addr->sa.sa_family == AF_INET6;
	LB_AUTO_CLOSE int fd = -1;
	int mtu;

	/* Connecting a datagram socket sends nothing. */
	fd = socket(addr->sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, &addr->sa, lb_addr_len(addr)))
		return 0;
	mtu = ipv6 ? option(fd, IPPROTO_IPV6, IPV6_MTU) : option(fd, IPPROTO_IP, IP_MTU);
	return mtu ? mtu - (ipv6 ? IPV6_HEADERS : IPV4_HEADERS) : 0;
}

int lb_segments_carried(struct lb_pool *pool)
{
	struct lb_backend **all = NULL;
	int least = SEGMENT_MAX;
	uint32_t count = 0;

	(void)lb_pool_snapshot(pool, &all, &count);
	for (uint32_t i = 0; i < count; i++) {
		int mss = carried_to(&all[i]->addr);

		if (mss > 0 && mss < least)
			least = mss;
	}
	lb_pool_snapshot_free(&all, count);
	return least;
}

void lb_segments_limit_clients(int fd, int mss)
{
	limit(fd, mss);
}

void lb_segments_limit_backend(int fd, int client_fd)
{
	int mss = option(client_fd, IPPROTO_TCP, TCP_MAXSEG);

	if (mss)
		limit(fd, mss + TIMESTAMP_BYTES);
}
