/* SPDX-License-Identifier: MIT */
/*
 * Decides whether two connections can become one: their packets must mean the same on both sides
 * but for constant distances, fit on both ways, and leave where the program can send them. Must
 * never change anything.
 */
#include "flow/graft_judge.h"

#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "flow/graft_socket.h"
#include "flow/grafts.h"

#define TS_OPTION 12u
/* Both legs must agree on these; a difference in window scaling is made up for. */
#define OPTIONS_EQUAL (TCPI_OPT_TIMESTAMPS | TCPI_OPT_SACK | TCPI_OPT_ECN)
/* include/uapi/linux/tcp.h of 6.7; microsecond timestamps have another unit. */
#define OPT_USEC_TS 64

static bool tuple_of(int fd, struct lb_graft_tuple *ret)
{
	struct lb_addr own, peer;
	socklen_t own_len = sizeof(own), peer_len = sizeof(peer);

	memset(ret, 0, sizeof(*ret));
	if (getsockname(fd, &own.sa, &own_len) || getpeername(fd, &peer.sa, &peer_len))
		return false;
	lb_addr_unmap(&own);
	lb_addr_unmap(&peer);
	ret->ipv6 = peer.sa.sa_family == AF_INET6;
	if (ret->ipv6) {
		memcpy(ret->saddr, &peer.in6.sin6_addr, 16);
		memcpy(ret->daddr, &own.in6.sin6_addr, 16);
		ret->sport = peer.in6.sin6_port;
		ret->dport = own.in6.sin6_port;
	} else {
		ret->saddr[0] = peer.in4.sin_addr.s_addr;
		ret->daddr[0] = own.in4.sin_addr.s_addr;
		ret->sport = peer.in4.sin_port;
		ret->dport = own.in4.sin_port;
	}
	return true;
}

/* The largest payload our word allows leg <i>'s peer against what the other peer takes. */
static bool segments_fit(const struct tcp_info info[2], unsigned int i)
{
	uint32_t options = info[i ^ 1].tcpi_options & TCPI_OPT_TIMESTAMPS ? TS_OPTION : 0;

	return info[i].tcpi_advmss <= info[i ^ 1].tcpi_snd_mss + options;
}

static enum lb_why judge_options(const struct tcp_info info[2])
{
	for (unsigned int i = 0; i < 2; i++) {
		if (info[i].tcpi_state != LB_TCP_ESTABLISHED)
			return LB_WHY_NOT_ESTABLISHED;
		if (info[i].tcpi_options & (TCPI_OPT_SYN_DATA | OPT_USEC_TS))
			return LB_WHY_TCP_OPTIONS;
	}
	if ((info[0].tcpi_options ^ info[1].tcpi_options) & OPTIONS_EQUAL)
		return LB_WHY_TCP_OPTIONS;
	return segments_fit(info, 0) && segments_fit(info, 1) ? LB_WHY_NONE : LB_WHY_MSS;
}

static uint8_t wscale(const struct tcp_info *info, uint8_t scale)
{
	return info->tcpi_options & TCPI_OPT_WSCALE ? scale : 0;
}

static enum lb_why judge_ways(struct lb_graft_table *table, const struct lb_graft_tuple tuple[2],
			      uint32_t ifindex[2])
{
	if (tuple[0].ipv6 != tuple[1].ipv6)
		return LB_WHY_FAMILY;
	for (unsigned int i = 0; i < 2; i++) {
		struct lb_graft_route route;

		if (lb_graft_table_route(table, &tuple[i], &route))
			return LB_WHY_ROUTE;
		ifindex[i] = route.ifindex;
	}
	return LB_WHY_NONE;
}

enum lb_why lb_graft_judge(const struct lb_pair *p, struct lb_graft_ways *ret)
{
	enum lb_why why;

	for (unsigned int i = 0; i < 2; i++)
		if (lb_graft_socket_info(p->leg[i].watch.fd, &ret->info[i]) ||
		    !tuple_of(p->leg[i].watch.fd, &ret->tuple[i]))
			return LB_WHY_NOT_ESTABLISHED;
	if (!p->ports || !lb_ports_may_graft(p->ports, ntohs(ret->tuple[LB_LEG_BACKEND].dport)))
		return LB_WHY_PORT;
	why = judge_options(ret->info);
	return why != LB_WHY_NONE ? why
				  : judge_ways(p->env->grafts->table, ret->tuple, ret->ifindex);
}

static bool is_graft(struct lb_graft_table *table, const struct lb_graft_tuple *tuple)
{
	struct lb_graft_tuple reverse = *tuple;
	uint32_t index;

	memcpy(reverse.saddr, tuple->daddr, sizeof(reverse.saddr));
	memcpy(reverse.daddr, tuple->saddr, sizeof(reverse.daddr));
	reverse.sport = tuple->dport;
	reverse.dport = tuple->sport;
	return !lb_graft_table_find(table, &reverse, &index);
}

bool lb_graft_is_chained(struct lb_graft_table *table, const struct lb_graft_ways *w)
{
	return is_graft(table, &w->tuple[0]) || is_graft(table, &w->tuple[1]);
}

void lb_graft_fill(struct lb_graft *g, const struct lb_graft_ways *w)
{
	for (unsigned int i = 0; i < 2; i++) {
		const struct lb_graft_tuple *out = &w->tuple[i ^ 1];
		struct lb_graft_leg *leg = &g->leg[i];

		memcpy(leg->saddr, out->daddr, sizeof(leg->saddr));
		memcpy(leg->daddr, out->saddr, sizeof(leg->daddr));
		leg->sport = out->dport;
		leg->dport = out->sport;
		leg->ifindex = w->ifindex[i ^ 1];
		leg->wscale_in = wscale(&w->info[i], w->info[i].tcpi_snd_wscale);
		leg->wscale_out = wscale(&w->info[i ^ 1], w->info[i ^ 1].tcpi_rcv_wscale);
		leg->fixed = (uint16_t)((w->tuple[i].ipv6 ? LB_GRAFT_IPV6 : 0) |
					(w->info[i].tcpi_options & TCPI_OPT_TIMESTAMPS
						 ? LB_GRAFT_TIMESTAMPS
						 : 0));
	}
}
