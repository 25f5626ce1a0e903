/* SPDX-License-Identifier: MIT */
/* What the service tells of itself. See service.h. Must never change anything. */
#include "control/access_log.h"
#include "control/admission.h"
#include "control/service_parts.h"
#include "flow/select.h"
#include "flow/sockmap_slots.h"
#include "worker.h"

void lb_service_hold(struct lb_service *s)
{
	pthread_mutex_lock(&s->lock);
}

void lb_service_let_go(struct lb_service *s)
{
	pthread_mutex_unlock(&s->lock);
}

const char *lb_service_path(const struct lb_service *s)
{
	return s->first->path;
}

struct lb_reload_report lb_service_reloads(struct lb_service *s)
{
	struct lb_reload_report report;

	pthread_mutex_lock(&s->lock);
	report = s->reloads;
	pthread_mutex_unlock(&s->lock);
	return report;
}

void lb_service_set_predecessor(struct lb_service *s, const struct lb_takeover *before)
{
	pthread_mutex_lock(&s->lock);
	s->before = lb_takeover_report(before);
	pthread_mutex_unlock(&s->lock);
}

struct lb_takeover_report lb_service_predecessor(struct lb_service *s)
{
	struct lb_takeover_report report;

	pthread_mutex_lock(&s->lock);
	report = s->before;
	pthread_mutex_unlock(&s->lock);
	return report;
}

bool lb_service_is_gone(const struct lb_service *s, size_t rule)
{
	return s->states[rule].gone_ms;
}

bool lb_service_is_draining(const struct lb_service *s)
{
	return __atomic_load_n(&s->draining, __ATOMIC_RELAXED);
}

bool lb_service_is_ready(const struct lb_service *s)
{
	return __atomic_load_n(&s->up, __ATOMIC_RELAXED) && !lb_service_is_draining(s);
}

uint64_t lb_service_start_ms(const struct lb_service *s)
{
	return s->start_ms;
}

size_t lb_service_rules(const struct lb_service *s, const struct lb_rule **rules)
{
	*rules = s->rules;
	return s->rules_count;
}

struct lb_service_pools lb_service_pools(const struct lb_service *s, const struct lb_rule *rule)
{
	struct lb_service_pools sum = {.queued = lb_select_waiting(rule->select)};

	lb_pool_count(rule->pool, &sum.all, &sum.eligible);
	for (size_t i = 0; rule->config->sni_count && i < s->rules_count; i++) {
		const struct lb_rule *route = &s->rules[i];
		uint32_t all, eligible;

		if (route->of != rule || !route->config || lb_service_is_gone(s, i))
			continue;
		lb_pool_count(route->pool, &all, &eligible);
		sum.all += all;
		sum.eligible += eligible;
		sum.queued += lb_select_waiting(route->select);
	}
	return sum;
}

struct lb_buckets *lb_service_buckets(const struct lb_service *s)
{
	return s->buckets;
}

uint32_t lb_service_workers(const struct lb_service *s)
{
	return s->workers_count;
}

const struct lb_kernel_report *lb_service_kernel(const struct lb_service *s)
{
	return &s->kernel_report;
}

const struct lb_graft_table_report *lb_service_graft(const struct lb_service *s)
{
	return &s->graft_report;
}

struct lb_graft_table *lb_service_graft_table(const struct lb_service *s)
{
	return s->graft_table;
}

uint64_t lb_service_sockmap_flows(const struct lb_service *s, uint64_t *max)
{
	*max = s->slots ? lb_sockmap_slots_count(s->slots) : 0;
	return s->slots ? lb_sockmap_slots_used(s->slots) : 0;
}

uint64_t lb_service_grafts(const struct lb_service *s)
{
	return __atomic_load_n(&s->limits.grafts, __ATOMIC_RELAXED);
}

struct lb_admit *lb_service_admit(const struct lb_service *s)
{
	return lb_admission_admit(s->admission);
}

struct lb_cluster *lb_service_cluster(const struct lb_service *s)
{
	return s->cluster;
}

const struct lb_same_host *lb_service_same_host(const struct lb_service *s)
{
	return s->same_host;
}

uint64_t lb_service_log_dropped(const struct lb_service *s)
{
	return s->access_log ? lb_access_log_dropped(s->access_log) : 0;
}

int lb_service_collect(struct lb_service *s, struct lb_counters *sums)
{
	for (size_t i = 0; s->before_counters && i < s->rules_count; i++)
		lb_account_add(&sums[i], &s->before_counters[i]);
	for (uint32_t i = 0; i < s->workers_count; i++) {
		int err = lb_worker_collect(s->workers[i], sums);

		if (err)
			return err;
	}
	return 0;
}
