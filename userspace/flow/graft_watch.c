/* SPDX-License-Identifier: MIT */
/*
 * Takes a pair from relay to SPLIT, as graft.h draws it: whether it has earned it, whether it may
 * be, the watching, the moment when both ends are close. Until that moment relay carries the pair
 * and everything can be taken back. G1, G2: graft.c.
 */
#include "flow/graft.h"

#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "flow/graft_judge.h"
#include "flow/graft_narrow.h"
#include "flow/graft_socket.h"
#include "flow/grafts.h"

#define POLL_MIN_MS 1u
#define TRY_MAX_MS  4000u
/* A try that was held up has held up: most of the time relay reads freely. */
#define STUCK_MIN_MS 800u
/* Probes are sent again after so long, and twice, four, eight times that. */
#define PROBE_NS 300000000ull
#define PROBES   3u
/* Ahead of our clock, so that the two peers' jitter never looks like time going backwards. */
#define TS_MARGIN_MS 100u

static int add_keys(struct lb_pair *p, const struct lb_graft_tuple tuple[2])
{
	struct lb_graft_table *table = p->env->grafts->table;
	int err = lb_graft_table_add(table, &tuple[0], p->graft_pair * 2);

	if (err)
		return err;
	err = lb_graft_table_add(table, &tuple[1], p->graft_pair * 2 + 1);
	if (err)
		lb_graft_table_remove(table, &tuple[0], p->graft_pair * 2);
	return err;
}

/* Reads where the streams begin; both peers answer a probe. */
static int read_positions(struct lb_pair *p)
{
	struct lb_graft *g = lb_grafts_entry(p);
	struct lb_graft_position at[2];

	for (unsigned int i = 0; i < 2; i++) {
		int err = lb_graft_socket_position(p->leg[i].watch.fd, p->dir[i ^ 1].bytes, &at[i]);

		if (err)
			return err;
		at[i].in += p->leg[i].lead_in;
		p->graft_in[i] = at[i].in;
		p->graft_out[i] = at[i].out;
	}
	for (unsigned int i = 0; i < 2; i++) {
		struct lb_graft_leg *leg = &g->leg[i];

		leg->seq_shift = at[i ^ 1].out - at[i].in;
		leg->ack_shift = at[i ^ 1].in - at[i].out;
		leg->ts_clock = at[i ^ 1].ts_clock + TS_MARGIN_MS;
	}
	return 0;
}

static enum lb_why watch(struct lb_pair *p)
{
	struct lb_grafts *grafts = p->env->grafts;
	struct lb_graft_ways ways;
	enum lb_why why = lb_graft_judge(p, &ways);
	struct lb_graft *g;
	int err;

	if (why != LB_WHY_NONE)
		return why;
	err = lb_grafts_get(grafts, &p->graft_pair);
	if (err)
		return err == -EBUSY ? LB_WHY_SUCCESSOR : LB_WHY_MAP_FULL;
	g = lb_grafts_entry(p);
	lb_graft_fill(g, &ways);
	__atomic_store_n(&g->stage, LB_GRAFT_PASS, __ATOMIC_RELEASE);
	if (add_keys(p, ways.tuple)) {
		lb_grafts_put(grafts, p->graft_pair);
		return LB_WHY_MAP_FULL;
	}
	lb_ports_take(p->ports, ntohs(ways.tuple[LB_LEG_BACKEND].dport));
	p->graft = LB_PAIR_GRAFT_WATCHED;
	/* After ours are there: of two that race at least one sees the other. */
	if (lb_graft_is_chained(grafts->table, &ways))
		return LB_WHY_CHAINED;
	p->graft_since_ns = lb_loop_now_ns(p->env->loop);
	lb_graft_narrow_init(p);
	return read_positions(p) ? LB_WHY_REFUSED : LB_WHY_NONE;
}

void lb_graft_unwatch(struct lb_pair *p)
{
	if (p->graft == LB_PAIR_GRAFT_WATCHED)
		lb_grafts_release(p->env->grafts, p->graft_pair, p->ports);
	p->graft = LB_PAIR_GRAFT_OFF;
}

static void refuse(struct lb_pair *p, enum lb_why why)
{
	bool watched = p->graft == LB_PAIR_GRAFT_WATCHED;

	lb_graft_unwatch(p);
	p->why = why;
	if (watched)
		lb_graft_widen(p);
}

static bool has_earned_it(const struct lb_pair *p)
{
	const struct lb_graft_config *config = &p->env->grafts->config;
	uint64_t age = lb_loop_now_ns(p->env->loop) - p->start_ns;

	return p->acceleration == LB_ACCELERATION_GRAFT ||
	       p->dir[0].bytes + p->dir[1].bytes >= config->after_bytes ||
	       age >= config->after_ms * 1000000ull;
}

static bool is_ending(const struct lb_pair *p)
{
	for (unsigned int i = 0; i < 2; i++)
		if (p->leg[i].until_empty || p->dir[i].eof)
			return true;
	return false;
}

/* A probe or its answer may be lost, and nothing else may be said. */
static void wait_for_packets(struct lb_pair *p, const uint32_t flags[2])
{
	uint64_t waited = lb_loop_now_ns(p->env->loop) - p->graft_since_ns;

	if (p->graft_probes > PROBES) {
		refuse(p, LB_WHY_UNSEEN);
		return;
	}
	if (waited >= PROBE_NS << p->graft_probes) {
		p->graft_probes++;
		for (unsigned int i = 0; i < 2; i++)
			if (!(flags[i] & LB_GRAFT_SEEN))
				lb_graft_socket_probe(p->leg[i].watch.fd);
	}
	lb_graft_poll_soon(p);
}

/* Less and less often. */
static void try_later(struct lb_pair *p)
{
	if (p->poll_ms < STUCK_MIN_MS)
		p->poll_ms = STUCK_MIN_MS;
	p->graft_next_ns = lb_loop_now_ns(p->env->loop) + p->poll_ms * 1000000ull;
	lb_timer_start(p->env->loop, &p->poll, p->poll_ms + 1);
	if (p->poll_ms < TRY_MAX_MS)
		p->poll_ms *= 2;
	lb_graft_widen(p);
}

/* True when the graft carrier has taken over. */
static bool take_over(struct lb_pair *p)
{
	struct lb_graft *g = lb_grafts_entry(p);
	uint32_t flags[2] = {__atomic_load_n(&g->leg[0].flags, __ATOMIC_RELAXED),
			     __atomic_load_n(&g->leg[1].flags, __ATOMIC_RELAXED)};

	if ((flags[0] | flags[1]) & LB_GRAFT_IRREGULAR) {
		refuse(p, LB_WHY_IRREGULAR);
		return false;
	}
	if (!(flags[0] & flags[1] & LB_GRAFT_SEEN)) {
		wait_for_packets(p, flags);
		return false;
	}
	if (!p->narrow.on && lb_loop_now_ns(p->env->loop) < p->graft_next_ns)
		return false;
	switch (lb_graft_narrow(p)) {
	case LB_GRAFT_CLOSE:
		break;
	case LB_GRAFT_STUCK:
		p->why = LB_WHY_BACKLOG;
		try_later(p);
		return false;
	case LB_GRAFT_COMING:
		p->why = LB_WHY_BACKLOG;
		return false;
	}
	if (lb_graft_split(p)) {
		refuse(p, LB_WHY_NOT_ESTABLISHED);
		return false;
	}
	if (p->promoted)
		p->promoted(p, &lb_graft);
	p->graft = LB_PAIR_GRAFT_CARRIED;
	p->carrier = &lb_graft;
	p->why = LB_WHY_NONE;
	p->poll_ms = POLL_MIN_MS;
	p->graft_since_ns = lb_loop_now_ns(p->env->loop);
	/* At once: bytes that came before SPLIT have made their event already. */
	lb_graft.event(p, 0, 0);
	return true;
}

bool lb_graft_consider(struct lb_pair *p)
{
	enum lb_why why;

	if (p->graft == LB_PAIR_GRAFT_OFF)
		return false;
	if (is_ending(p)) {
		/* It ends as it is; why it was not grafted stays as it was. */
		if (p->graft == LB_PAIR_GRAFT_WATCHED)
			lb_graft_widen(p);
		lb_graft_unwatch(p);
		return false;
	}
	if (p->graft == LB_PAIR_GRAFT_WATCHED)
		return take_over(p);
	if (!has_earned_it(p))
		return false;
	p->poll_ms = POLL_MIN_MS;
	why = watch(p);
	if (why != LB_WHY_NONE)
		refuse(p, why);
	else
		lb_graft_poll_soon(p);
	return false;
}
