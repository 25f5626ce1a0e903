/* SPDX-License-Identifier: MIT */
/* See snapshot.h. Must never change a flow. */
#include "flow/snapshot.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <string.h>
#include <sys/ioctl.h>

#include <lb/graft.h>

#include "base/hash.h"
#include "flow/graft_socket.h"
#include "flow/grafts.h"
#include "flow/session.h"

uint64_t lb_flow_id(const struct lb_addr *client, uint64_t accept_ns)
{
	struct {
		uint64_t accept_ns;
		uint8_t addr[16];
		uint32_t family, port;
	} key;
	uint64_t id;

	memset(&key, 0, sizeof(key));
	key.accept_ns = accept_ns;
	key.family = client->sa.sa_family;
	key.port = lb_addr_port(client);
	if (client->sa.sa_family == AF_INET6)
		memcpy(key.addr, &client->in6.sin6_addr, 16);
	else
		memcpy(key.addr, &client->in4.sin_addr, 4);
	id = lb_hash(&key, sizeof(key));
	return id ? id : 1;
}

/* --- sessions --------------------------------------------------------------------------------- */

uint64_t lb_snapshot_id(const struct lb_session *s)
{
	return lb_flow_id(&s->client, s->accept_ns);
}

static enum lb_flow_state state_of(const struct lb_session *s)
{
	if (s->carrying)
		return LB_FLOW_CARRIED;
	if (s->waiting)
		return LB_FLOW_QUEUED;
	return s->backend ? LB_FLOW_CONNECTING : LB_FLOW_OPENING;
}

static uint64_t queued(int fd, unsigned long which)
{
	int bytes = 0;

	return ioctl(fd, which, &bytes) || bytes < 0 ? 0 : (uint64_t)bytes;
}

/* What direction <d> has in our hands, and in the queues of our sockets. */
static uint64_t backlog(const struct lb_pair *p, unsigned int d)
{
	const struct lb_direction *dir = &p->dir[d];
	uint64_t ours = dir->piped + (dir->held ? dir->held_end - dir->held_at : 0);

	/* After a FIN the kernel counts that as a byte, for ever. */
	if (!dir->eof)
		ours += queued(p->leg[d].watch.fd, SIOCINQ);
	return ours + queued(p->leg[d ^ 1].watch.fd, SIOCOUTQ);
}

void lb_snapshot_ask(const struct lb_session *s, struct lb_flow_snapshot *ret)
{
	const struct lb_pair *p = &s->pair;

	if (!s->carrying)
		return;
	for (unsigned int i = 0; i < 2; i++) {
		struct tcp_info info;

		if (lb_graft_socket_info(p->leg[i].watch.fd, &info))
			return;
		ret->leg[i].rtt_us = info.tcpi_rtt;
		ret->leg[i].retransmissions = info.tcpi_total_retrans;
	}
	for (unsigned int d = 0; d < 2; d++)
		ret->backlog[d] = backlog(p, d);
	ret->has_legs = true;
}

void lb_snapshot_take(const struct lb_session *s, struct lb_flow_snapshot *ret)
{
	const struct lb_pair *p = &s->pair;

	*ret = (struct lb_flow_snapshot){
		.id = lb_snapshot_id(s),
		.rule = s->route->config->name,
		.of = s->route->of ? s->route->of->config->name : NULL,
		.backend = s->backend ? s->backend->config->addr : NULL,
		.client = s->client,
		.state = state_of(s),
		.why = p->why,
		.worker = s->env->carrier.worker,
		.accept_ns = s->accept_ns,
		.last_ns = s->accept_ns,
	};
	if (!s->carrying)
		return;
	ret->carrier = lb_carrier_of(p);
	ret->last_ns = p->carrier->last_ns(p);
	if (ret->last_ns < s->connected_ns)
		ret->last_ns = s->connected_ns;
	for (unsigned int d = 0; d < 2; d++)
		ret->bytes[d] = p->carrier->bytes(p, d);
}

/* --- grafts ----------------------------------------------------------------------------------- */

static struct lb_graft *graft_of(const struct lb_flow_env *env, uint32_t pair)
{
	return lb_graft_table_pair(env->carrier.grafts->table, pair);
}

uint64_t lb_snapshot_graft_id(const struct lb_flow_env *env, uint32_t pair)
{
	const struct lb_graft *g = graft_of(env, pair);
	struct lb_addr client;

	lb_graft_client(g, &client);
	return lb_flow_id(&client, g->accept_ns);
}

/* What was seen of one side and not yet acknowledged by the other one. */
static uint64_t under_way(const struct lb_graft *g, unsigned int d)
{
	uint32_t sent = __atomic_load_n(&g->leg[d].seq_end, __ATOMIC_RELAXED);
	uint32_t acked = __atomic_load_n(&g->leg[d ^ 1].ack_max, __ATOMIC_RELAXED);
	int32_t bytes = (int32_t)(sent + g->leg[d].seq_shift - acked);

	return bytes > 0 ? (uint64_t)bytes : 0;
}

void lb_snapshot_take_graft(const struct lb_flow_env *env, uint32_t pair,
			    struct lb_flow_snapshot *ret)
{
	const struct lb_graft_owner *owner = lb_grafts_owner(env->carrier.grafts, pair);
	const struct lb_graft *g = graft_of(env, pair);

	*ret = (struct lb_flow_snapshot){
		.id = lb_snapshot_graft_id(env, pair),
		.rule = owner->rule ? owner->rule->config->name : "-",
		.of = owner->rule && owner->rule->of ? owner->rule->of->config->name : NULL,
		.backend = owner->backend ? owner->backend->config->addr : NULL,
		.state = LB_FLOW_CARRIED,
		.carrier = &lb_graft,
		.why = LB_WHY_NONE,
		.worker = env->carrier.worker,
		.accept_ns = g->accept_ns,
		.last_ns = lb_graft_last_data_ns(g),
	};
	lb_graft_client(g, &ret->client);
	for (unsigned int d = 0; d < 2; d++) {
		ret->bytes[d] = __atomic_load_n(&g->leg[d].bytes, __ATOMIC_RELAXED);
		ret->backlog[d] = under_way(g, d);
	}
}
