/* SPDX-License-Identifier: MIT */
/*
 * The membership as a whole: its time, what it sends and where what comes goes. See member.h. Must
 * never act on a datagram that was not good from its first byte to its last.
 */
#include "cluster/member.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "cluster/member_state.h"

/* News is told so often in a period, .. */
#define GOSSIPS 5u
/* .. to so many each time. */
#define FANOUT 3u

uint64_t member_random(struct lb_membership *g, uint64_t below)
{
	return lb_hash_mix(lb_random_next(&g->random)) % below;
}

void member_begin(struct lb_membership *g, struct lb_wire_out *out, enum lb_wire_kind kind,
		  uint64_t target, uint32_t seq)
{
	struct lb_wire_head head = {
		.kind = kind,
		.seq = seq,
		.sender = g->self->id,
		.incarnation = g->self->incarnation,
		.target = target,
	};

	lb_wire_begin(out, &head);
}

static void emit(struct lb_membership *g, const struct lb_addr *to, const struct lb_wire_out *out)
{
	g->counts.sent++;
	g->counts.sent_bytes += out->len;
	g->params.ops->send(g->params.arg, to, out->bytes, out->len);
}

void member_send(struct lb_membership *g, const struct lb_addr *to, struct lb_wire_out *out)
{
	member_fill(g, out);
	emit(g, to, out);
}

static void view(const struct lb_membership *g, const struct member *m, struct lb_member_view *ret)
{
	*ret = (struct lb_member_view){
		.id = m->id,
		.incarnation = m->incarnation,
		.name = m->name,
		.version = m->version,
		.addr = &m->addr,
		.config_hash = m->config_hash,
		.state = (enum lb_member_state)m->state,
		.rtt_us = m->rtt_us,
		.since_ms = (g->now_us - m->since_us) / 1000,
		.self = m == g->self,
	};
}

void member_event(struct lb_membership *g, const struct member *m, enum lb_member_event event)
{
	struct lb_member_view v;

	view(g, m, &v);
	g->params.ops->changed(g->params.arg, &v, event);
}

/* --- time ------------------------------------------------------------------------------------- */

/* A jump is no time that anybody had to answer in. */
static void advance(struct lb_membership *g, uint64_t clock_us)
{
	if (clock_us > g->clock_us + g->period_us) {
		g->counts.pauses++;
		member_health(g, 1);
	} else if (clock_us > g->clock_us) {
		g->now_us += clock_us - g->clock_us;
	}
	g->clock_us = clock_us;
}

static bool hears(const struct lb_membership *g, const struct member *m)
{
	return m->state <= LB_MEMBER_SUSPECT;
}

static void gossip(struct lb_membership *g)
{
	struct member *to[FANOUT];
	uint32_t n;

	if (!g->news_count || g->now_us < g->gossip_due_us)
		return;
	g->gossip_due_us = g->now_us + g->period_us / GOSSIPS;
	n = member_pick(g, to, FANOUT, hears);
	for (uint32_t i = 0; i < n && g->news_count; i++) {
		struct lb_wire_out out;

		member_begin(g, &out, LB_WIRE_GOSSIP, to[i]->id, 0);
		member_send(g, &to[i]->addr, &out);
	}
}

void lb_member_run(struct lb_membership *g, uint64_t now_us)
{
	advance(g, now_us);
	if (!g->leaving) {
		member_fates(g);
		member_probe_run(g);
		member_sync_run(g);
	}
	gossip(g);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

uint64_t lb_member_due(const struct lb_membership *g)
{
	/* Never so late that it would look like a pause. */
	uint64_t due = g->now_us + g->period_us / 2;

	if (!g->leaving)
		due = earlier(due, earlier(member_probe_due(g), g->sync_due_us));
	if (g->news_count || !lb_list_empty(&g->suspects))
		due = earlier(due,
			      g->gossip_due_us > g->now_us
				      ? g->gossip_due_us
				      : g->now_us + (g->news_count ? 0 : g->period_us / GOSSIPS));
	return g->clock_us + (due > g->now_us ? due - g->now_us : 0);
}

/* --- what comes ------------------------------------------------------------------------------- */

static void answer(struct lb_membership *g, const struct lb_addr *from,
		   const struct lb_wire_head *head)
{
	switch (head->kind) {
	case LB_WIRE_PING:
		member_on_ping(g, from, head);
		break;
	case LB_WIRE_ACK:
		member_on_ack(g, head);
		break;
	case LB_WIRE_PING_REQ:
		member_on_ping_req(g, from, head);
		break;
	case LB_WIRE_NACK:
		member_on_nack(g, head);
		break;
	case LB_WIRE_SYNC:
		member_on_sync(g, from, head);
		break;
	case LB_WIRE_SYNC_REPLY:
		member_on_sync_reply(g, from, head);
		break;
	case LB_WIRE_GOSSIP:
	case LB_WIRE_KINDS:
		break;
	}
}

/* What is not the membership's own. */
static void hand_on(struct lb_membership *g, const struct lb_wire_in *in)
{
	const struct lb_member_ops *ops = g->params.ops;
	const struct member *m = in->shares || in->health ? member_find(g, in->head.sender) : NULL;

	if (!m || m->state > LB_MEMBER_SUSPECT)
		return;
	if (in->shares && ops->shares)
		ops->shares(g->params.arg, m->id, in->shares, in->shares_len);
	if (in->health && ops->health)
		ops->health(g->params.arg, m->id, in->health, in->health_len);
}

void lb_member_receive(struct lb_membership *g, uint64_t now_us, const struct lb_addr *from,
		       const uint8_t *bytes, size_t len)
{
	struct lb_wire_in in;
	struct lb_wire_update u;

	advance(g, now_us);
	if (g->leaving)
		return;
	if (lb_wire_open(&in, bytes, len)) {
		g->counts.malformed++;
		return;
	}
	if (in.head.sender == g->self->id) {
		/* A peer that is ourselves is asked in our own incarnation. */
		g->counts.twins += in.head.incarnation != g->self->incarnation;
		return;
	}
	if (in.head.target && in.head.target != g->self->id) {
		g->counts.misdirected++;
		return;
	}
	g->counts.received++;
	while (lb_wire_next_update(&in, &u))
		member_hear(g, &u);
	hand_on(g, &in);
	answer(g, from, &in.head);
}

int lb_member_say(struct lb_membership *g, uint64_t id, enum lb_wire_section kind,
		  const uint8_t *bytes, size_t len)
{
	const struct member *m = member_find(g, id);
	struct lb_wire_out out;

	if (!m || m == g->self || m->state > LB_MEMBER_SUSPECT || g->leaving)
		return -ENOENT;
	member_begin(g, &out, LB_WIRE_GOSSIP, id, 0);
	if (!lb_wire_add_section(&out, kind, bytes, len))
		return -EMSGSIZE;
	emit(g, &m->addr, &out);
	return 0;
}

size_t lb_member_section_max(void)
{
	struct lb_wire_out out;

	lb_wire_begin(&out, &(struct lb_wire_head){.kind = LB_WIRE_GOSSIP});
	return lb_wire_room(&out);
}

/* --- life ------------------------------------------------------------------------------------- */

void lb_member_set_config(struct lb_membership *g, uint32_t config_hash)
{
	if (g->self->config_hash == config_hash || g->leaving)
		return;
	g->self->config_hash = config_hash;
	g->self->incarnation++;
	member_tell(g, g->self);
}

void lb_member_leave(struct lb_membership *g, uint64_t now_us)
{
	advance(g, now_us);
	if (g->leaving)
		return;
	g->leaving = true;
	g->self->state = LB_MEMBER_LEFT;
	member_tell(g, g->self);
	g->gossip_due_us = g->now_us;
}

bool lb_member_left(const struct lb_membership *g)
{
	return g->leaving && (!g->self->news || g->alive == 1);
}

void lb_member_each(const struct lb_membership *g,
		    void (*fn)(void *arg, const struct lb_member_view *m), void *arg)
{
	struct lb_member_view v;

	view(g, g->self, &v);
	fn(arg, &v);
	for (uint32_t i = 0; i < g->count; i++) {
		if (g->sorted[i].m == g->self)
			continue;
		view(g, g->sorted[i].m, &v);
		fn(arg, &v);
	}
}

uint32_t lb_member_alive(const struct lb_membership *g)
{
	return g->alive;
}

uint32_t lb_member_known(const struct lb_membership *g)
{
	return g->alive + g->dead;
}

const struct lb_member_counts *lb_member_counts(const struct lb_membership *g)
{
	return &g->counts;
}

static int add_self(struct lb_membership *g)
{
	const struct lb_wire_identity *me = &g->params.self;

	g->self = member_add(g, lb_wire_id(me->name), me->name);
	if (!g->self)
		return -ENOMEM;
	g->self->incarnation = g->params.incarnation;
	g->self->addr = me->addr;
	g->self->config_hash = me->config_hash;
	memcpy(g->self->version, me->version, sizeof(g->self->version));
	g->alive = 1;
	member_tell(g, g->self);
	return 0;
}

int lb_member_new(struct lb_membership **ret, const struct lb_member_params *params,
		  uint64_t now_us)
{
	LB_AUTO(lb_member_free) struct lb_membership *g = NULL;
	int err;

	if (!lb_wire_name_valid(params->self.name) || !lb_addr_port(&params->self.addr) ||
	    !params->seed || !params->period_ms || params->members_max < 2 ||
	    params->members_max > LB_MEMBER_MAX)
		return -EINVAL;
	g = calloc(1, sizeof(*g));
	if (!g)
		return -ENOMEM;
	g->params = *params;
	g->clock_us = g->now_us = now_us;
	g->random = params->seed;
	g->period_us = params->period_ms * 1000ull;
	for (unsigned int i = 0; i < TELLS_MAX; i++)
		lb_list_init(&g->news[i]);
	lb_list_init(&g->suspects);
	lb_list_init(&g->gone);
	g->seq = (uint32_t)member_random(g, 1ull << 32);
	err = add_self(g);
	if (err)
		return err;
	/* Nodes that start together do not probe together. */
	g->probes[PROBE_NEXT].due_us = now_us + member_random(g, g->period_us);
	g->probes[PROBE_SUCCESSOR].due_us = g->probes[PROBE_NEXT].due_us + g->period_us / 2;
	g->sync_due_us = now_us;
	*ret = LB_TAKE_PTR(g);
	return 0;
}

void lb_member_free(struct lb_membership **pg)
{
	struct lb_membership *g = *pg;

	if (!g)
		return;
	*pg = NULL;
	for (uint32_t i = 0; i < g->count; i++)
		free(g->sorted[i].m);
	free(g->sorted);
	free(g->order);
	free(g->peers);
	free(g);
}
