/* SPDX-License-Identifier: MIT */
/*
 * See apply.h. Must never change anything that runs before all that may fail has been done, nor
 * free a configuration that a worker may still be reading: lb_workers_do() sees each of them end
 * the turn in which it did.
 */
#include "control/apply.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/admission.h"
#include "control/backends.h"
#include "control/cluster.h"
#include "control/difference.h"
#include "control/service_parts.h"
#include "control/ticket_secrets.h"
#include "control/tls.h"
#include "flow/client_connection_limit.h"
#include "flow/sni.h"
#include "kernel/same_host.h"
#include "worker.h"

/* A rule of the new configuration, or a route. */
struct target {
	struct lb_rule *rule; /* its place */
	const struct lb_rule_config *config;
	struct lb_admission_change admission; /* when it is not added .. */
	struct lb_tls_change tls;             /* .. likewise */
	struct lb_sni *sni;                   /* its routes; after the commit those it had */
	bool added;
	bool listens_anew;              /* nobody hands it listeners: <listeners> are its own */
	struct lb_listener **listeners; /* by worker */
};

struct plan {
	struct lb_service *s;
	struct lb_config_ref *ref;
	const struct lb_config *fresh;
	struct target *targets;
	struct lb_backends_change *changes;
	size_t count;  /* of both */
	bool prepared; /* the backends are */
	/* By place: whose listeners the rule there gets; NULL: nobody's. */
	const struct lb_rule **heirs;
	unsigned int changed, added, removed, refused;
};

/* --- reading ---------------------------------------------------------------------------------- */

static void log_notices(const struct lb_config_notices *notices, const char *path)
{
	for (size_t i = 0; i < notices->count; i++) {
		char line[1024];

		lb_config_notice_format(&notices->items[i], path, line, sizeof(line));
		if (notices->items[i].severity == LB_CONFIG_ERROR)
			lb_err("%s", line);
		else
			lb_warn("%s", line);
	}
}

static void complain(const char *path, const char *why, FILE *out)
{
	if (out)
		fprintf(out, "%s: %s\n", path, why);
	else
		lb_err("%s: %s", path, why);
}

/* What there is to say goes to <out>, NULL: to the log. 0, -EINVAL, -ENOMEM .. */
static int load(const char *path, struct lb_config **ret, FILE *out)
{
	LB_AUTO(lb_config_notices_fini) struct lb_config_notices notices = {0};
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;
	struct stat st;
	int err;

	/* A pipe, good enough at the start, would have everybody wait for its other end. */
	if (!stat(path, &st) && !S_ISREG(st.st_mode)) {
		complain(path, "not a regular file: it cannot be read again", out);
		return -EINVAL;
	}
	err = lb_config_load_with(&config, path, lb_tls_judge, &notices);
	if (out)
		lb_config_notices_print(&notices, path, out);
	else
		log_notices(&notices, path);
	if (!err && lb_config_notices_refuse(&notices)) {
		complain(path, "it asks for protection that is not yet in force", out);
		err = -EINVAL;
	}
	if (!err)
		*ret = LB_TAKE_PTR(config);
	return err;
}

/* Logs it, and counts. */
static void on_difference(void *arg, const struct lb_difference *d)
{
	LB_AUTO_FREE char *text = NULL;
	struct plan *p = arg;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	p->changed += d->kind == LB_DIFFERENCE_CHANGED;
	p->added += d->kind == LB_DIFFERENCE_ADDED;
	p->removed += d->kind == LB_DIFFERENCE_REMOVED;
	p->refused += d->kind == LB_DIFFERENCE_REFUSED;
	if (!out)
		return;
	lb_difference_print(d, out);
	if (fclose(out))
		return;
	if (d->kind == LB_DIFFERENCE_REFUSED)
		lb_err("reload: %s", text);
	else if (d->kind == LB_DIFFERENCE_RESTART)
		lb_warn("reload: %s", text);
	else
		lb_info("reload: %s", text);
}

/* --- prepare ---------------------------------------------------------------------------------- */

/* <of>: whose route it is, NULL: it is a rule; the same name may have been the other's. */
static struct lb_rule *find_rule(const struct lb_service *s, const char *name,
				 const struct lb_rule *of)
{
	for (size_t i = 0; i < s->rules_count; i++)
		if (s->rules[i].config && !s->states[i].gone_ms && s->rules[i].of == of &&
		    !strcmp(s->rules[i].config->name, name))
			return &s->rules[i];
	return NULL;
}

/* A place that nobody has: neither in service nor taken by a target before this one. */
static struct lb_rule *find_place(const struct plan *p)
{
	struct lb_service *s = p->s;

	for (uint32_t i = 0; i < LB_RULES_MAX; i++)
		if (!s->rules[i].config && !s->rules[i].pool) {
			s->rules[i].index = i;
			s->rules[i].secrets = s->secrets;
			return &s->rules[i];
		}
	return NULL;
}

static bool checks_change(const struct lb_rule_config *was, const struct lb_rule_config *is)
{
	return !lb_difference_is_same(was, is, "health_check") ||
	       !lb_difference_is_same(was, is, "proxy_protocol");
}

/* The rule of <config>, in its place; with what is to be done to its backends. */
static int prepare_target(struct plan *p, struct target *t, struct lb_backends_change *change,
			  const struct lb_rule_config *config)
{
	/* Rules come before routes. */
	const struct lb_rule *of =
		config->of ? p->targets[config->of - p->fresh->rules].rule : NULL;
	struct lb_rule *rule = find_rule(p->s, config->name, of);
	int err;

	*change = (struct lb_backends_change){.rule = rule, .config = config};
	t->config = config;
	t->rule = rule;
	t->admission.limits = lb_cluster_limits(p->s->cluster);
	if (rule) {
		err = lb_tls_prepare(&t->tls, rule, config);
		change->checks_changed = t->tls.checks || checks_change(rule->config, config);
		return err ? err : lb_admission_prepare(&t->admission, rule, config);
	}
	rule = find_place(p);
	if (!rule) {
		lb_err("reload: too many rules: those that were removed still have flows");
		return -ENOSPC;
	}
	change->rule = t->rule = rule;
	t->added = true;
	rule->of = of;
	/* From here on the place is taken. */
	err = lb_service_build_rule(rule, config);
	return err ? err : lb_admission_share(rule, config, t->admission.limits);
}

static const struct lb_rule *place_of(void *arg, size_t i, struct lb_sni ***sni)
{
	struct plan *p = arg;

	*sni = &p->targets[i].sni;
	return p->targets[i].rule;
}

static int prepare_targets(struct plan *p)
{
	const struct lb_config *fresh = p->fresh;
	int err = 0;

	p->targets = calloc(lb_config_places(fresh) + 1, sizeof(*p->targets));
	p->changes = calloc(lb_config_places(fresh) + 1, sizeof(*p->changes));
	if (!p->targets || !p->changes)
		return -ENOMEM;
	for (size_t i = 0; i < lb_config_places(fresh) && !err; i++) {
		p->count++;
		err = prepare_target(p, &p->targets[i], &p->changes[i], lb_config_place(fresh, i));
	}
	return err;
}

/* Whether sockets of ours are in the way of one that must be alone at <addr>. */
static bool is_ours(const struct lb_service *s, const struct lb_addr *addr)
{
	for (size_t i = 0; i < s->rules_count; i++) {
		const struct lb_rule_config *config = s->rules[i].config;

		if (!config || s->states[i].gone_ms ||
		    config->listen.sa.sa_family != addr->sa.sa_family ||
		    lb_addr_port(&config->listen) != lb_addr_port(addr))
			continue;
		if (lb_addr_is_any(&config->listen) || lb_addr_is_any(addr) ||
		    lb_addr_equal(&config->listen, addr))
			return true;
	}
	return false;
}

/* The rule in service that listens at <addr>. */
static const struct lb_rule *find_listening(const struct lb_service *s, const struct lb_addr *addr)
{
	for (size_t i = 0; i < s->rules_count; i++)
		if (s->rules[i].config && !s->states[i].gone_ms &&
		    lb_addr_equal(&s->rules[i].config->listen, addr))
			return &s->rules[i];
	return NULL;
}

static int open_listener(struct plan *p, struct target *t, uint32_t worker, bool exclusive)
{
	LB_AUTO_CLOSE int fd = lb_service_open_listener(t->config, exclusive && !worker);
	int err;

	if (fd < 0)
		return LB_TAKE_FD(fd);
	err = lb_listener_new(&t->listeners[worker], t->rule, fd);
	if (!err)
		(void)LB_TAKE_FD(fd);
	return err;
}

/* Listeners of its own, unless somebody in service is at its address: then it gets those. */
static int prepare_listeners(struct plan *p, struct target *t, const struct lb_rule_config *config)
{
	const struct lb_rule *from = find_listening(p->s, &config->listen);
	bool exclusive = !is_ours(p->s, &config->listen);
	char addr[LB_ADDR_STR_MAX];
	int err = 0;

	if (from) {
		p->heirs[from->index] = t->rule;
		return 0;
	}
	t->listens_anew = true;
	t->listeners = calloc(p->s->workers_count, sizeof(struct lb_listener *));
	if (!t->listeners)
		return -ENOMEM;
	for (uint32_t i = 0; i < p->s->workers_count && !err; i++)
		err = open_listener(p, t, i, exclusive);
	if (err)
		lb_err("reload: rule %s: cannot listen on %s: %s", config->name,
		       lb_addr_format(&config->listen, addr), strerror(-err));
	return err;
}

static int prepare(struct plan *p)
{
	int err = prepare_targets(p);

	p->heirs = calloc(LB_RULES_MAX, sizeof(const struct lb_rule *));
	if (!err && !p->heirs)
		err = -ENOMEM;
	if (err)
		return err;
	err = lb_service_build_routes(p->fresh, place_of, p);
	if (err)
		return err;
	p->prepared = true;
	err = lb_backends_prepare(p->s->backends, p->changes, p->count);
	for (size_t i = 0; i < p->fresh->rules_count && !err; i++)
		err = prepare_listeners(p, &p->targets[i], &p->fresh->rules[i]);
	return err;
}

/* Whatever of it there is. Nothing has changed. */
static void abandon(struct plan *p)
{
	if (p->prepared)
		lb_backends_abort(p->s->backends, p->changes, p->count);
	for (size_t i = 0; i < p->count; i++) {
		struct target *t = &p->targets[i];

		if (t->added && t->rule)
			lb_service_free_rule(p->s, t->rule);
	}
}

/* --- commit ----------------------------------------------------------------------------------- */

/* Limits of a rule that stays. */
static void commit_limits(struct plan *p, struct target *t)
{
	struct lb_rule *rule = t->rule;

	if (rule->client_connection_limit)
		lb_client_connection_limit_set(rule->client_connection_limit,
					       t->config->client_connection_limit);
	lb_admission_share_connections(rule, t->config, t->admission.limits);
	if (!lb_difference_is_same(rule->config, t->config, "bandwidth_limit"))
		/* Without memory some wait longer than they would have to. */
		(void)lb_service_change_bandwidth(p->s, rule->index, &t->config->bandwidth_limit);
}

/* Who looks at the old ones has ended his turn when workers have taken their listeners. */
static void commit_routes(struct target *t)
{
	struct lb_sni *old = t->rule->sni;

	__atomic_store_n(&t->rule->sni, t->sni, __ATOMIC_RELEASE);
	t->sni = old;
}

static void commit_added(struct plan *p, struct target *t)
{
	struct lb_service *s = p->s;

	t->rule->id = ++s->last_id;
	if (t->rule->index >= s->rules_count)
		s->rules_count = t->rule->index + 1;
}

static const struct lb_rule *heir_of(const struct lb_rule *rule, void *arg)
{
	const struct plan *p = arg;

	return p->heirs[rule->index];
}

/* In each worker: who listens where. New sockets have taken connections since they were made. */
static void take_listeners(struct lb_worker *w, uint32_t index, void *arg)
{
	struct plan *p = arg;

	lb_worker_hand_listeners(w, heir_of, p);
	for (size_t i = 0; i < p->count; i++) {
		struct target *t = &p->targets[i];
		int err;

		if (!t->listens_anew)
			continue;
		err = lb_worker_listen(w, &t->listeners[index]);
		if (err)
			lb_err("rule %s: worker %u cannot listen: %s", t->config->name, index,
			       strerror(-err));
	}
}

/* Flows whose clients a rule's new lists deny. */
struct denied {
	struct lb_flows which;
	bool cut;
	size_t flows; /* atomic */
};

static void judge_sessions(struct lb_worker *w, uint32_t index, void *arg)
{
	struct denied *d = arg;
	size_t n = lb_worker_judge_sessions(w, d->which, LB_REASON_ACL_DENIED, d->cut);

	__atomic_fetch_add(&d->flows, n, __ATOMIC_RELAXED);
}

static void judge_grafts(struct lb_worker *w, uint32_t index, void *arg)
{
	struct denied *d = arg;
	size_t n = lb_worker_judge_grafts(w, d->which, LB_REASON_ACL_DENIED, d->cut);

	__atomic_fetch_add(&d->flows, n, __ATOMIC_RELAXED);
}

static void judge_flows(struct lb_service *s, const struct target *t)
{
	struct denied d = {
		.which = LB_FLOWS_DENIED(t->rule->id, t->rule->acl),
		.cut = t->config->acl_cut_existing,
	};

	lb_workers_do(s->workers, s->workers_count, judge_sessions, &d);
	lb_workers_do(s->workers, s->workers_count, judge_grafts, &d);
	if (d.flows)
		lb_info("reload: rule %s: %zu flows of clients that may not come any more %s",
			t->config->name, d.flows,
			d.cut ? "are reset" : "live on (acl_cut_existing: false)");
}

static bool is_target(const struct plan *p, const struct lb_rule *rule)
{
	for (size_t i = 0; i < p->count; i++)
		if (p->targets[i].rule == rule)
			return true;
	return false;
}

/* Those that the new configuration has no more: they keep what they are made of until the end. */
static void commit_removed(struct plan *p)
{
	struct lb_service *s = p->s;

	for (size_t i = 0; i < s->rules_count; i++) {
		if (!s->rules[i].config || s->states[i].gone_ms || is_target(p, &s->rules[i]))
			continue;
		s->states[i].gone_ms = lb_clock_ms();
		s->states[i].source = s->source;
		if (s->source)
			s->source->holders++;
		lb_backends_retire(s->backends, &s->rules[i]);
	}
}

/* Of listeners that are new; how large they may be the pools tell, which are filled now. */
static void limit_segments(struct plan *p)
{
	for (size_t i = 0; i < p->count; i++) {
		struct target *t = &p->targets[i];
		int mss = t->listens_anew ? lb_service_segment(p->s, t->rule) : 0;

		for (uint32_t w = 0; mss && w < p->s->workers_count; w++)
			lb_listener_limit_segments(t->listeners[w], mss);
	}
}

static void commit(struct plan *p)
{
	struct lb_service *s = p->s;

	lb_service_hold(s);
	for (size_t i = 0; i < p->count; i++) {
		struct target *t = &p->targets[i];

		if (t->added)
			commit_added(p, t);
		else
			commit_limits(p, t);
		lb_tls_commit(&t->tls, t->rule);
		if (t->added)
			lb_admission_add(s->admission, t->rule, t->config);
		else
			lb_admission_commit(s->admission, t->rule, t->config, &t->admission);
		if (s->same_host && lb_same_host_covers(s->same_host, &t->config->listen))
			t->rule->same_host = true;
	}
	for (uint32_t i = 0; i < s->workers_count; i++)
		lb_worker_set_rules(s->workers[i], s->rules_count);
	lb_backends_commit(s->backends, p->changes, p->count);
	/* Only now may a flow get to a route that is new. */
	for (size_t i = 0; i < p->count; i++)
		commit_routes(&p->targets[i]);
	limit_segments(p);
	lb_workers_do(s->workers, s->workers_count, take_listeners, p);
	commit_removed(p);
	/* Else what was set at run time stays. */
	if (p->fresh->log_level != s->config->log_level)
		lb_log_set_level(p->fresh->log_level);
	lb_log_set_format(p->fresh->log_format);
	s->config = p->fresh;
	lb_config_ref_put(&s->source);
	s->source = LB_TAKE_PTR(p->ref);
	lb_service_set_limits(s);
	lb_tls_open_ktls(&s->limits, s->config);
	lb_service_let_go(s);
	for (size_t i = 0; i < p->count; i++)
		if (p->targets[i].admission.acl_changed && p->targets[i].rule->acl)
			judge_flows(s, &p->targets[i]);
	lb_admission_follow_rules(s->admission);
	lb_cluster_renew(s->cluster, s->config);
	(void)lb_ticket_secrets_read(s->secrets, lb_cluster_key_file(s->cluster));
}

/* --- both ------------------------------------------------------------------------------------- */

static void plan_fini(struct plan *p)
{
	for (size_t i = 0; i < p->count; i++) {
		struct target *t = &p->targets[i];

		for (uint32_t w = 0; t->listeners && w < p->s->workers_count; w++)
			lb_listener_free(&t->listeners[w]);
		free(t->listeners);
		lb_admission_change_fini(&t->admission);
		lb_tls_change_fini(&t->tls);
		lb_sni_free(&t->sni);
	}
	free(p->targets);
	free(p->changes);
	free(p->heirs);
	lb_config_ref_put(&p->ref);
}

static int apply(struct lb_service *s, const char *path)
{
	LB_AUTO(plan_fini) struct plan p = {.s = s};
	int err;

	p.ref = calloc(1, sizeof(*p.ref));
	if (!p.ref)
		return -ENOMEM;
	p.ref->holders = 1;
	err = load(path, &p.ref->config, NULL);
	if (err)
		return err;
	p.fresh = p.ref->config;
	err = lb_difference_find(s->first, s->config, p.fresh, on_difference, &p);
	if (!err && p.refused)
		err = -EINVAL;
	if (err)
		return err;
	err = prepare(&p);
	if (err) {
		abandon(&p);
		return err;
	}
	commit(&p);
	lb_info("reload: %s is in force: %u changes, %u rules added, %u removed", path, p.changed,
		p.added, p.removed);
	return 0;
}

int lb_apply_file(struct lb_service *s, const char *path)
{
	int err;

	lb_service_hold(s);
	s->reloads.begun++;
	lb_service_let_go(s);
	err = apply(s, path);
	if (err == -EINVAL)
		lb_err("reload: %s is not in force: everything stays as it was", path);
	else if (err)
		lb_err("reload: %s is not in force: %s; everything stays as it was", path,
		       strerror(-err));
	lb_service_hold(s);
	s->reloads.last_s = (uint64_t)time(NULL);
	s->reloads.results = s->reloads.results << 1 | !err;
	s->reloads.applied += !err;
	s->reloads.refused += !!err;
	s->reloads.generation += !err;
	lb_service_let_go(s);
	return err;
}

/* --- without doing it ------------------------------------------------------------------------- */

struct explanation {
	FILE *out;
	bool any, refused;
};

static void explain(void *arg, const struct lb_difference *d)
{
	struct explanation *e = arg;

	e->any = true;
	e->refused = e->refused || d->kind == LB_DIFFERENCE_REFUSED;
	lb_difference_print(d, e->out);
	fputc('\n', e->out);
}

int lb_apply_explain(struct lb_service *s, const char *path, FILE *out)
{
	LB_AUTO(lb_config_free) struct lb_config *config = NULL;
	struct explanation e = {.out = out};
	int err = load(path, &config, out);

	if (err)
		return err;
	/* A reload may be under way. */
	lb_service_hold(s);
	err = lb_difference_find(s->first, s->config, config, explain, &e);
	lb_service_let_go(s);
	if (!err && !e.any)
		fputs("nothing would change\n", out);
	return err ? err : e.refused ? -EINVAL : 0;
}
