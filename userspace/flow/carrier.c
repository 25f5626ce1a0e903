/* SPDX-License-Identifier: MIT */
/*
 * Decides which carrier a pair is on, and holds what all carriers share. Must never know who owns
 * the pair.
 */
#include "flow/carrier.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "flow/graft.h"
#include "flow/grafts.h"
#include "flow/sockmap.h"
#include "flow/throttle.h"

/*
 * `auto` judges a flow by its last reads: one that talks in small messages is carried by the kernel
 * at two thirds of relay's cost, one that moves bulk is cheaper in relay, by splice (docs/
 * benchmarks.md). There is no way back from sockmap, so a flow is watched for a while first.
 */
#define JUDGED_READS     64u           /* as many reads are judged together, */
#define JUDGED_READS_MIN 8u            /* or these when the flow is older than .. */
#define JUDGED_AGE_NS    1000000000ull /* .. this: the promotion costs two dozen system calls */
#define TURN_BYTES       (2u * 1024u * 1024u) /* that a turn moves, about, but .. */
#define SHARE_MIN        (64u * 1024u)        /* .. of each flow at least as many */
#define MESSAGE_BYTES    (16u * 1024u)        /* average read beyond which a flow counts as bulk */

static const char *const reason_words[] = {
#define LB_REASON(symbol, word, help) #word,
#include <lb/reasons.def>
#undef LB_REASON
};

static const char *const reason_helps[] = {
#define LB_REASON(symbol, word, help) help,
#include <lb/reasons.def>
#undef LB_REASON
};

const char *lb_reason_word(enum lb_reason reason)
{
	return (unsigned int)reason < LB_REASON_MAX_ ? reason_words[reason] : "?";
}

const char *lb_reason_help(enum lb_reason reason)
{
	return (unsigned int)reason < LB_REASON_MAX_ ? reason_helps[reason] : "?";
}

enum lb_reason lb_carrier_reset_reason(unsigned int leg)
{
	return leg == LB_LEG_CLIENT ? LB_REASON_RESET_BY_CLIENT : LB_REASON_RESET_BY_BACKEND;
}

static void on_again(struct lb_task *t)
{
	struct lb_pair *p = lb_container_of(t, struct lb_pair, again);

	p->carrier->event(p, 0, 0);
}

static void on_poll(struct lb_timer *t)
{
	struct lb_pair *p = lb_container_of(t, struct lb_pair, poll);

	p->carrier->event(p, 0, 0);
}

void lb_carrier_init(struct lb_pair *p, struct lb_carrier_env *env,
		     enum lb_acceleration acceleration)
{
	p->env = env;
	p->acceleration = acceleration;
	p->carrier = &lb_relay;
	p->leg[LB_LEG_BACKEND].index = LB_LEG_BACKEND;
	for (unsigned int i = 0; i < 2; i++) {
		p->leg[i].watch.fd = -1;
		p->leg[i].mask = LB_LEG_EVENTS;
	}
	lb_timer_init(&p->poll, on_poll);
	p->sockmap_off = acceleration == LB_ACCELERATION_RELAY || !env->kernel;
	if (acceleration == LB_ACCELERATION_RELAY) {
		p->why = LB_WHY_CONFIGURED;
	} else if (acceleration == LB_ACCELERATION_SOCKMAP) {
		p->why = env->kernel ? LB_WHY_SHORT : env->kernel_why;
	} else {
		p->why = env->grafts ? LB_WHY_SHORT : env->graft_why;
		p->graft = env->grafts ? LB_PAIR_GRAFT_OPEN : LB_PAIR_GRAFT_OFF;
	}
}

/*
 * sockmap cannot have such a pair: its gate counts by write_seq, its drained end by TCP_INFO, and
 * neither knows of bytes that skip TCP. Nor can a graft: those bytes are in no packet.
 */
void lb_carrier_bypass(struct lb_pair *p)
{
	p->bypassed = p->sockmap_off = true;
	p->graft = LB_PAIR_GRAFT_OFF;
	if (p->why != LB_WHY_TLS)
		p->why = LB_WHY_SAME_HOST;
}

void lb_carrier_seal(struct lb_pair *p, const struct lb_carrier *carrier)
{
	p->carrier = carrier;
	p->sockmap_off = true;
	p->graft = LB_PAIR_GRAFT_OFF;
	p->why = LB_WHY_TLS;
}

void lb_carrier_limit(struct lb_pair *p)
{
	if (p->graft == LB_PAIR_GRAFT_OPEN)
		p->why = LB_WHY_LIMITED;
	p->graft = LB_PAIR_GRAFT_OFF;
}

void lb_carrier_begin(struct lb_pair *p)
{
	p->start_ns = p->last_ns = lb_loop_now_ns(p->env->loop);
	lb_carrier_resume(p);
}

void lb_carrier_resume(struct lb_pair *p)
{
	if (p->dir[0].budget || p->leg[0].throttled || p->leg[1].throttled)
		lb_throttle_windows(p);
	p->leg[0].writable = p->leg[1].writable = true;
	/* A flow that falls silent before has earned its graft all the same. */
	if (p->graft == LB_PAIR_GRAFT_OPEN)
		lb_timer_start(p->env->loop, &p->poll, p->env->grafts->config.after_ms + 1);
	p->carrier->event(p, 0, 0);
}

void lb_carrier_look_again(struct lb_pair *p)
{
	/* On sockmap the windows have another keeper. */
	if (p->carrier != &lb_sockmap)
		lb_throttle_windows(p);
	p->carrier->event(p, 0, 0);
}

/* Judges when there is enough to judge. */
static bool has_earned_it(struct lb_pair *p)
{
	uint64_t moved = p->dir[0].bytes + p->dir[1].bytes;
	uint64_t average;

	if (p->acceleration == LB_ACCELERATION_SOCKMAP)
		return true;
	if (p->reads < JUDGED_READS_MIN)
		return false;
	if (p->reads < JUDGED_READS && lb_loop_now_ns(p->env->loop) - p->start_ns < JUDGED_AGE_NS)
		return false;
	average = (moved - p->judged_bytes) / p->reads;
	p->judged_bytes = moved;
	p->reads = 0;
	/* Why it was not grafted says more. */
	if (p->why == LB_WHY_SHORT || p->why == LB_WHY_BULK)
		p->why = average > MESSAGE_BYTES ? LB_WHY_BULK : LB_WHY_SHORT;
	return average <= MESSAGE_BYTES;
}

bool lb_carrier_promote(struct lb_pair *p)
{
	enum lb_why why = p->why;

	if (p->sockmap_off || p->graft != LB_PAIR_GRAFT_OFF || !has_earned_it(p))
		return false;
	if (lb_sockmap.start(p)) {
		/* Once refused (a full table, a leg of the wrong kind), always refused: trying
		 * again at every quiet point would cost more than it could bring. */
		p->sockmap_off = true;
		if (why != LB_WHY_SHORT && why != LB_WHY_BULK)
			p->why = why;
		return false;
	}
	if (p->promoted)
		p->promoted(p, &lb_sockmap);
	p->carrier = &lb_sockmap;
	if (p->tethered)
		p->why = LB_WHY_NOT_ESTABLISHED;
	else if (why == LB_WHY_SHORT || why == LB_WHY_BULK)
		p->why = LB_WHY_NONE;
	p->carrier->event(p, 0, 0);
	return true;
}

const struct lb_carrier *lb_carrier_of(const struct lb_pair *p)
{
	return p->tethered ? &lb_relay : p->carrier;
}

uint64_t lb_carrier_first_ns(const struct lb_pair *p)
{
	return p->first_ns;
}

uint64_t lb_carrier_share(const struct lb_pair *p)
{
	uint64_t share = TURN_BYTES / (lb_loop_load(p->env->loop) + 1);

	return share > SHARE_MIN ? share : SHARE_MIN;
}

void lb_carrier_again(struct lb_pair *p)
{
	lb_loop_again(p->env->loop, &p->again, on_again);
}

void lb_carrier_soon(struct lb_pair *p)
{
	lb_loop_soon(p->env->loop, &p->again, on_again);
}

void lb_carrier_quiesce(struct lb_pair *p)
{
	lb_loop_again_cancel(p->env->loop, &p->again);
	lb_timer_stop(p->env->loop, &p->poll);
	if (p->graft != LB_PAIR_GRAFT_CARRIED)
		lb_graft_unwatch(p);
}

int lb_carrier_hold(struct lb_direction *dir, const char *data, uint32_t len)
{
	char *copy = malloc(len);

	if (!copy)
		return -ENOMEM;
	memcpy(copy, data, len);
	dir->held = copy;
	dir->held_at = 0;
	dir->held_end = len;
	return 0;
}

void lb_carrier_release(struct lb_direction *dir)
{
	free(dir->held);
	dir->held = NULL;
	dir->held_at = dir->held_end = 0;
}

void lb_carrier_watch(struct lb_pair *p, unsigned int i, uint32_t mask)
{
	struct lb_leg *leg = &p->leg[i];

	if (leg->mask == mask || !leg->watch.fn)
		return;
	/* Cannot fail for a descriptor that is registered (EPOLL_CTL_MOD allocates nothing). */
	(void)lb_watch_modify(p->env->loop, &leg->watch, mask);
	leg->mask = mask;
}

bool lb_carrier_finish(struct lb_pair *p, unsigned int d)
{
	struct lb_direction *dir = &p->dir[d];

	dir->shut = true;
	if (p->dir[d ^ 1].shut) {
		/* close(2) sends the second FIN. */
		p->end(p, LB_REASON_DONE, true);
		return true;
	}
	/* ENOTCONN when the sink was reset a moment ago: its own event tells the rest. */
	(void)shutdown(p->leg[d ^ 1].watch.fd, SHUT_WR);
	return false;
}

void lb_carrier_leg_failed(struct lb_pair *p, unsigned int i)
{
	socklen_t len = sizeof(p->error);

	(void)getsockopt(p->leg[i].watch.fd, SOL_SOCKET, SO_ERROR, &p->error, &len);
	p->end(p, lb_carrier_reset_reason(i), false);
}
