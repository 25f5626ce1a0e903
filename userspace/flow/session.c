/* SPDX-License-Identifier: MIT */
/*
 * THE LIFE OF A FLOW
 *
 *   stage    file             what it does                            may end with
 *   accept   accept.c         takes the client's connection           (waits in the backlog)
 *   header   proxy_protocol   reads who the client is, when a proxy  proxy_untrusted, proxy_header,
 *   in       _stage.c         in front of us says so                  handshake_timeout,
 *                                                                     reset_by_client
 *   admit    admit.c          access lists, connections and new       acl_denied, client_limit,
 *            acl.c rate_limit.c connections by client                 rate_limited
 *   tls in   tls_stage.c      the client's TLS handshake              tls_failed, full,
 *                                                                     handshake_timeout,
 *                                                                     reset_by_client
 *   sni      sni_stage.c      peeks at the ClientHello, takes the     tls_failed,
 *            client_hello.c   rule's route that is for it             handshake_timeout,
 *            sni.c                                                    reset_by_client
 *   select   select.c         picks a backend, within its limit       no_backend,
 *                                                                     backend_limit,
 *                           .. or waits for one that has room         queue_full, queue_timeout
 *   connect  connect.c        connects, next backend on failure       connect_failed,
 *                                                                     connect_timeout,
 *                                                                     reset_by_client, full
 *   header   proxy_protocol   tells the backend who the client is    reset_by_client,
 *   out      _stage.c                                                 reset_by_backend,
 *                                                                     connect_timeout
 *   tls out  tls_stage.c      the backend's, else the next backend    backend_tls_failed,
 *                                                                     reset_by_client, full
 *   carry    carrier.c        relay; promotes to graft or sockmap     done, idle, reset_by_client,
 *            relay.c sockmap.c when earned; keeps to the rule's       reset_by_backend,
 *            graft.c           bandwidth (bandwidth_limit.c)          max_lifetime, drained, full,
 *            tls_relay.c      .. or TLS, which stays in userspace      backend_down, tls_failed,
 *                                                                     tls_truncated,
 *                                                                     backend_tls_failed
 *   account  account.c        counters, one access-log line
 *
 * A grafted flow leaves its session: graft_keeper.c sees to its end and to the last stage.
 *
 * This file knows the order and nothing of what the stages do; stages never call each other. A
 * stage answers NEXT, WAIT, RETRY or CLOSE, and only step() below acts on it. lb_session_close() is
 * the one way out.
 */
#include "flow/session.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include <lb/graft.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "flow/acl.h"
#include "flow/admit.h"
#include "flow/client_connection_limit.h"
#include "flow/connect.h"
#include "flow/graft_keeper.h"
#include "flow/grafts.h"
#include "flow/proxy_protocol_stage.h"
#include "flow/sni_stage.h"
#include "flow/tls_relay.h"
#include "flow/tls_stage.h"

struct stage {
	const char *name;
	enum lb_step (*enter)(struct lb_session *s);
	enum lb_step (*event)(struct lb_session *s, unsigned int leg, uint32_t events);
	enum lb_step (*timeout)(struct lb_session *s);
};

static enum lb_step carry_enter(struct lb_session *s);
static enum lb_step carry_event(struct lb_session *s, unsigned int leg, uint32_t events);
static enum lb_step carry_timeout(struct lb_session *s);

/* Neither waits nor is it entered twice. */
#define STAGE_ADMIT 1
#define STAGE_CARRY 7

static const struct stage stages[] = {
	{"proxy_protocol_in", lb_proxy_protocol_in_enter, lb_proxy_protocol_in_event,
	 lb_proxy_protocol_in_timeout},
	[STAGE_ADMIT] = {"admit", lb_admit_enter, NULL, NULL},
	{"tls_in", lb_tls_in_enter, lb_tls_in_event, lb_tls_in_timeout},
	{"sni", lb_sni_enter, lb_sni_event, lb_sni_timeout},
	{"connect", lb_connect_enter, lb_connect_event, lb_connect_timeout},
	{"proxy_protocol_out", lb_proxy_protocol_out_enter, lb_proxy_protocol_out_event,
	 lb_proxy_protocol_out_timeout},
	{"tls_out", lb_tls_out_enter, lb_tls_out_event, lb_tls_out_timeout},
	[STAGE_CARRY] = {"carry", carry_enter, carry_event, carry_timeout},
};

/* Back at connect: how its next try goes. */
static enum lb_step retry(struct lb_session *s)
{
	while (stages[s->stage].enter != lb_connect_enter)
		s->stage--;
	return lb_connect_retry(s);
}

static void step(struct lb_session *s, enum lb_step answer)
{
	while (!s->closed && (answer == LB_STEP_NEXT || answer == LB_STEP_RETRY))
		answer = answer == LB_STEP_NEXT ? stages[++s->stage].enter(s) : retry(s);
	if (answer == LB_STEP_CLOSE)
		lb_session_close(s, s->reason, false);
}

static void on_leg_event(struct lb_watch *w, uint32_t events)
{
	struct lb_leg *leg = lb_container_of(w, struct lb_leg, watch);
	struct lb_pair *pair = lb_container_of(leg - leg->index, struct lb_pair, leg[0]);
	struct lb_session *s = lb_container_of(pair, struct lb_session, pair);

	step(s, stages[s->stage].event(s, leg->index, events));
}

static void on_timer(struct lb_timer *t)
{
	struct lb_session *s = lb_container_of(t, struct lb_session, timer);

	step(s, stages[s->stage].timeout(s));
}

static void on_again(struct lb_task *t)
{
	struct lb_pair *p = lb_container_of(t, struct lb_pair, again);
	struct lb_session *s = lb_container_of(p, struct lb_session, pair);

	step(s, stages[s->stage].event(s, LB_LEG_CLIENT, 0));
}

void lb_session_again(struct lb_session *s)
{
	lb_loop_again(s->env->carrier.loop, &s->pair.again, on_again);
}

enum lb_step lb_session_client_waits(struct lb_session *s, uint32_t events)
{
	struct lb_leg *leg = &s->pair.leg[LB_LEG_CLIENT];

	if (events & (EPOLLERR | EPOLLHUP)) {
		s->reason = LB_REASON_RESET_BY_CLIENT;
		return LB_STEP_CLOSE;
	}
	if (events & (EPOLLIN | EPOLLRDHUP))
		leg->readable = true;
	if (events & (EPOLLRDHUP | EPOLLPRI))
		leg->until_empty = true;
	return LB_STEP_WAIT;
}

uint64_t lb_session_handshake_left_ms(const struct lb_session *s)
{
	uint64_t due = s->accept_ns / 1000000 + s->rule->config->timeouts.handshake_ms;
	uint64_t now = lb_loop_now_ms(s->env->carrier.loop);

	return due > now ? due - now : 1;
}

void lb_session_granted(struct lb_flow_env *env)
{
	struct lb_waiter *w;

	while ((w = lb_door_next(&env->door))) {
		struct lb_session *s = lb_container_of(w, struct lb_session, waiter);

		step(s, lb_connect_granted(s));
	}
}

/* --- carry ------------------------------------------------------------------------------------ */

static void on_pair_end(struct lb_pair *p, enum lb_reason reason, bool clean)
{
	lb_session_close(lb_container_of(p, struct lb_session, pair), reason, clean);
}

static void on_promoted(struct lb_pair *p, const struct lb_carrier *to)
{
	struct lb_session *s = lb_container_of(p, struct lb_session, pair);

	lb_account_fold(s);
	lb_count(&s->env->counters[s->rule->index].promotions[to->id], 1);
}

static void on_left(struct lb_pair *p, struct lb_graft *g);

/* Arms the timer for whichever comes first, idleness counted from <last_ns> or the lifetime. */
static void arm_carry_timer(struct lb_session *s, uint64_t last_ns)
{
	const struct lb_timeouts_config *t = &s->rule->config->timeouts;
	uint64_t now = lb_loop_now_ms(s->env->carrier.loop);
	uint64_t due = UINT64_MAX;

	if (t->idle_ms)
		due = last_ns / 1000000 + t->idle_ms;
	if (t->max_lifetime_ms && s->connected_ns / 1000000 + t->max_lifetime_ms < due)
		due = s->connected_ns / 1000000 + t->max_lifetime_ms;
	if (due != UINT64_MAX)
		lb_timer_start(s->env->carrier.loop, &s->timer, due > now ? due - now + 1 : 1);
}

static int enter_limits(struct lb_session *s)
{
	struct lb_slab *slab = &s->env->shares;
	struct lb_bandwidth_share *share;
	int err;

	if (!s->rule->bandwidth_limit)
		return 0;
	share = lb_slab_get(slab);
	if (!share)
		return -ENOMEM;
	err = lb_bandwidth_limit_enter(s->rule->bandwidth_limit, share, &s->client,
				       &s->backend->addr, lb_loop_now_ns(s->env->carrier.loop));
	if (err) {
		lb_slab_put(slab, share);
		return err;
	}
	s->bandwidth = share;
	for (unsigned int d = 0; d < 2; d++)
		s->pair.dir[d].budget = &share->budget[d];
	return 0;
}

static void leave_limits(struct lb_session *s)
{
	if (!s->bandwidth)
		return;
	for (unsigned int d = 0; d < 2; d++)
		s->pair.dir[d].budget = NULL;
	lb_bandwidth_limit_leave(s->bandwidth, lb_loop_now_ns(s->env->carrier.loop));
	lb_slab_put(&s->env->shares, s->bandwidth);
	s->bandwidth = NULL;
}

static enum lb_step carry_enter(struct lb_session *s)
{
	if (enter_limits(s)) {
		s->reason = LB_REASON_FULL;
		return LB_STEP_CLOSE;
	}
	s->carrying = true;
	arm_carry_timer(s, s->connected_ns);
	lb_carrier_begin(&s->pair);
	return LB_STEP_WAIT;
}

static enum lb_step carry_event(struct lb_session *s, unsigned int leg, uint32_t events)
{
	s->pair.carrier->event(&s->pair, leg, events);
	return LB_STEP_WAIT;
}

static enum lb_step carry_timeout(struct lb_session *s)
{
	const struct lb_timeouts_config *t = &s->rule->config->timeouts;
	uint64_t now_ms = lb_loop_now_ms(s->env->carrier.loop);
	uint64_t last_ns = s->pair.carrier->last_ns(&s->pair);

	if (t->max_lifetime_ms && now_ms >= s->connected_ns / 1000000 + t->max_lifetime_ms) {
		/* A FIN in mid-stream would look like a good end. */
		lb_session_close(s, LB_REASON_MAX_LIFETIME, false);
		return LB_STEP_WAIT;
	}
	if (t->idle_ms && now_ms >= last_ns / 1000000 + t->idle_ms) {
		lb_session_close(s, LB_REASON_IDLE, s->pair.carrier->clean(&s->pair));
		return LB_STEP_WAIT;
	}
	arm_carry_timer(s, last_ns);
	return LB_STEP_WAIT;
}

/* --- birth and death -------------------------------------------------------------------------- */

static struct lb_session *make(struct lb_flow_env *env, const struct lb_rule *rule,
			       const struct lb_addr *client)
{
	struct lb_session *s = lb_slab_get(&env->slab);

	if (!s)
		return NULL;
	s->env = env;
	s->rule = s->route = rule;
	s->client = *client;
	s->came_ns = lb_loop_now_ns(env->carrier.loop);
	lb_timer_init(&s->timer, on_timer);
	lb_carrier_init(&s->pair, &env->carrier, rule->config->acceleration);
	if (rule->bandwidth_limit)
		lb_carrier_limit(&s->pair);
	/* Whether it speaks TLS a rule never changes. */
	if (rule->tls || rule->backend_tls)
		lb_carrier_seal(&s->pair, &lb_tls_relay);
	else if (rule->same_host)
		lb_carrier_bypass(&s->pair);
	s->pair.end = on_pair_end;
	s->pair.promoted = on_promoted;
	s->pair.left = on_left;
	s->pair.on_event = on_leg_event;
	return s;
}

/* It is one of the worker's. */
static void enlist(struct lb_session *s)
{
	lb_list_append(&s->env->sessions, &s->node);
	lb_count(&s->env->counters[s->rule->index].active, 1);
	__atomic_fetch_add(&s->env->limits->sessions, 1, __ATOMIC_RELAXED);
}

void lb_session_new(struct lb_flow_env *env, const struct lb_rule *rule, int fd,
		    const struct lb_addr *client)
{
	struct lb_counters *counters = &env->counters[rule->index];
	struct lb_session *s = make(env, rule, client);
	struct lb_leg *leg;

	lb_count(&counters->connections, 1);
	if (!s) {
		lb_count(&counters->ends[LB_REASON_FULL], 1);
		close(fd);
		return;
	}
	s->accept_ns = s->came_ns;
	enlist(s);
	leg = &s->pair.leg[LB_LEG_CLIENT];
	if (lb_watch_add(env->carrier.loop, &leg->watch, fd, LB_LEG_EVENTS, on_leg_event)) {
		close(fd);
		lb_session_close(s, LB_REASON_FULL, false);
		return;
	}
	step(s, stages[0].enter(s));
}

static void release(struct lb_task *t)
{
	struct lb_session *s = lb_container_of(t, struct lb_session, release);

	lb_slab_put(&s->env->slab, s);
}

static void close_leg(struct lb_session *s, struct lb_leg *leg, bool clean)
{
	const struct linger reset = {.l_onoff = 1, .l_linger = 0};
	int fd = leg->watch.fd;

	if (fd < 0)
		return;
	if (!clean && !leg->alerted)
		(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	lb_watch_remove(s->env->carrier.loop, &leg->watch, !leg->shared);
	close(fd);
}

/* Freed at the end of this turn: events of it may still name the session. */
static void let_go(struct lb_session *s)
{
	lb_walk_pass_over(s->env, &s->node);
	lb_list_remove(&s->node);
	__atomic_fetch_sub(&s->env->limits->sessions, 1, __ATOMIC_RELAXED);
	lb_loop_defer(s->env->carrier.loop, &s->release, release);
}

/* A backend that resets a flow before it has said anything, or that TCP gives up, is failing. */
static bool shows_failing_backend(const struct lb_session *s, enum lb_reason reason)
{
	return s->carrying && reason == LB_REASON_RESET_BY_BACKEND &&
	       (s->pair.error == ETIMEDOUT || !s->pair.carrier->bytes(&s->pair, LB_LEG_BACKEND));
}

void lb_session_close(struct lb_session *s, enum lb_reason reason, bool clean)
{
	struct lb_flow_env *env = s->env;

	if (s->closed)
		return;
	s->closed = true;
	s->reason = reason;
	lb_carrier_quiesce(&s->pair);
	lb_timer_stop(env->carrier.loop, &s->timer);
	if (shows_failing_backend(s, reason))
		lb_rule_failed(s->route, s->backend);
	lb_connect_leave(s);
	lb_admit_leave(s);
	if (s->carrying && s->pair.carrier->quit)
		s->pair.carrier->quit(&s->pair, clean);
	close_leg(s, &s->pair.leg[LB_LEG_CLIENT], clean);
	close_leg(s, &s->pair.leg[LB_LEG_BACKEND], clean);
	lb_tls_stage_leave(s);
	if (s->carrying)
		s->pair.carrier->stop(&s->pair);
	lb_account_end(s, reason);
	leave_limits(s);
	if (s->backend)
		lb_select_release(s->route->select, s->backend);
	s->backend = NULL;
	lb_sni_leave(s);
	let_go(s);
}

/* --- from and to another daemon --------------------------------------------------------------- */

static int watch_both(struct lb_session *s, const int fd[2])
{
	struct lb_loop *loop = s->env->carrier.loop;
	int err = 0;

	for (unsigned int i = 0; i < 2 && !err; i++)
		err = lb_watch_add(loop, &s->pair.leg[i].watch, fd[i], LB_LEG_EVENTS, on_leg_event);
	for (unsigned int i = 0; i < 2 && err; i++)
		lb_watch_remove(loop, &s->pair.leg[i].watch, false);
	return err;
}

int lb_session_restore(struct lb_session **ret, struct lb_flow_env *env,
		       const struct lb_rule *route, const struct lb_addr *client,
		       struct lb_backend *backend, const int fd[2])
{
	const struct lb_rule *rule = lb_rule_whole(route);
	struct lb_session *s = make(env, rule, client);
	int err;

	if (!s)
		return -ENOMEM;
	s->backend = backend;
	err = enter_limits(s);
	if (!err)
		err = watch_both(s, fd);
	if (err) {
		leave_limits(s);
		lb_slab_put(&env->slab, s);
		return err;
	}
	s->route = route;
	lb_rule_count_route(route, env->counters, 1);
	s->stage = STAGE_CARRY;
	s->carrying = true;
	if (rule->client_connection_limit)
		s->admitted =
			lb_client_connection_limit_adopt(rule->client_connection_limit, client);
	enlist(s);
	*ret = s;
	return 0;
}

void lb_session_resume(struct lb_session *s)
{
	arm_carry_timer(s, s->pair.last_ns);
	lb_carrier_resume(&s->pair);
}

void lb_session_take_out(struct lb_session *s, int fd[2])
{
	struct lb_loop *loop = s->env->carrier.loop;

	s->closed = true;
	lb_carrier_quiesce(&s->pair);
	lb_timer_stop(loop, &s->timer);
	lb_admit_leave(s);
	for (unsigned int i = 0; i < 2; i++) {
		fd[i] = s->pair.leg[i].watch.fd;
		lb_watch_remove(loop, &s->pair.leg[i].watch, false);
	}
	s->pair.carrier->stop(&s->pair);
	lb_count(&s->env->counters[s->rule->index].active, (uint64_t)-1);
	leave_limits(s);
	lb_select_release(s->route->select, s->backend);
	s->backend = NULL;
	lb_sni_leave(s);
	let_go(s);
}

/* --- who becomes a graft, who is one of those, who is cut ------------------------------------- */

/* From accept to connected, as far as 32 bits go. */
static uint32_t connected_us(const struct lb_session *s)
{
	uint64_t us = (s->connected_ns - s->accept_ns) / 1000;

	return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static void keep(struct lb_session *s)
{
	/* With the hold and the counts that the session had of it, and of its route. */
	*lb_grafts_owner(s->env->carrier.grafts, s->pair.graft_pair) = (struct lb_graft_owner){
		.rule = s->route, .backend = s->backend, .ports = lb_ports_hold(s->pair.ports)};
	__atomic_fetch_add(&s->env->limits->grafts, 1, __ATOMIC_RELAXED);
}

/* The daemon that has taken over finds it in the table, and counts it. */
static void hand_on(struct lb_session *s)
{
	lb_count(&s->env->counters[s->rule->index].active, (uint64_t)-1);
	lb_select_release(s->route->select, s->backend);
	s->backend = NULL;
	lb_admit_leave(s);
	lb_sni_leave(s);
}

/* The flow lives on as a graft; it stays counted as active, here and with its backend. */
static void on_left(struct lb_pair *p, struct lb_graft *g)
{
	struct lb_session *s = lb_container_of(p, struct lb_session, pair);
	struct lb_flow_env *env = s->env;

	lb_account_fold(s);
	s->closed = true;
	lb_carrier_quiesce(p);
	lb_timer_stop(env->carrier.loop, &s->timer);
	g->accept_ns = s->accept_ns;
	g->connect_us = (uint32_t)((s->connected_ns - s->try_ns) / 1000);
	g->leg[LB_LEG_BACKEND].connected_us = connected_us(s);
	g->tries = s->tries;
	g->first_told = s->first_counted;
	g->rule_hash = lb_graft_keeper_hash(s->route->config->name);
	if (s->client_named)
		lb_graft_set_client(g, &s->client);
	g->folded[0] = s->folded[0];
	g->folded[1] = s->folded[1];
	if (lb_grafts_are_lent(env->carrier.grafts))
		hand_on(s);
	else
		keep(s);
	/* From now on the entry is the keeper's. */
	__atomic_store_n(&g->counted, LB_GRAFT_KEPT, __ATOMIC_RELEASE);
	let_go(s);
}

void lb_session_look_again(struct lb_flow_env *env, const struct lb_rule *rule)
{
	struct lb_list *node = env->sessions.next;

	while (node != &env->sessions) {
		struct lb_session *s = lb_container_of(node, struct lb_session, node);

		/* It may end there. */
		node = node->next;
		if (s->rule == rule && s->carrying)
			lb_carrier_look_again(&s->pair);
	}
}

static bool is_one_of(const struct lb_session *s, struct lb_flows which)
{
	if (which.rule && !lb_rule_is(s->route, which.rule))
		return false;
	/* Who has not been admitted yet will be asked then. */
	if (which.denied_by &&
	    (s->stage < STAGE_ADMIT || lb_acl_allows(which.denied_by, &s->client)))
		return false;
	return !which.backend || (s->carrying && s->backend->id == which.backend);
}

size_t lb_session_count(const struct lb_flow_env *env, struct lb_flows which)
{
	size_t n = 0;

	lb_list_for_each (node, &env->sessions)
		n += is_one_of(lb_container_of(node, struct lb_session, node), which);
	return n;
}

void lb_session_close_all(struct lb_flow_env *env, struct lb_flows which, enum lb_reason reason)
{
	struct lb_list *node = env->sessions.next;

	while (node != &env->sessions) {
		struct lb_session *s = lb_container_of(node, struct lb_session, node);

		node = node->next;
		if (is_one_of(s, which))
			lb_session_close(s, reason, false);
	}
}
