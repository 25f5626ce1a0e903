/* SPDX-License-Identifier: MIT */
/*
 * See admission.h. Decides which addresses the programs judge, and for which rule. Must never have
 * them judge for an address that is not this host's: what is only routed or bridged through it is
 * none of our business, whatever its port.
 */
#include "control/admission.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/admission_parts.h"
#include "control/difference.h"
#include "control/service.h"
#include "flow/acl.h"
#include "flow/rate_limit.h"
#include "kernel/netlink.h"
#include "loop/loop.h"

#define LEASE_MS 5000u
#define RENEW_MS 1000u
#define LOOK_S   1 /* what a reload waits for at most */
#define NO_RULE  UINT32_MAX

/* An address and port, and the rule that listens there. */
struct listener {
	struct lb_addr addr;
	uint32_t rule;
};

struct listeners {
	struct listener *all;
	size_t count, room;
	bool out_of_memory;
};

struct lb_admission_service {
	struct lb_admission_opts opts;
	struct lb_admit *admit;
	struct listeners listeners; /* as the kernel has them, sorted */
	struct lb_loop *loop;
	struct lb_watch news;
	struct lb_timer renew;
	pthread_t thread;
	bool runs;
	int told;   /* why the last try to make them right has failed */
	bool stale; /* atomic: <listeners> are not right, the next renewal looks again */
	/* How often the main thread asked for a look, and how many of them were taken. */
	pthread_mutex_t lock;
	pthread_cond_t looked;
	uint64_t asked, answered;
};

/* --- the kernel's tables ---------------------------------------------------------------------- */

/* Behind a proxy the packets' address is not the client's. */
static bool may_use_kernel(const struct lb_rule_config *c)
{
	return !c->accept_proxy_protocol_count && (c->rate_limit.enabled || admission_has_lists(c));
}

/* Whatever the kernel does not take is left to the daemon. */
static void bring_in_acl(struct lb_admission_service *a, const struct lb_rule *rule,
			 const struct lb_rule_config *config)
{
	const struct lb_acl_v4_node *v4 = NULL;
	const struct lb_acl_v6_node *v6 = NULL;
	uint32_t v4_count = 0, v6_count = 0;
	int err;

	if (rule->acl && may_use_kernel(config)) {
		v4 = lb_acl_v4_nodes(rule->acl, &v4_count);
		v6 = lb_acl_v6_nodes(rule->acl, &v6_count);
	}
	err = lb_admit_set_acl(a->admit, rule->index, v4, v4_count, v6, v6_count);
	if (err)
		lb_warn("rule %s: its access lists are not enforced in the kernel: %s",
			config->name, strerror(-err));
}

static void bring_in(struct lb_admission_service *a, struct lb_rule *rule,
		     const struct lb_rule_config *config)
{
	/* Beyond those places it is judged after accept. */
	bool may = may_use_kernel(config) && rule->index < LB_ADMIT_RULES_MAX;

	lb_admit_set_rate_limit(a->admit, rule->index, may && rule->rate_limit,
				config->rate_limit.ipv6_prefix);
	__atomic_store_n(&rule->admit, may ? a->admit : NULL, __ATOMIC_RELEASE);
}

static void tell_missing(const struct lb_admission_service *a, const struct lb_rule_config *config)
{
	if (!a && may_use_kernel(config))
		lb_info("rule %s: clients are refused after they are accepted: admission in the "
			"kernel was not in service at the start",
			config->name);
}

void lb_admission_add(struct lb_admission_service *a, struct lb_rule *rule,
		      const struct lb_rule_config *config)
{
	tell_missing(a, config);
	if (!a)
		return;
	/* Also with none: the place may have been another rule's. */
	lb_admit_pardon(a->admit, rule->index);
	bring_in_acl(a, rule, config);
	bring_in(a, rule, config);
}

/* --- changes ---------------------------------------------------------------------------------- */

static bool is_same(const struct lb_acl *a, const struct lb_acl *b)
{
	return a && b ? lb_acl_equal(a, b) : a == b;
}

void lb_admission_commit(struct lb_admission_service *a, struct lb_rule *rule,
			 const struct lb_rule_config *config, struct lb_admission_change *c)
{
	bool was_in_kernel = rule->admit, limits = rule->acl || rule->rate_limit;
	struct lb_acl *old = rule->acl;

	admission_commit_rate(rule, config, c);
	if (a && !lb_difference_is_same(rule->config, config, "rate_limit"))
		lb_admit_pardon(a->admit, rule->index);
	c->acl_changed = !is_same(old, c->acl);
	if (c->acl_changed) {
		__atomic_store_n(&rule->acl, c->acl, __ATOMIC_RELEASE);
		c->acl = old;
	}
	if (!limits)
		tell_missing(a, config);
	if (!a)
		return;
	if (c->acl_changed || was_in_kernel != may_use_kernel(config))
		bring_in_acl(a, rule, config);
	bring_in(a, rule, config);
}

/* --- listeners -------------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
	const struct lb_addr *x = &((const struct listener *)a)->addr;
	const struct lb_addr *y = &((const struct listener *)b)->addr;
	int order = (int)x->sa.sa_family - y->sa.sa_family;

	if (order)
		return order;
	if (x->sa.sa_family == AF_INET6)
		order = memcmp(&x->in6.sin6_addr, &y->in6.sin6_addr, sizeof(x->in6.sin6_addr));
	else
		order = memcmp(&x->in4.sin_addr, &y->in4.sin_addr, sizeof(x->in4.sin_addr));
	return order ? order : (int)lb_addr_port(x) - lb_addr_port(y);
}

static void add(struct listeners *l, const struct lb_addr *addr, uint16_t port, uint32_t rule)
{
	struct listener *grown;

	if (l->count == l->room) {
		l->room = l->room ? l->room * 2 : 16;
		grown = realloc(l->all, l->room * sizeof(*grown));
		l->out_of_memory = l->out_of_memory || !grown;
		if (!grown) {
			l->room = l->count;
			return;
		}
		l->all = grown;
	}
	l->all[l->count] = (struct listener){.rule = rule};
	l->all[l->count].addr.sa.sa_family = addr->sa.sa_family;
	if (addr->sa.sa_family == AF_INET6)
		l->all[l->count].addr.in6.sin6_addr = addr->in6.sin6_addr;
	else
		l->all[l->count].addr.in4.sin_addr = addr->in4.sin_addr;
	lb_addr_set_port(&l->all[l->count].addr, port);
	l->count++;
}

struct wanted {
	const struct lb_admission_service *admission;
	struct listeners rules; /* what they listen on .. */
	struct listeners all;   /* .. as far as it is this host's, any addresses spelled out */
};

/* The same link-local address may be on several links: those are left to the daemon. */
static bool is_link_local(const struct lb_addr *a)
{
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&a->in6.sin6_addr);
}

static void on_own_address(void *arg, const struct lb_addr *own)
{
	struct wanted *w = arg;

	if (is_link_local(own))
		return;
	for (size_t i = 0; i < w->rules.count; i++) {
		const struct listener *rule = &w->rules.all[i];
		struct lb_addr here = *own;

		if (rule->addr.sa.sa_family != own->sa.sa_family)
			continue;
		lb_addr_set_port(&here, lb_addr_port(&rule->addr));
		if (lb_addr_is_any(&rule->addr) || lb_addr_equal(&rule->addr, &here))
			add(&w->all, own, lb_addr_port(&here), rule->rule);
	}
}

/* Rules may come and go meanwhile. */
static void find_rules(struct wanted *w)
{
	struct lb_service *service = w->admission->opts.service;
	const struct lb_rule *rules;
	size_t count;

	lb_service_hold(service);
	count = lb_service_rules(service, &rules);
	for (size_t i = 0; i < count; i++) {
		const struct lb_rule *rule = &rules[i];

		if (!rule->config || !rule->admit || lb_service_is_gone(service, i))
			continue;
		add(&w->rules, &rule->config->listen, lb_addr_port(&rule->config->listen),
		    rule->index);
	}
	lb_service_let_go(service);
}

static int find_wanted(struct wanted *w)
{
	size_t kept = 0;
	int err;

	find_rules(w);
	err = lb_netlink_addresses(on_own_address, w);
	if (err || w->rules.out_of_memory || w->all.out_of_memory)
		return err ? err : -ENOMEM;
	if (w->all.count)
		qsort(w->all.all, w->all.count, sizeof(*w->all.all), by_address);
	/* An address may be on two interfaces, and be heard of twice. */
	for (size_t i = 0; i < w->all.count; i++)
		if (!kept || by_address(&w->all.all[kept - 1], &w->all.all[i]))
			w->all.all[kept++] = w->all.all[i];
	w->all.count = kept;
	return 0;
}

/* From one sorted list to the other. */
static int change(struct lb_admission_service *a, const struct listeners *to)
{
	const struct listeners *from = &a->listeners;
	size_t i = 0, j = 0;
	int err = 0;

	while (i < from->count || j < to->count) {
		int order = i == from->count ? 1
			    : j == to->count ? -1
					     : by_address(&from->all[i], &to->all[j]);

		if (order < 0) {
			lb_admit_unlisten(a->admit, &from->all[i++].addr);
			continue;
		}
		if (order > 0 || from->all[i].rule != to->all[j].rule) {
			int one = lb_admit_listen(a->admit, &to->all[j].addr, to->all[j].rule);

			/* Not what stands there: the next look tries again. */
			if (one)
				to->all[j].rule = NO_RULE;
			err = err ? err : one;
		}
		i += !order;
		j++;
	}
	return err;
}

static void set_stale(struct lb_admission_service *a, bool stale)
{
	__atomic_store_n(&a->stale, stale, __ATOMIC_RELAXED);
}

static void follow_addresses(struct lb_admission_service *a)
{
	struct wanted w = {.admission = a};
	int err;

	set_stale(a, false);
	err = find_wanted(&w);
	if (!err) {
		err = change(a, &w.all);
		free(a->listeners.all);
		a->listeners = w.all;
		w.all = (struct listeners){};
	}
	/* More than there is room for will not be less in a second. */
	set_stale(a, err && err != -E2BIG && err != -ERANGE);
	if (err && err != a->told)
		lb_warn("admission: not every address of this host is judged%s: %s",
			err == -E2BIG || err == -ERANGE ? "" : ", it is tried again",
			strerror(-err));
	a->told = err;
	free(w.rules.all);
	free(w.all.all);
}

/* --- the thread ------------------------------------------------------------------------------- */

static void on_renew(struct lb_timer *t)
{
	struct lb_admission_service *a = lb_container_of(t, struct lb_admission_service, renew);
	uint64_t now = lb_clock_ns();

	lb_admit_lease(a->admit, now + LEASE_MS * 1000000ull);
	lb_admit_forget(a->admit, now);
	if (__atomic_load_n(&a->stale, __ATOMIC_RELAXED))
		follow_addresses(a);
	lb_timer_start(a->loop, t, RENEW_MS);
}

static void on_news(struct lb_watch *w, uint32_t events)
{
	struct lb_admission_service *a = lb_container_of(w, struct lb_admission_service, news);

	if (lb_admit_follow(a->admit))
		follow_addresses(a);
}

static void do_follow(void *arg)
{
	struct lb_admission_service *a = arg;

	follow_addresses(a);
	pthread_mutex_lock(&a->lock);
	a->answered++;
	pthread_cond_signal(&a->looked);
	pthread_mutex_unlock(&a->lock);
}

static void await_look(struct lb_admission_service *a)
{
	struct timespec until;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += LOOK_S;
	pthread_mutex_lock(&a->lock);
	while (a->answered < a->asked && !err)
		err = pthread_cond_timedwait(&a->looked, &a->lock, &until);
	pthread_mutex_unlock(&a->lock);
}

void lb_admission_follow_rules(struct lb_admission_service *a)
{
	if (!a)
		return;
	/* Without memory with the next renewal. */
	if (!a->runs || lb_loop_post(a->loop, do_follow, a)) {
		set_stale(a, true);
		return;
	}
	a->asked++;
	await_look(a);
}

static void *run(void *arg)
{
	struct lb_admission_service *a = arg;
	int err;

	pthread_setname_np(pthread_self(), "admission");
	on_renew(&a->renew);
	err = lb_loop_run(a->loop);
	if (err)
		lb_err("admission: the event loop failed: %s", strerror(-err));
	return NULL;
}

/* --- birth and death -------------------------------------------------------------------------- */

static bool is_wanted(const struct lb_admission_opts *opts)
{
	bool wanted = false;

	for (size_t i = 0; i < opts->rules_count; i++)
		wanted = wanted || may_use_kernel(opts->rules[i].config);
	return wanted && opts->config->admission != LB_ADMISSION_OFF;
}

/* 0, with a->admit NULL and a line in the log when the kernel does not help. */
static int open_kernel(struct lb_admission_service *a)
{
	static const enum lb_admit_mode modes[] = {
		[LB_ADMISSION_AUTO] = LB_ADMIT_MODE_AUTO,
		[LB_ADMISSION_NATIVE] = LB_ADMIT_MODE_NATIVE,
		[LB_ADMISSION_GENERIC] = LB_ADMIT_MODE_GENERIC,
		[LB_ADMISSION_TC] = LB_ADMIT_MODE_TC,
	};
	const struct lb_admit_opts opts = {
		.instance = a->opts.instance,
		.mode = modes[a->opts.config->admission],
		.beside = a->opts.beside,
	};
	const struct lb_config *config = a->opts.config;
	struct lb_admit_report report;
	int err;

	err = lb_admit_open(&a->admit, &opts, &report);
	if (!err) {
		err = lb_admit_attach(a->admit, config->interfaces, config->interfaces_count);
		if (err) {
			report.why = LB_WHY_LOAD;
			snprintf(report.detail, sizeof(report.detail), "it cannot be attached: %s",
				 strerror(-err));
			lb_admit_close(&a->admit);
		}
	}
	if (err)
		lb_warn("admission in the kernel is not in service (%s): %s; clients are refused "
			"after they are accepted",
			lb_why_word(report.why), report.detail);
	return err == -ENOMEM ? err : 0;
}

static int build(struct lb_admission_service *a)
{
	int err = lb_loop_new(&a->loop);

	if (err)
		return err;
	lb_timer_init(&a->renew, on_renew);
	err = lb_watch_add(a->loop, &a->news, lb_admit_fd(a->admit), EPOLLIN, on_news);
	if (err)
		return err;
	for (size_t i = 0; i < a->opts.rules_count; i++)
		lb_admission_add(a, &a->opts.rules[i], a->opts.rules[i].config);
	follow_addresses(a);
	return 0;
}

static void init_look(struct lb_admission_service *a)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->looked, &attr);
	pthread_condattr_destroy(&attr);
	pthread_mutex_init(&a->lock, NULL);
}

int lb_admission_new(struct lb_admission_service **ret, const struct lb_admission_opts *opts)
{
	LB_AUTO(lb_admission_free) struct lb_admission_service *a = NULL;
	int err;

	if (!is_wanted(opts))
		return 0;
	a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->opts = *opts;
	a->news.fd = -1;
	init_look(a);
	err = open_kernel(a);
	if (!err && a->admit)
		err = build(a);
	if (err)
		lb_err("admission: %s", strerror(-err));
	if (!err && a->admit)
		*ret = LB_TAKE_PTR(a);
	return err;
}

int lb_admission_start(struct lb_admission_service *a)
{
	int err;

	if (!a)
		return 0;
	err = -pthread_create(&a->thread, NULL, run, a);
	a->runs = !err;
	if (err)
		lb_err("admission: cannot start its thread: %s", strerror(-err));
	return err;
}

void lb_admission_stop(struct lb_admission_service *a)
{
	if (!a || !a->runs)
		return;
	lb_loop_stop(a->loop);
	pthread_join(a->thread, NULL);
	a->runs = false;
}

void lb_admission_leave(struct lb_admission_service *a)
{
	if (!a)
		return;
	lb_admission_stop(a);
	lb_admit_cede(a->admit);
}

static void do_reclaim(void *arg)
{
	struct lb_admission_service *a = arg;

	lb_admit_reclaim(a->admit);
}

void lb_admission_reclaim(struct lb_admission_service *a)
{
	/* Without memory the daemon alone refuses. */
	if (a)
		(void)lb_loop_post(a->loop, do_reclaim, a);
}

void lb_admission_free(struct lb_admission_service **pa)
{
	struct lb_admission_service *a = *pa;

	if (!a)
		return;
	*pa = NULL;
	for (size_t i = 0; i < a->opts.rules_count; i++)
		a->opts.rules[i].admit = NULL;
	if (a->loop && a->news.fd >= 0)
		lb_watch_remove(a->loop, &a->news, false);
	if (a->loop)
		lb_loop_free(a->loop);
	lb_admit_close(&a->admit);
	free(a->listeners.all);
	pthread_cond_destroy(&a->looked);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

struct lb_admit *lb_admission_admit(struct lb_admission_service *a)
{
	return a ? a->admit : NULL;
}
