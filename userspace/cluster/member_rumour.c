/* SPDX-License-Identifier: MIT */
/*
 * What is believed of what is said about a member, see member.h. Of two statements the one of the
 * higher incarnation counts, then the later state. Must never believe anything about this node but
 * what it says itself.
 */
#include <string.h>

#include "base/cleanup.h"
#include "cluster/member_state.h"

/* So many others have to find it silent, too, for a suspect to have its shortest time. */
#define CONFIRMATIONS 2u
/* The longest time is so many times the shortest. */
#define LONGEST 6u

/* --- suspicion -------------------------------------------------------------------------------- */

/* log10(n) * 1000, from below, at most 2 % off. */
static uint64_t log10_permille(uint32_t n)
{
	uint32_t power = 0;
	uint64_t rest;

	while (n >> power > 1)
		power++;
	rest = ((uint64_t)n << 10 >> power) - 1024; /* log2(1 + x) is x, nearly */
	return ((uint64_t)power * 1024 + rest) * 30103 / 102400;
}

/* With so few members nobody could confirm anything. */
static uint32_t confirmations(const struct lb_membership *g)
{
	return g->alive < CONFIRMATIONS + 3 ? 0 : CONFIRMATIONS;
}

static uint64_t suspicion_us(const struct lb_membership *g, uint32_t others)
{
	/* 1 - log(c + 1) / log(CONFIRMATIONS + 1), as Lifeguard has it. */
	static const uint64_t longer_permille[CONFIRMATIONS + 1] = {1000, 369, 0};
	uint64_t scale = log10_permille(g->alive), shortest;

	shortest = g->period_us * 4 * (scale > 1000 ? scale : 1000) / 1000;
	if (others >= confirmations(g))
		return shortest;
	return shortest + shortest * (LONGEST - 1) * longer_permille[others] / 1000;
}

uint64_t lb_member_suspicion_ms(const struct lb_membership *g, uint32_t others)
{
	return suspicion_us(g, others) / 1000;
}

static bool add_accuser(struct member *m, uint32_t who)
{
	for (unsigned int i = 0; i < m->accusers_count; i++)
		if (m->accusers[i] == who)
			return false;
	if (m->accusers_count > CONFIRMATIONS || m->accusers_count == LB_WIRE_ACCUSERS)
		return false;
	m->accusers[m->accusers_count++] = who;
	return true;
}

/* --- states ----------------------------------------------------------------------------------- */

static void set_state(struct lb_membership *g, struct member *m, enum lb_member_state state)
{
	bool was_there = m->state <= LB_MEMBER_SUSPECT, is_there = state <= LB_MEMBER_SUSPECT;

	g->alive = g->alive + is_there - was_there;
	g->dead = g->dead + (state == LB_MEMBER_DEAD) - (m->state == LB_MEMBER_DEAD);
	m->state = (uint8_t)state;
	m->since_us = g->now_us;
	lb_list_remove(&m->fate);
	if (state == LB_MEMBER_SUSPECT)
		lb_list_append(&g->suspects, &m->fate);
	else if (!is_there)
		lb_list_append(&g->gone, &m->fate);
	if (state == LB_MEMBER_ALIVE || state == LB_MEMBER_LEFT)
		m->accusers_count = 0;
	member_tell(g, m);
}

static void suspect(struct lb_membership *g, struct member *m, uint64_t incarnation)
{
	m->incarnation = incarnation;
	m->accusers_count = 0;
	m->doomed = false;
	set_state(g, m, LB_MEMBER_SUSPECT);
	g->counts.suspicions++;
	member_event(g, m, LB_MEMBER_SUSPECTED);
}

static void die(struct lb_membership *g, struct member *m)
{
	set_state(g, m, LB_MEMBER_DEAD);
	g->counts.deaths++;
	member_event(g, m, LB_MEMBER_DIED);
}

void member_accuse(struct lb_membership *g, struct member *m)
{
	if (m->state == LB_MEMBER_ALIVE)
		suspect(g, m, m->incarnation);
	if (m->state == LB_MEMBER_SUSPECT && add_accuser(m, (uint32_t)g->self->id))
		member_tell(g, m);
}

static void forget(struct lb_membership *g, struct member *m)
{
	g->dead -= m->state == LB_MEMBER_DEAD;
	member_event(g, m, LB_MEMBER_FORGOTTEN);
	member_remove(g, m);
}

void member_fates(struct lb_membership *g)
{
	struct lb_list *it, *next;

	for (it = g->suspects.next; it != &g->suspects; it = next) {
		struct member *m = lb_container_of(it, struct member, fate);
		uint32_t others = m->accusers_count > 1 ? m->accusers_count - 1u : 0;

		next = it->next;
		if (m->doomed)
			others = CONFIRMATIONS;
		if (g->now_us - m->since_us >= suspicion_us(g, others))
			die(g, m);
	}
	while (!lb_list_empty(&g->gone)) {
		struct member *m = lb_container_of(g->gone.next, struct member, fate);

		if (g->now_us - m->since_us < LB_MEMBER_FORGET_MS * 1000ull)
			break;
		forget(g, m);
	}
}

/* --- rumours ---------------------------------------------------------------------------------- */

static void identify(struct member *m, const struct lb_wire_identity *d)
{
	m->addr = d->addr;
	m->config_hash = d->config_hash;
	memcpy(m->version, d->version, sizeof(m->version));
}

/* Somebody is wrong about this node, or knows of a life of it that ended later than this began. */
static void refute(struct lb_membership *g, uint64_t incarnation)
{
	g->self->incarnation = incarnation + 1 ? incarnation + 1 : incarnation;
	g->counts.refutations++;
	member_tell(g, g->self);
}

static void hear_of_self(struct lb_membership *g, const struct lb_wire_update *u)
{
	struct member *self = g->self;
	bool other_addr = u->has_identity && !lb_addr_equal(&u->identity.addr, &self->addr);

	if (g->leaving)
		return;
	if (u->state == LB_MEMBER_ALIVE) {
		/* The same incarnation from elsewhere is no earlier life of ours. */
		g->counts.twins += u->incarnation == self->incarnation && other_addr;
		if (u->incarnation > self->incarnation ||
		    (u->incarnation == self->incarnation && other_addr))
			refute(g, u->incarnation);
		return;
	}
	if (u->incarnation < self->incarnation) {
		/* They have not heard that it was refuted. */
		member_tell(g, self);
		return;
	}
	if (u->state == LB_MEMBER_SUSPECT)
		member_health(g, 1);
	refute(g, u->incarnation);
}

static void meet(struct lb_membership *g, const struct lb_wire_update *u)
{
	struct member *m;

	if (!u->has_identity || u->state > LB_MEMBER_SUSPECT)
		return;
	if (g->count >= g->params.members_max && !lb_list_empty(&g->gone))
		forget(g, lb_container_of(g->gone.next, struct member, fate));
	m = member_add(g, u->id, u->identity.name);
	if (!m)
		return;
	m->incarnation = u->incarnation;
	identify(m, &u->identity);
	g->alive++;
	g->learned = true;
	member_tell(g, m);
	member_event(g, m, LB_MEMBER_JOINED);
	if (u->state == LB_MEMBER_SUSPECT)
		member_hear(g, u);
}

static void hear_alive(struct lb_membership *g, struct member *m, const struct lb_wire_update *u)
{
	enum lb_member_event event = LB_MEMBER_CHANGED;
	bool changed = false;

	if (u->incarnation <= m->incarnation)
		return;
	if (m->state != LB_MEMBER_ALIVE)
		event = m->state == LB_MEMBER_SUSPECT ? LB_MEMBER_REFUTED : LB_MEMBER_JOINED;
	if (u->has_identity) {
		changed = !lb_addr_equal(&m->addr, &u->identity.addr) ||
			  m->config_hash != u->identity.config_hash ||
			  strcmp(m->version, u->identity.version) != 0;
		identify(m, &u->identity);
	}
	m->incarnation = u->incarnation;
	if (m->state != LB_MEMBER_ALIVE)
		set_state(g, m, LB_MEMBER_ALIVE);
	else
		member_tell(g, m);
	if (changed || event != LB_MEMBER_CHANGED)
		member_event(g, m, event);
}

static void hear_accusers(struct lb_membership *g, struct member *m, const struct lb_wire_update *u)
{
	bool more = false;

	for (unsigned int i = 0; i < u->accusers_count; i++)
		more |= add_accuser(m, u->accusers[i]);
	if (more)
		member_tell(g, m);
}

static void hear_suspect(struct lb_membership *g, struct member *m, const struct lb_wire_update *u)
{
	bool older = u->incarnation < m->incarnation;
	bool gone = m->state > LB_MEMBER_SUSPECT;

	if (older || (gone && u->incarnation == m->incarnation))
		return;
	if (gone) {
		m->incarnation = u->incarnation;
		set_state(g, m, LB_MEMBER_ALIVE);
		member_event(g, m, LB_MEMBER_JOINED);
	}
	if (m->state != LB_MEMBER_SUSPECT || u->incarnation > m->incarnation)
		suspect(g, m, u->incarnation);
	hear_accusers(g, m, u);
}

/*
 * Who is called dead has a suspect's shortest time left to object, from when it became one here:
 * after a partition several may call it dead in the same moment.
 */
static void hear_dead(struct lb_membership *g, struct member *m, const struct lb_wire_update *u)
{
	if (u->incarnation < m->incarnation || m->state > LB_MEMBER_SUSPECT)
		return;
	hear_suspect(g, m, u);
	m->doomed = true;
	if (g->now_us - m->since_us >= suspicion_us(g, CONFIRMATIONS))
		die(g, m);
}

static void hear_left(struct lb_membership *g, struct member *m, const struct lb_wire_update *u)
{
	if (u->incarnation < m->incarnation || m->state == LB_MEMBER_LEFT)
		return;
	m->incarnation = u->incarnation;
	set_state(g, m, LB_MEMBER_LEFT);
	member_event(g, m, LB_MEMBER_WENT);
}

void member_hear(struct lb_membership *g, const struct lb_wire_update *u)
{
	static void (*const hear[])(struct lb_membership * g, struct member * m,
				    const struct lb_wire_update *u) = {
		[LB_MEMBER_ALIVE] = hear_alive,
		[LB_MEMBER_SUSPECT] = hear_suspect,
		[LB_MEMBER_DEAD] = hear_dead,
		[LB_MEMBER_LEFT] = hear_left,
	};
	struct member *m = member_find(g, u->id);

	if (m == g->self)
		hear_of_self(g, u);
	else if (m)
		hear[u->state](g, m, u);
	else
		meet(g, u);
}

void member_contradict(struct lb_membership *g, struct lb_wire_out *out, uint64_t sender,
		       uint64_t incarnation)
{
	const struct member *m = member_find(g, sender);
	struct lb_wire_update u;

	if (!m || (m->state == LB_MEMBER_ALIVE && m->incarnation <= incarnation))
		return;
	member_update_of(m, m->state == LB_MEMBER_ALIVE, &u);
	(void)lb_wire_add_update(out, &u);
}
