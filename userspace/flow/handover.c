/* SPDX-License-Identifier: MIT */
/*
 * See handover.h. Decides what of a session makes the flow, and what is the daemon's. Must never
 * read a byte from a leg or write one to it, nor end a flow that only cannot go now.
 */
#include "flow/handover.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "flow/graft_narrow.h"
#include "flow/relay.h"
#include "flow/session.h"
#include "flow/sockmap_leave.h"
#include "flow/survey.h"

/* --- the old daemon --------------------------------------------------------------------------- */

static uint32_t held_size(const struct lb_direction *dir)
{
	return dir->held_end - dir->held_at + dir->piped;
}

/* 0 when relay has it now, and not too much of it. */
static int bring_to_relay(struct lb_session *s)
{
	struct lb_pair *p = &s->pair;
	int err;

	if (p->bypassed || s->rule->tls || s->rule->backend_tls)
		return -EOPNOTSUPP;
	if (!s->carrying)
		return -EAGAIN;
	if (p->carrier == &lb_sockmap) {
		err = lb_sockmap_leave(p);
		if (err)
			return err;
		lb_account_fold(s);
		lb_sockmap_become_relay(p);
	}
	/* A graft in the making: soon it needs no session, or is back. */
	if (p->carrier != &lb_relay)
		return -EAGAIN;
	for (unsigned int d = 0; d < 2; d++)
		if (held_size(&p->dir[d]) > LB_HANDOVER_HELD_MAX)
			return -EAGAIN;
	for (unsigned int d = 0; d < 2; d++)
		if (lb_relay_gather(p, d))
			return -ENOMEM;
	return 0;
}

/* The held bytes begin where their buffer does. */
static void take_held(struct lb_direction *from, struct lb_handover_direction *to)
{
	to->held_size = from->held_end - from->held_at;
	if (!from->held)
		return;
	memmove(from->held, from->held + from->held_at, to->held_size);
	to->held = LB_TAKE_PTR(from->held);
	from->held_at = from->held_end = 0;
}

static void describe_pair(struct lb_handover *h, const struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++) {
		h->leg[i] = (struct lb_handover_leg){
			.fd = -1,
			.lead_in = p->leg[i].lead_in,
			.lead_out = p->leg[i].lead_out,
			.throttled = p->leg[i].throttled,
			.until_empty = p->leg[i].until_empty,
		};
		h->dir[i] = (struct lb_handover_direction){
			.bytes = p->dir[i].bytes,
			.eof = p->dir[i].eof,
			.shut = p->dir[i].shut,
		};
	}
	h->acceleration = (uint8_t)p->acceleration;
	h->why = (uint8_t)p->why;
	h->port_ours = p->ports != NULL;
	h->start_ns = p->start_ns;
	h->last_ns = p->last_ns;
	h->first_ns = p->first_ns;
}

static void describe(struct lb_handover *h, const struct lb_session *s)
{
	describe_pair(h, &s->pair);
	/* The configuration's bounds keep both below. */
	snprintf(h->rule, sizeof(h->rule), "%s", s->route->config->name);
	snprintf(h->backend, sizeof(h->backend), "%s", s->backend->config->addr);
	h->backend_addr = s->backend->addr;
	h->client = s->client;
	h->client_named = s->client_named;
	h->distressed = s->distressed;
	h->first_counted = s->first_counted;
	h->tries = s->tries;
	h->accept_ns = s->accept_ns;
	h->try_ns = s->try_ns;
	h->connected_ns = s->connected_ns;
}

int lb_handover_freeze(struct lb_session *s, struct lb_handover **ret)
{
	struct lb_pair *p = &s->pair;
	struct lb_handover *h;
	int fd[2], err = bring_to_relay(s);

	if (err)
		return err;
	h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	lb_list_init(&h->node);
	if (p->graft == LB_PAIR_GRAFT_WATCHED)
		lb_graft_widen(p);
	lb_account_fold(s);
	describe(h, s);
	for (unsigned int d = 0; d < 2; d++)
		take_held(&p->dir[d], &h->dir[d]);
	lb_session_take_out(s, fd);
	for (unsigned int i = 0; i < 2; i++)
		h->leg[i].fd = fd[i];
	*ret = h;
	return 0;
}

void lb_handover_sweep_begin(struct lb_flow_env *env, struct lb_handover_sweep *sweep)
{
	lb_walk_begin(env, &sweep->walk);
}

/* True when one more is in <batch>. */
static bool freeze_into(struct lb_handover_sweep *sweep, struct lb_session *s,
			struct lb_list *batch)
{
	struct lb_handover *h;
	int err = -EOPNOTSUPP;

	if (!sweep->wants || sweep->wants(sweep->arg, s))
		err = lb_handover_freeze(s, &h);
	if (!err)
		lb_list_append(batch, &h->node);
	else if (err == -ECONNABORTED)
		sweep->lost++;
	else
		*(err == -EOPNOTSUPP ? &sweep->stay : &sweep->later) += 1;
	return !err;
}

size_t lb_handover_sweep_next(struct lb_flow_env *env, struct lb_handover_sweep *sweep,
			      struct lb_list *batch, size_t max, bool *done)
{
	size_t frozen = 0;

	*done = false;
	for (unsigned int spent = 0; spent < LB_SURVEY_SLICE && frozen < max;) {
		struct lb_session *s = lb_walk_next(env, &sweep->walk);

		if (!s) {
			*done = true;
			break;
		}
		spent += LB_SURVEY_PRICE_OF_ASKING;
		frozen += freeze_into(sweep, s, batch);
	}
	return frozen;
}

void lb_handover_sweep_end(struct lb_handover_sweep *sweep)
{
	lb_walk_end(&sweep->walk);
}

/* --- the new daemon --------------------------------------------------------------------------- */

const struct lb_rule *lb_handover_rule(const struct lb_rule *rules, size_t count,
				       const struct lb_handover *h)
{
	for (size_t i = 0; i < count; i++) {
		const struct lb_rule *rule = &rules[i];

		if (!rule->config || strcmp(rule->config->name, h->rule))
			continue;
		return rule->tls || rule->backend_tls ? NULL : rule;
	}
	return NULL;
}

/* Counted as its connection; NULL: no memory. */
static struct lb_backend *adopt_backend(const struct lb_rule *rule, const struct lb_handover *h)
{
	struct lb_backend *b =
		lb_pool_adopt(rule->pool, rule->config, h->backend, &h->backend_addr);
	struct lb_backend *hold = b;

	if (b)
		lb_select_adopt(rule->select, b);
	lb_pool_put(&hold);
	return b;
}

static void fill_pair(struct lb_pair *p, struct lb_handover *h)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct lb_leg *leg = &p->leg[i];
		struct lb_direction *dir = &p->dir[i];

		leg->shared = true;
		leg->lead_in = h->leg[i].lead_in;
		leg->lead_out = h->leg[i].lead_out;
		leg->throttled = h->leg[i].throttled;
		leg->until_empty = h->leg[i].until_empty;
		/* Whatever came while nobody watched. */
		leg->readable = true;
		dir->bytes = h->dir[i].bytes;
		dir->eof = h->dir[i].eof;
		dir->shut = h->dir[i].shut;
		dir->held_end = h->dir[i].held_size;
		dir->held = LB_TAKE_PTR(h->dir[i].held);
	}
	p->judged_bytes = p->dir[0].bytes + p->dir[1].bytes;
	p->start_ns = h->start_ns;
	p->last_ns = h->last_ns;
	p->first_ns = h->first_ns;
	/* What has refused it before says more, unless other things are asked for now. */
	if (p->why == LB_WHY_SHORT && p->acceleration == h->acceleration && h->why != LB_WHY_NONE)
		p->why = h->why;
}

static void fill(struct lb_session *s, struct lb_handover *h)
{
	fill_pair(&s->pair, h);
	if (h->port_ours)
		s->pair.ports = s->backend->ports;
	s->client_named = h->client_named;
	s->distressed = h->distressed;
	s->first_counted = h->first_counted;
	s->tries = h->tries;
	s->accept_ns = h->accept_ns;
	s->try_ns = h->try_ns;
	s->connected_ns = h->connected_ns;
	for (unsigned int d = 0; d < 2; d++)
		s->folded[d] = h->dir[d].bytes;
}

int lb_handover_thaw(struct lb_flow_env *env, const struct lb_rule *rule, struct lb_handover **ph)
{
	struct lb_handover *h = *ph;
	const int fd[2] = {h->leg[0].fd, h->leg[1].fd};
	struct lb_backend *b = adopt_backend(rule, h);
	struct lb_session *s;
	int err;

	if (!b)
		return -ENOMEM;
	err = lb_session_restore(&s, env, rule, &h->client, b, fd);
	if (err) {
		lb_select_release(rule->select, b);
		return err;
	}
	fill(s, h);
	h->leg[0].fd = h->leg[1].fd = -1;
	lb_handover_forget(ph);
	lb_session_resume(s);
	return 0;
}
