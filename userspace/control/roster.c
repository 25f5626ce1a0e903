/* SPDX-License-Identifier: MIT */
/* See roster.h. Must never take an address out of a pool because nobody answered for its name. */
#include "control/roster.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "control/drain.h"
#include "kernel/same_host.h"

/* After one that found no memory. */
#define RETRY_MS 1000u
/* Of a line in the log. */
#define LIST_BYTES 256

/* One entry. */
struct place {
	struct lb_roster *roster;
	struct lb_pool_entry *entry; /* the twin's until the commit; NULL: given to a successor */
	struct lb_name *name;        /* NULL: it is numeric, or the twin's .. */
	struct lb_addr addr;         /* .. numeric: its address */
	struct place *twin;          /* before the commit: the same one of the old roster */
	bool pending;                /* not looked up once */
	char cause[64];              /* of the look-up that failed */
};

struct lb_roster {
	struct lb_roster_env *env;
	const struct lb_rule *rule;
	const struct lb_rule_config *config; /* in force: the rule's */
	struct place **places;
	bool in_force;
	uint32_t count;
	struct lb_timer retry;
};

static struct lb_name *name_of(const struct place *p)
{
	return p->name || !p->twin ? p->name : p->twin->name;
}

static uint32_t addresses_of(const struct place *p, const struct lb_addr **ret)
{
	if (name_of(p))
		return lb_name_addresses(name_of(p), ret);
	*ret = &p->addr;
	return 1;
}

/* --- the pool --------------------------------------------------------------------------------- */

/* What control lends to a backend before anybody sees it. 0 or -ENOMEM. */
static int furnish(const struct lb_roster *r, struct lb_backend *b)
{
	const struct lb_roster_env *env = r->env;

	b->same_host = env->same_host && lb_same_host_covers(env->same_host, &b->addr);
	return lb_ports_open(env->ports, &b->addr, env->graft.port_min, env->graft.port_max,
			     &b->ports);
}

static int make_backend(const struct lb_roster *r, const struct place *p,
			const struct lb_addr *addr, struct lb_backend **ret)
{
	const struct lb_rule_config *config = r->config;
	bool shared = p->name && config->resolve.addresses == LB_RESOLVE_ADDRESSES_ALL;
	struct lb_backend *b;
	int err = lb_pool_new_backend(p->entry, config, addr, shared, &b);

	if (err)
		return err;
	err = furnish(r, b);
	if (err)
		lb_pool_put(&b);
	else
		*ret = b;
	return err;
}

/* A set of backends, each held. */
struct set {
	struct lb_backend **at;
	uint32_t count;
};

static struct lb_backend *find(const struct set *set, const struct place *p,
			       const struct lb_addr *addr)
{
	for (uint32_t i = 0; i < set->count; i++)
		if (set->at[i]->entry == p->entry && lb_addr_equal(&set->at[i]->addr, addr))
			return lb_pool_hold(set->at[i]);
	return lb_pool_find_left(p->entry, addr);
}

/* The one that is there already, or a new one. */
static int add(const struct lb_roster *r, const struct place *p, const struct lb_addr *addr,
	       const struct set *old, struct set *fresh)
{
	struct lb_backend *b = find(old, p, addr);
	int err = b ? 0 : make_backend(r, p, addr, &b);

	if (!err)
		fresh->at[fresh->count++] = b;
	return err;
}

/* fresh->at has room for all. */
static int fill(const struct lb_roster *r, const struct set *old, struct set *fresh)
{
	int err = 0;

	for (uint32_t i = 0; i < r->count; i++) {
		const struct lb_addr *addrs;
		uint32_t n = addresses_of(r->places[i], &addrs);

		for (uint32_t j = 0; j < n && !err; j++)
			err = add(r, r->places[i], &addrs[j], old, fresh);
	}
	return err;
}

static uint32_t count_addresses(const struct lb_roster *r)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < r->count; i++) {
		const struct lb_addr *addrs;

		n += addresses_of(r->places[i], &addrs);
	}
	return n;
}

/* Who has left is watched no more, before the last hold of the set on it goes; who came is. */
static int watch(const struct lb_roster *r, const struct set *old, const struct set *fresh)
{
	int err = 0;

	if (!r->env->health)
		return 0;
	for (uint32_t i = 0; i < old->count; i++) {
		if (!(__atomic_load_n(&old->at[i]->out, __ATOMIC_RELAXED) & LB_BACKEND_LEFT))
			continue;
		lb_health_unwatch(old->at[i]);
		lb_drain_leave(r->env->drains, old->at[i]);
	}
	for (uint32_t i = 0; i < fresh->count; i++) {
		int one = lb_health_watch(r->env->health, r->rule, fresh->at[i]);

		if (!one)
			one = lb_drain_follow(r->env->drains, r->rule, fresh->at[i]);
		err = err ? err : one;
	}
	return err;
}

static int apply(struct lb_roster *r)
{
	struct set old = {NULL, 0}, fresh = {NULL, 0};
	int err = lb_pool_snapshot(r->rule->pool, &old.at, &old.count);

	if (err)
		return err;
	fresh.at = calloc(count_addresses(r) + 1, sizeof(struct lb_backend *));
	err = fresh.at ? fill(r, &old, &fresh) : -ENOMEM;
	if (!err)
		err = lb_select_change(r->rule->select, fresh.at, fresh.count, r->config->balance);
	if (!err)
		err = watch(r, &old, &fresh);
	lb_pool_snapshot_free(&fresh.at, fresh.count);
	lb_pool_snapshot_free(&old.at, old.count);
	return err;
}

int lb_roster_apply(struct lb_roster *r)
{
	int err = apply(r);

	if (err)
		lb_timer_start(r->env->loop, &r->retry, RETRY_MS);
	return err;
}

static void on_retry(struct lb_timer *t)
{
	(void)lb_roster_apply(lb_container_of(t, struct lb_roster, retry));
}

/* --- names ------------------------------------------------------------------------------------ */

static void list_addresses(const struct place *p, char list[LIST_BYTES])
{
	const struct lb_addr *addrs;
	uint32_t n = addresses_of(p, &addrs);
	size_t at = 0;

	list[0] = '\0';
	for (uint32_t i = 0; i < n; i++) {
		char text[LB_ADDR_STR_MAX];
		size_t len = strlen(lb_addr_format(&addrs[i], text));

		if (at + len + sizeof(", and 999 more") > LIST_BYTES) {
			snprintf(list + at, LIST_BYTES - at, ", and %u more", n - i);
			return;
		}
		at += (size_t)snprintf(list + at, LIST_BYTES - at, "%s%s", i ? ", " : "", text);
	}
}

static void on_changed(struct place *p)
{
	struct lb_roster *r = p->roster;
	char list[LIST_BYTES];
	int err;

	/* Before it is in force all names come first. */
	if (!r->in_force)
		return;
	err = lb_roster_apply(r);
	list_addresses(p, list);
	if (err)
		lb_err("rule %s: backend %s is to stand for %s: %s; it is tried again",
		       r->config->name, p->entry->config.addr, list, strerror(-err));
	else
		lb_info("rule %s: backend %s stands for %s now", r->config->name,
			p->entry->config.addr, list);
}

static void on_failed(struct place *p, const char *cause)
{
	const struct lb_addr *addrs;
	uint32_t n = lb_name_addresses(p->name, &addrs);
	const char *rule = p->roster->config->name, *name = p->entry->config.addr;

	snprintf(p->cause, sizeof(p->cause), "%s", cause);
	if (n)
		lb_warn("rule %s: the address of backend %s cannot be looked up: %s; it stays as "
			"it was",
			rule, name, cause);
	else if (!p->roster->config->resolve.required || p->roster->in_force)
		lb_warn("rule %s: the address of backend %s cannot be looked up: %s; it gets no "
			"flows",
			rule, name, cause);
}

static void on_event(void *owner, enum lb_name_event event, const char *cause)
{
	struct place *p = owner;

	if (event == LB_NAME_CHANGED)
		on_changed(p);
	else if (event == LB_NAME_FAILED)
		on_failed(p, cause);
	else if (event == LB_NAME_RECOVERED)
		lb_info("rule %s: the address of backend %s can be looked up again",
			p->roster->config->name, p->entry->config.addr);
}

static void on_asked(void *owner, bool good)
{
	struct place *p = owner;
	struct lb_roster_env *env = p->roster->env;

	__atomic_fetch_add(&p->entry->lookups, 1, __ATOMIC_RELAXED);
	if (!good)
		__atomic_fetch_add(&p->entry->lookup_failures, 1, __ATOMIC_RELAXED);
	if (!p->pending)
		return;
	p->pending = false;
	if (!--env->pending && env->ready)
		env->ready(env);
}

const struct lb_names_opts lb_roster_names = {.event = on_event, .asked = on_asked};

const char *lb_roster_missing(const struct lb_roster *r, const char **cause)
{
	for (uint32_t i = 0; i < r->count && r->config->resolve.required; i++) {
		const struct lb_addr *addrs;

		if (addresses_of(r->places[i], &addrs))
			continue;
		*cause = r->places[i]->cause;
		if (!**cause)
			*cause = "it cannot be looked up";
		return r->places[i]->entry->config.addr;
	}
	return NULL;
}

uint32_t lb_roster_names_count(const struct lb_roster *r)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < r->count; i++)
		n += name_of(r->places[i]) != NULL;
	return n;
}

/* --- one after the other ---------------------------------------------------------------------- */

/* Its names and entries become the new one's; where both have looked up, the new answer counts. */
static void inherit(struct place *p)
{
	struct place *twin = p->twin;

	if (!twin)
		return;
	twin->entry = NULL;
	if (!p->name && twin->name) {
		p->name = LB_TAKE_PTR(twin->name);
		lb_name_move(p->name, p, &p->roster->config->resolve);
		memcpy(p->cause, twin->cause, sizeof(p->cause));
	}
	p->twin = NULL;
}

/* All that are in the set; those that came with it are watched already. */
static int renew_all(const struct lb_roster *r, bool changed)
{
	struct lb_backend **all = NULL;
	uint32_t count = 0;
	int err = lb_pool_snapshot(r->rule->pool, &all, &count);

	for (uint32_t i = 0; i < count; i++) {
		int one = lb_health_renew(r->env->health, r->rule, all[i], changed);

		/* Those that are to drain do when the set is applied. */
		if (!(__atomic_load_n(&all[i]->out, __ATOMIC_RELAXED) & LB_BACKEND_DRAINS))
			(void)lb_drain_end(r->env->drains, r->rule, all[i]);
		err = err ? err : one;
	}
	lb_pool_snapshot_free(&all, count);
	return err;
}

int lb_roster_commit(struct lb_roster *r, struct lb_roster **old, bool checks_changed)
{
	const struct lb_rule_config *config = r->config;
	int err, one = 0;

	for (uint32_t i = 0; i < r->count; i++) {
		bool listed = r->places[i]->twin != NULL;

		inherit(r->places[i]);
		lb_pool_settle(r->places[i]->entry, config, &config->backends[i]);
		if (!listed)
			lb_pool_list_entry(r->places[i]->entry);
	}
	r->in_force = true;
	if (r->env->health)
		one = renew_all(r, checks_changed);
	err = lb_roster_apply(r);
	/* After the change, for the entries that are gone: their backends have left. */
	lb_roster_free(old);
	return err ? err : one;
}

void lb_roster_retire(struct lb_roster *r)
{
	struct lb_pool *pool = r->rule->pool;

	/* Only this thread changes the set: it may look without the lock. */
	for (uint32_t i = 0; i < pool->count; i++)
		lb_health_unwatch(pool->backends[i]);
}

void lb_roster_empty(struct lb_roster_env *env, const struct lb_rule *rule)
{
	struct set old = {NULL, 0};

	if (lb_pool_snapshot(rule->pool, &old.at, &old.count))
		return;
	if (!lb_select_change(rule->select, NULL, 0, rule->config->balance))
		for (uint32_t i = 0; i < old.count; i++)
			lb_drain_leave(env->drains, old.at[i]);
	lb_pool_snapshot_free(&old.at, old.count);
}

/* --- life ------------------------------------------------------------------------------------- */

static void place_free(struct place **pp)
{
	struct place *p = *pp;

	if (!p)
		return;
	*pp = NULL;
	lb_name_remove(&p->name);
	if (p->pending)
		p->roster->env->pending--;
	if (p->entry && !p->twin)
		lb_pool_remove_entry(p->entry);
	free(p);
}

static bool is_same_string(const char *a, const char *b)
{
	return a && b ? !strcmp(a, b) : a == b;
}

static struct place *find_twin(const struct lb_roster *old, const struct lb_backend_config *config)
{
	for (uint32_t i = 0; old && i < old->count; i++) {
		const struct lb_backend_config *was = &old->places[i]->entry->config;

		if (is_same_string(was->addr, config->addr) &&
		    is_same_string(was->tls_name, config->tls_name))
			return old->places[i];
	}
	return NULL;
}

/* Whether what was found under <was> is what <is> asks for. */
static bool is_answer_good(const struct lb_resolve_config *was, const struct lb_resolve_config *is)
{
	return was->addresses == is->addresses && was->family == is->family;
}

static int look_up(struct place *p)
{
	struct lb_roster_env *env = p->roster->env;
	const struct lb_backend_config *config = &p->entry->config;
	int err = lb_name_add(env->names, config->host, config->port, &p->roster->config->resolve,
			      p, &p->name);

	if (err)
		return err;
	p->pending = true;
	env->pending++;
	return 0;
}

static int place_new(struct lb_roster *r, const struct lb_backend_config *config,
		     struct lb_roster *old, struct place **ret)
{
	LB_AUTO(place_free) struct place *p = calloc(1, sizeof(*p));
	int err = 0;

	if (!p)
		return -ENOMEM;
	p->roster = r;
	p->twin = find_twin(old, config);
	if (p->twin)
		p->entry = p->twin->entry;
	else
		err = lb_pool_new_entry(r->rule->pool, config, &p->entry);
	if (err)
		return err;
	if (lb_addr_parse(config->addr, &p->addr) &&
	    !(p->twin && is_answer_good(&old->config->resolve, &r->config->resolve)))
		err = look_up(p);
	if (!err)
		*ret = LB_TAKE_PTR(p);
	return err;
}

int lb_roster_new(struct lb_roster **ret, struct lb_roster_env *env, const struct lb_rule *rule,
		  const struct lb_rule_config *config, struct lb_roster *old)
{
	LB_AUTO(lb_roster_free) struct lb_roster *r = calloc(1, sizeof(*r));
	uint32_t count = (uint32_t)config->backends_count;
	int err = 0;

	if (!r)
		return -ENOMEM;
	r->env = env;
	r->rule = rule;
	r->config = config;
	lb_timer_init(&r->retry, on_retry);
	r->places = calloc(count + 1, sizeof(struct place *));
	if (!r->places)
		return -ENOMEM;
	for (uint32_t i = 0; i < count && !err; i++) {
		err = place_new(r, &config->backends[i], old, &r->places[i]);
		r->count += !err;
	}
	if (!err)
		*ret = LB_TAKE_PTR(r);
	return err;
}

void lb_roster_free(struct lb_roster **pr)
{
	struct lb_roster *r = *pr;

	if (!r)
		return;
	*pr = NULL;
	lb_timer_stop(r->env->loop, &r->retry);
	for (uint32_t i = 0; i < r->count; i++)
		place_free(&r->places[i]);
	free(r->places);
	free(r);
}
