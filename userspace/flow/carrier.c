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
#include "flow/sockmap.h"

/* `auto`: a flow has earned the price of a promotion (two dozen system calls) when .. */
#define PROMOTE_BYTES      (256u * 1024u) /* .. it has moved this much, */
#define PROMOTE_AGE_NS     1000000000ull  /* .. or is this old */
#define PROMOTE_AGED_BYTES (16u * 1024u)  /* .. and not idle */

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
	if (acceleration == LB_ACCELERATION_RELAY)
		p->why = LB_WHY_CONFIGURED;
	else
		p->why = env->kernel ? LB_WHY_SHORT : env->kernel_why;
}

void lb_carrier_begin(struct lb_pair *p)
{
	p->start_ns = p->last_ns = lb_loop_now_ns(p->env->loop);
	p->leg[0].writable = p->leg[1].writable = true;
	p->carrier->event(p, 0, 0);
}

static bool has_earned_it(const struct lb_pair *p)
{
	uint64_t moved = p->dir[0].bytes + p->dir[1].bytes;

	if (p->acceleration == LB_ACCELERATION_SOCKMAP)
		return true;
	return moved >= PROMOTE_BYTES ||
	       (moved >= PROMOTE_AGED_BYTES &&
		lb_loop_now_ns(p->env->loop) - p->start_ns >= PROMOTE_AGE_NS);
}

bool lb_carrier_promote(struct lb_pair *p)
{
	/* Once refused (a full table, a leg of the wrong kind), always refused: trying again at
	 * every quiet point would cost more than it could bring. */
	if (p->why != LB_WHY_SHORT || !has_earned_it(p))
		return false;
	if (lb_sockmap.start(p))
		return false;
	p->carrier = &lb_sockmap;
	p->why = p->tethered ? LB_WHY_NOT_ESTABLISHED : LB_WHY_NONE;
	p->carrier->event(p, 0, 0);
	return true;
}

const struct lb_carrier *lb_carrier_of(const struct lb_pair *p)
{
	return p->tethered ? &lb_relay : p->carrier;
}

void lb_carrier_again(struct lb_pair *p)
{
	lb_loop_again(p->env->loop, &p->again, on_again);
}

void lb_carrier_quiesce(struct lb_pair *p)
{
	lb_loop_again_cancel(p->env->loop, &p->again);
	lb_timer_stop(p->env->loop, &p->poll);
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
