/* SPDX-License-Identifier: MIT */
/*
 * Probing members, for oneself and for others. See member.h.
 *
 *	0        0.2       0.4                       0.7         1 period   (times 1 + health)
 *	ping     again     again, and by helpers     the same    silent: suspect
 *
 * At 10 % loss that blames one innocent in half a million probes.
 *
 * A helper that has no answer after RELAY_PERMILLE says so: who hears neither the member nor the
 * helpers has reason to think that it is itself that does not hear.
 */
#include "base/cleanup.h"
#include "cluster/member_state.h"

static const uint32_t stage_permille[] = {0, 200, 400, 700, 1000};
#define STAGES         LB_ARRAY_SIZE(stage_permille)
#define HELPED         2u /* the first stage with helpers */
#define RELAY_PERMILLE 400u

#define RTT_TOO_LONG_US 10000000ull

void member_health(struct lb_membership *g, int by)
{
	int health = (int)g->health + by;

	if (health < 0)
		health = 0;
	if (health > (int)LB_MEMBER_HEALTH_MAX)
		health = (int)LB_MEMBER_HEALTH_MAX;
	g->health = (uint32_t)health;
}

uint32_t lb_member_health(const struct lb_membership *g)
{
	return g->health;
}

static void ping(struct lb_membership *g, const struct member *m, uint32_t seq)
{
	struct lb_wire_out out;
	struct lb_wire_update u;

	member_begin(g, &out, LB_WIRE_PING, m->id, seq);
	/* It is the first that should hear what is said of it. */
	if (m->state != LB_MEMBER_ALIVE) {
		member_update_of(m, false, &u);
		(void)lb_wire_add_update(&out, &u);
	}
	member_send(g, &m->addr, &out);
}

static bool helps(const struct lb_membership *g, const struct member *m)
{
	return m->state == LB_MEMBER_ALIVE;
}

static void ask_helpers(struct lb_membership *g, struct probe *p, const struct member *m)
{
	struct member *helpers[LB_MEMBER_HELPERS + 1];
	uint32_t n = member_pick(g, helpers, LB_MEMBER_HELPERS + 1, helps);

	for (uint32_t i = 0, asked = 0; i < n && asked < LB_MEMBER_HELPERS; i++) {
		struct lb_wire_out out;
		struct lb_wire_head head = {
			.kind = LB_WIRE_PING_REQ,
			.seq = p->seq,
			.sender = g->self->id,
			.incarnation = g->self->incarnation,
			.target = helpers[i]->id,
			.subject = m->id,
			.subject_addr = m->addr,
		};

		if (helpers[i] == m)
			continue;
		asked++;
		p->nacks_due += p->stage == HELPED;
		lb_wire_begin(&out, &head);
		member_send(g, &helpers[i]->addr, &out);
	}
}

/* Somebody dead may be back, or was never dead but behind a cut: one of them a period is asked. */
static void knock(struct lb_membership *g)
{
	uint64_t skip;

	if (!g->dead)
		return;
	skip = member_random(g, g->dead);
	lb_list_for_each (it, &g->gone) {
		const struct member *m = lb_container_of(it, struct member, fate);

		if (m->state == LB_MEMBER_DEAD && !skip--) {
			ping(g, m, g->seq++);
			return;
		}
	}
}

static void begin(struct lb_membership *g, struct probe *p)
{
	bool successor = p == &g->probes[PROBE_SUCCESSOR];
	struct member *m = successor ? member_successor(g) : member_next(g);

	p->due_us = g->now_us + g->period_us;
	if (!m)
		return;
	*p = (struct probe){
		.running = true,
		.id = m->id,
		.seq = g->seq++,
		.start_us = g->now_us,
		.due_us = p->due_us,
		.stage = 1,
	};
	g->counts.probes++;
	ping(g, m, p->seq);
}

static void fail(struct lb_membership *g, struct probe *p, struct member *m)
{
	p->running = false;
	g->counts.probes_failed++;
	member_health(g, p->nacks_due ? p->nacks_due : 1);
	member_accuse(g, m);
}

static uint64_t stage_us(const struct lb_membership *g, const struct probe *p)
{
	return p->start_us + g->period_us * (1 + g->health) * stage_permille[p->stage] / 1000;
}

static void proceed(struct lb_membership *g, struct probe *p)
{
	struct member *m = member_find(g, p->id);

	if (!m || m->state > LB_MEMBER_SUSPECT) {
		p->running = false;
		return;
	}
	if (p->stage == STAGES - 1) {
		fail(g, p, m);
		return;
	}
	p->repeated = true;
	ping(g, m, p->seq);
	if (p->stage >= HELPED)
		ask_helpers(g, p, m);
	p->stage++;
}

static void run_relays(struct lb_membership *g)
{
	for (uint32_t i = 0; i < RELAYS_MAX; i++) {
		struct relay *r = &g->relays[i];
		struct lb_wire_out out;

		if (!r->running || g->now_us < r->nack_us)
			continue;
		r->running = false;
		member_begin(g, &out, LB_WIRE_NACK, r->their_id, r->their_seq);
		member_send(g, &r->their_addr, &out);
	}
}

void member_probe_run(struct lb_membership *g)
{
	run_relays(g);
	for (unsigned int i = 0; i < PROBES; i++) {
		struct probe *p = &g->probes[i];

		if (p->running && g->now_us >= stage_us(g, p))
			proceed(g, p);
		if (p->running || g->now_us < p->due_us)
			continue;
		if (i == PROBE_NEXT)
			knock(g);
		begin(g, p);
	}
}

uint64_t member_probe_due(const struct lb_membership *g)
{
	uint64_t due = UINT64_MAX;

	for (unsigned int i = 0; i < PROBES; i++) {
		const struct probe *p = &g->probes[i];
		uint64_t at = p->running ? stage_us(g, p) : p->due_us;

		due = at < due ? at : due;
	}
	for (uint32_t i = 0; i < RELAYS_MAX; i++)
		if (g->relays[i].running && g->relays[i].nack_us < due)
			due = g->relays[i].nack_us;
	return due;
}

void member_on_ping(struct lb_membership *g, const struct lb_addr *from,
		    const struct lb_wire_head *head)
{
	struct lb_wire_out out;

	member_begin(g, &out, LB_WIRE_ACK, head->sender, head->seq);
	member_contradict(g, &out, head->sender, head->incarnation);
	member_send(g, from, &out);
}

void member_on_ping_req(struct lb_membership *g, const struct lb_addr *from,
			const struct lb_wire_head *head)
{
	struct relay *r = &g->relays[g->next_relay++ % RELAYS_MAX];
	struct lb_wire_out out;

	*r = (struct relay){
		.running = true,
		.seq = g->seq++,
		.their_seq = head->seq,
		.their_id = head->sender,
		.their_addr = *from,
		.nack_us = g->now_us + g->period_us * RELAY_PERMILLE / 1000,
	};
	member_begin(g, &out, LB_WIRE_PING, head->subject, r->seq);
	member_send(g, &head->subject_addr, &out);
}

static void measure(struct lb_membership *g, const struct probe *p, struct member *m)
{
	uint64_t rtt = g->now_us - p->start_us;

	if (p->repeated || rtt > RTT_TOO_LONG_US)
		return;
	rtt = rtt ? rtt : 1;
	m->rtt_us = (uint32_t)(m->rtt_us ? (7ull * m->rtt_us + rtt) / 8 : rtt);
}

static void hand_on(struct lb_membership *g, struct relay *r)
{
	struct lb_wire_out out;

	r->running = false;
	member_begin(g, &out, LB_WIRE_ACK, r->their_id, r->their_seq);
	member_send(g, &r->their_addr, &out);
}

/* By its number, for an answer that a helper hands on comes from the helper. */
static struct probe *probe_of(struct lb_membership *g, uint32_t seq)
{
	for (unsigned int i = 0; i < PROBES; i++)
		if (g->probes[i].running && g->probes[i].seq == seq)
			return &g->probes[i];
	return NULL;
}

void member_on_ack(struct lb_membership *g, const struct lb_wire_head *head)
{
	struct probe *p = probe_of(g, head->seq);
	struct member *m;

	for (uint32_t i = 0; i < RELAYS_MAX; i++)
		if (g->relays[i].running && g->relays[i].seq == head->seq)
			hand_on(g, &g->relays[i]);
	if (!p)
		return;
	m = member_find(g, head->sender);
	if (m && m->id == p->id)
		measure(g, p, m);
	p->running = false;
	member_health(g, -1);
}

void member_on_nack(struct lb_membership *g, const struct lb_wire_head *head)
{
	struct probe *p = probe_of(g, head->seq);

	if (p && p->nacks_due)
		p->nacks_due--;
}
