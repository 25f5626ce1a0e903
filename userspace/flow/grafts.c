/* SPDX-License-Identifier: MIT */
/* See grafts.h. Must never hand out a pair whose keys are still in the table. */
#include "flow/grafts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ports.h"
#include "base/addr.h"
#include "base/cleanup.h"
#include "flow/graft_socket.h"

static void count_free(struct lb_grafts *g)
{
	g->free_count = 0;
	/* Low numbers first: the table stays compact for whoever dumps it. */
	for (uint32_t i = lb_graft_table_pairs(g->table); i-- > 0;)
		if (lb_graft_table_pair(g->table, i)->stage == LB_GRAFT_FREE)
			g->free[g->free_count++] = i;
}

void lb_grafts_count_free(struct lb_grafts *g)
{
	pthread_mutex_lock(&g->lock);
	count_free(g);
	pthread_mutex_unlock(&g->lock);
}

void lb_grafts_lend(struct lb_grafts *g, bool lent)
{
	pthread_mutex_lock(&g->lock);
	__atomic_store_n(&g->lent, lent, __ATOMIC_RELAXED);
	if (!lent)
		count_free(g);
	pthread_mutex_unlock(&g->lock);
}

int lb_grafts_new(struct lb_grafts **ret, struct lb_graft_table *table,
		  const struct lb_graft_config *config)
{
	LB_AUTO(lb_grafts_free) struct lb_grafts *g = calloc(1, sizeof(*g));

	if (!g)
		return -ENOMEM;
	pthread_mutex_init(&g->lock, NULL);
	g->table = table;
	g->config = *config;
	g->free = calloc(lb_graft_table_pairs(table) + 1, sizeof(*g->free));
	g->owners = calloc(lb_graft_table_pairs(table) + 1, sizeof(*g->owners));
	if (!g->free || !g->owners)
		return -ENOMEM;
	lb_grafts_count_free(g);
	*ret = LB_TAKE_PTR(g);
	return 0;
}

void lb_grafts_free(struct lb_grafts **grafts)
{
	if (!*grafts)
		return;
	free((*grafts)->owners);
	pthread_mutex_destroy(&(*grafts)->lock);
	free((*grafts)->free);
	free(*grafts);
	*grafts = NULL;
}

int lb_grafts_get(struct lb_grafts *g, uint32_t *ret)
{
	int err = -ENOSPC;

	pthread_mutex_lock(&g->lock);
	if (g->lent) {
		err = -EBUSY;
	} else if (g->free_count) {
		*ret = g->free[--g->free_count];
		err = 0;
	}
	pthread_mutex_unlock(&g->lock);
	return err;
}

void lb_grafts_put(struct lb_grafts *g, uint32_t pair)
{
	struct lb_graft *entry = lb_graft_table_pair(g->table, pair);

	/* All of it under the lock: who counts what is free finds it once. */
	pthread_mutex_lock(&g->lock);
	/* The stage first: a packet that has just found the key sees a pair that is nobody's. */
	__atomic_store_n(&entry->stage, LB_GRAFT_FREE, __ATOMIC_SEQ_CST);
	memset(entry, 0, sizeof(*entry));
	/* One that is lent is found by who has them. */
	if (!g->lent)
		g->free[g->free_count++] = pair;
	pthread_mutex_unlock(&g->lock);
}

void lb_grafts_add_free(struct lb_grafts *g, uint32_t pair)
{
	pthread_mutex_lock(&g->lock);
	g->free[g->free_count++] = pair;
	pthread_mutex_unlock(&g->lock);
}

void lb_graft_tuple(const struct lb_graft *g, unsigned int leg, struct lb_graft_tuple *ret)
{
	/* What leaves towards this leg is what arrived on the other one. */
	const struct lb_graft_leg *out = &g->leg[leg ^ 1];

	*ret = (struct lb_graft_tuple){
		.ipv6 = out->fixed & LB_GRAFT_IPV6, .sport = out->dport, .dport = out->sport};
	memcpy(ret->saddr, out->daddr, sizeof(ret->saddr));
	memcpy(ret->daddr, out->saddr, sizeof(ret->daddr));
}

static void fill_addr(bool ipv6, const __be32 *addr, __be16 port, struct lb_addr *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (ipv6) {
		ret->in6.sin6_family = AF_INET6;
		ret->in6.sin6_port = port;
		memcpy(&ret->in6.sin6_addr, addr, 16);
	} else {
		ret->in4.sin_family = AF_INET;
		ret->in4.sin_port = port;
		ret->in4.sin_addr.s_addr = addr[0];
	}
}

void lb_graft_peer(const struct lb_graft *g, unsigned int leg, struct lb_addr *ret)
{
	const struct lb_graft_leg *out = &g->leg[leg ^ 1];

	fill_addr(out->fixed & LB_GRAFT_IPV6, out->daddr, out->dport, ret);
}

void lb_graft_client(const struct lb_graft *g, struct lb_addr *ret)
{
	if (g->leg[LB_LEG_CLIENT].named_version)
		fill_addr(g->leg[LB_LEG_CLIENT].named_version == 6, g->client,
			  g->leg[LB_LEG_CLIENT].named_port, ret);
	else
		lb_graft_peer(g, LB_LEG_CLIENT, ret);
}

void lb_graft_set_client(struct lb_graft *g, const struct lb_addr *client)
{
	memset(g->client, 0, sizeof(g->client));
	if (client->sa.sa_family == AF_INET6) {
		memcpy(g->client, &client->in6.sin6_addr, sizeof(g->client));
		g->leg[LB_LEG_CLIENT].named_port = client->in6.sin6_port;
		g->leg[LB_LEG_CLIENT].named_version = 6;
	} else {
		g->client[0] = client->in4.sin_addr.s_addr;
		g->leg[LB_LEG_CLIENT].named_port = client->in4.sin_port;
		g->leg[LB_LEG_CLIENT].named_version = 4;
	}
}

void lb_graft_own(const struct lb_graft *g, unsigned int leg, struct lb_addr *ret)
{
	const struct lb_graft_leg *out = &g->leg[leg ^ 1];

	fill_addr(out->fixed & LB_GRAFT_IPV6, out->saddr, out->sport, ret);
}

void lb_graft_reset_peers(const struct lb_graft *g)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct lb_addr own, peer;

		lb_graft_own(g, i, &own);
		lb_graft_peer(g, i, &peer);
		/* Best effort: whoever missed it is answered with a RST when it speaks next, once
		 * the keys are gone. */
		(void)lb_graft_socket_reset(&own, &peer, g->leg[i].ack_max, g->leg[i].seq_end);
	}
}

void lb_graft_nudge_peer(const struct lb_graft *g, unsigned int leg)
{
	struct lb_addr own, peer;

	lb_graft_own(g, leg, &own);
	lb_graft_peer(g, leg, &peer);
	(void)lb_graft_socket_nudge(&own, &peer, g->leg[leg].ack_max, g->leg[leg].seq_end);
}

bool lb_graft_has_ended(const struct lb_graft *g)
{
	uint32_t a = __atomic_load_n(&g->leg[0].flags, __ATOMIC_ACQUIRE);
	uint32_t b = __atomic_load_n(&g->leg[1].flags, __ATOMIC_ACQUIRE);

	return (a & b & LB_GRAFT_FIN_ACKED) || ((a | b) & LB_GRAFT_RST);
}

uint64_t lb_graft_last_data_ns(const struct lb_graft *g)
{
	uint64_t a = __atomic_load_n(&g->leg[0].data_ns, __ATOMIC_RELAXED);
	uint64_t b = __atomic_load_n(&g->leg[1].data_ns, __ATOMIC_RELAXED);

	return a > b ? a : b;
}

bool lb_graft_first_byte(const struct lb_graft *g, uint64_t *us)
{
	uint64_t first = __atomic_load_n(&g->leg[LB_LEG_BACKEND].first_ns, __ATOMIC_RELAXED);
	uint64_t connected = g->accept_ns + g->leg[LB_LEG_BACKEND].connected_us * 1000ull;

	if (!first)
		return false;
	*us = first > connected ? (first - connected) / 1000 : 0;
	return true;
}

void lb_graft_unhook(struct lb_grafts *grafts, uint32_t pair)
{
	const struct lb_graft *g = lb_graft_table_pair(grafts->table, pair);

	for (unsigned int i = 0; i < 2; i++) {
		struct lb_graft_tuple tuple;

		lb_graft_tuple(g, i, &tuple);
		lb_graft_table_remove(grafts->table, &tuple, pair * 2 + i);
	}
}

uint16_t lb_graft_port(const struct lb_graft *g)
{
	return ntohs(g->leg[LB_LEG_CLIENT].sport);
}

void lb_grafts_release(struct lb_grafts *grafts, uint32_t pair, struct lb_ports *ports)
{
	uint16_t port = lb_graft_port(lb_graft_table_pair(grafts->table, pair));

	lb_graft_unhook(grafts, pair);
	lb_grafts_put(grafts, pair);
	/* Last: who gets the port next finds neither key nor pair. */
	if (ports)
		lb_ports_leave(ports, port);
}
