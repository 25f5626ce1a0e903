/* SPDX-License-Identifier: MIT */
/* See service.h. Decides the order in which things come up and go down, and nothing about flows. */
#include "control/service_parts.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include <lb/limits.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/access_log.h"
#include "control/admin.h"
#include "control/admission.h"
#include "control/backends.h"
#include "control/bandwidth_limit.h"
#include "control/cluster.h"
#include "control/descriptors.h"
#include "control/exporter.h"
#include "control/instance.h"
#include "control/same_host.h"
#include "control/takeover.h"
#include "control/takeover_state.h"
#include "control/ticket_secrets.h"
#include "control/tls.h"
#include "flow/bandwidth_limit.h"
#include "flow/client_connection_limit.h"
#include "flow/grafts.h"
#include "flow/sni.h"
#include "flow/sockmap_slots.h"
#include "kernel/graft_table.h"
#include "worker.h"

/* --- limits ----------------------------------------------------------------------------------- */

static uint32_t count_cores(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 1 : (uint32_t)CPU_COUNT(&set);
}

/*
 * Every flow needs two descriptors; the rest (listeners, loops, rings, health checks, pipes in use)
 * gets a reserve. Pipes have a fallback, so they need no guarantee.
 */
void lb_service_set_limits(struct lb_service *s)
{
	/* Rules that are gone and routes have no listeners. */
	uint64_t reserve = 64 + s->workers_count * (8 + s->config->rules_count) +
			   lb_backends_descriptors(s->backends, s->rules, s->rules_count);
	uint64_t all = lb_descriptors_raise();

	__atomic_store_n(&s->limits.sessions_max, all > reserve + 2 ? (all - reserve) / 2 : 1,
			 __ATOMIC_RELAXED);
}

/* --- coming up -------------------------------------------------------------------------------- */

void lb_config_ref_put(struct lb_config_ref **pr)
{
	struct lb_config_ref *r = *pr;

	*pr = NULL;
	if (!r || --r->holders)
		return;
	lb_config_free(&r->config);
	free(r);
}

int lb_service_build_rule(struct lb_rule *rule, const struct lb_rule_config *config)
{
	uint32_t clients = config->client_connection_limit;
	int err = lb_backends_build(rule, config);

	if (!err)
		err = lb_tls_build(rule, config);
	if (err)
		return err;
	if (clients)
		err = lb_client_connection_limit_new(&rule->client_connection_limit, clients);
	if (!err)
		err = lb_admission_build(rule, config);
	if (err)
		lb_err("rule %s: %s", config->name, strerror(-err));
	return err;
}

void lb_service_free_rule(struct lb_service *s, struct lb_rule *rule)
{
	lb_backends_discard(rule);
	lb_client_connection_limit_free(&rule->client_connection_limit);
	lb_bandwidth_limit_free(&rule->bandwidth_limit);
	lb_admission_unbuild(rule);
	lb_tls_release(rule);
	lb_sni_free(&rule->sni);
	lb_config_ref_put(&s->states[rule->index].source);
	s->states[rule->index] = (struct lb_rule_state){0};
	if (s->before_counters)
		s->before_counters[rule->index] = (struct lb_counters){0};
	*rule = (struct lb_rule){.index = rule->index, .secrets = rule->secrets};
}

int lb_service_build_routes(const struct lb_config *config, lb_service_place_fn place, void *arg)
{
	LB_AUTO_FREE const struct lb_rule **routes =
		calloc(config->routes_count + 1, sizeof(const struct lb_rule *));
	size_t next = 0;
	int err = routes ? 0 : -ENOMEM;
	struct lb_sni **sni;

	for (size_t i = 0; i < config->routes_count && !err; i++)
		routes[i] = place(arg, config->rules_count + i, &sni);
	for (size_t i = 0; i < config->rules_count && !err; i++) {
		(void)place(arg, i, &sni);
		err = lb_sni_new(sni, &config->rules[i], routes + next);
		next += config->rules[i].sni_count;
	}
	return err;
}

static const struct lb_rule *place_of(void *arg, size_t i, struct lb_sni ***sni)
{
	struct lb_service *s = arg;

	*sni = &s->rules[i].sni;
	return &s->rules[i];
}

static int build_rules(struct lb_service *s)
{
	const struct lb_config *config = s->config;
	struct lb_backends_opts opts = {.graft = config->graft, .rules_max = LB_RULES_MAX};
	int err = lb_ports_shelf_new(&s->ports);

	/* Rules that are not there cost no memory. */
	s->rules = calloc(LB_RULES_MAX, sizeof(*s->rules));
	s->states = calloc(LB_RULES_MAX, sizeof(*s->states));
	if (err || !s->rules || !s->states)
		return -ENOMEM;
	opts.rules = s->rules;
	opts.ports = s->ports;
	err = lb_tls_secrets_new(&s->secrets);
	if (!err)
		err = lb_backends_new(&s->backends, &opts);
	for (size_t i = 0; i < lb_config_places(config) && !err; i++) {
		const struct lb_rule_config *place = lb_config_place(config, i);

		s->rules[i].config = place;
		s->rules[i].index = (uint32_t)i;
		s->rules[i].secrets = s->secrets;
		s->rules[i].id = ++s->last_id;
		s->rules[i].of = place->of ? &s->rules[place->of - config->rules] : NULL;
		s->rules_count++;
		err = lb_service_build_rule(&s->rules[i], place);
	}
	err = err ? err : lb_service_build_routes(config, place_of, s);
	return err ? err : lb_backends_resolve(s->backends, s->rules, s->rules_count);
}

static bool wants_kernel(const struct lb_config *config)
{
	for (size_t i = 0; i < config->rules_count; i++)
		if (config->rules[i].acceleration != LB_ACCELERATION_RELAY)
			return true;
	return false;
}

static uint32_t count_buckets(const struct lb_service *s)
{
	return lb_bandwidth_limit_count(s->rules, s->rules_count, s->limits.sessions_max);
}

/* Without the kernel's help the service goes on in userspace: one line says so and why. */
static void open_kernel(struct lb_service *s, const char *instance)
{
	struct lb_kernel_report *report = &s->kernel_report;
	const struct lb_kernel_opts opts = {
		.instance = instance,
		.pairs = s->limits.sessions_max < LB_SOCKMAP_PAIRS_MAX
				 ? (uint32_t)s->limits.sessions_max
				 : LB_SOCKMAP_PAIRS_MAX,
		.workers = s->workers_count,
		.buckets = count_buckets(s),
	};

	report->why = LB_WHY_CONFIGURED;
	if (!wants_kernel(s->config)) {
		/* What an earlier daemon left when it died would be nobody's. */
		(void)lb_kernel_unload(instance, NULL, report->pin_note, sizeof(report->pin_note));
		return;
	}
	if (!lb_kernel_open(&s->kernel, &opts, report))
		lb_info("sockmap is in service: %u flows, self-test passed in %.0f ms, pins: %s",
			lb_kernel_pairs(s->kernel), report->selftest_ms,
			*report->pins ? report->pins : report->pin_note);
}

bool lb_service_may_graft(const struct lb_rule_config *rule)
{
	return rule->acceleration == LB_ACCELERATION_AUTO ||
	       rule->acceleration == LB_ACCELERATION_GRAFT;
}

static bool wants_graft(const struct lb_config *config)
{
	for (size_t i = 0; i < config->rules_count; i++)
		if (lb_service_may_graft(&config->rules[i]))
			return true;
	return false;
}

static int attach_graft(struct lb_service *s)
{
	char names[256];
	int err = lb_graft_table_attach(s->graft_table, s->config->interfaces,
					s->config->interfaces_count);

	if (!err)
		err = lb_grafts_new(&s->grafts, s->graft_table, &s->config->graft);
	if (err) {
		s->graft_report.why = LB_WHY_LOAD;
		snprintf(s->graft_report.detail, sizeof(s->graft_report.detail),
			 "it cannot be attached: %s", strerror(-err));
		lb_graft_table_close(s->graft_table, s->graft_report.adopted);
		s->graft_table = NULL;
		return err;
	}
	lb_info("graft is in service: %u flows, on %s, pins: %s",
		lb_graft_table_pairs(s->graft_table),
		lb_graft_table_attached(s->graft_table, names, sizeof(names)),
		*s->graft_report.pins ? s->graft_report.pins : s->graft_report.pin_note);
	return 0;
}

/* Also when no rule wants it: flows that an earlier daemon grafted go on. */
static void open_graft(struct lb_service *s, const char *instance)
{
	struct lb_graft_table_report *report = &s->graft_report;
	const struct lb_graft_table_opts opts = {
		.instance = instance,
		.pairs = s->config->graft.max_flows,
		.create = wants_graft(s->config),
	};

	if (!lb_graft_table_open(&s->graft_table, &opts, report))
		(void)attach_graft(s);
}

/* What is missing of what the rules want, in one line when it is for one reason. */
static void tell_missing(const struct lb_service *s)
{
	const struct lb_graft_table_report *graft = &s->graft_report;
	const struct lb_kernel_report *sockmap = &s->kernel_report;
	bool no_sockmap = wants_kernel(s->config) && !s->kernel;
	bool no_graft = wants_graft(s->config) && !s->graft_table;
	bool both = no_sockmap && no_graft;

	if (both && graft->why == sockmap->why)
		lb_warn("graft and sockmap are not in service (%s): %s; userspace carries all "
			"flows",
			lb_why_word(graft->why), sockmap->detail);
	else if (both)
		lb_warn("graft is not in service (%s): %s; nor is sockmap (%s): %s; userspace "
			"carries all flows",
			lb_why_word(graft->why), graft->detail, lb_why_word(sockmap->why),
			sockmap->detail);
	else if (no_graft)
		lb_warn("graft is not in service (%s): %s", lb_why_word(graft->why), graft->detail);
	else if (no_sockmap)
		lb_warn("sockmap is not in service (%s): %s%s", lb_why_word(sockmap->why),
			sockmap->detail, s->graft_table ? "" : "; userspace carries all flows");
}

static void write_log_line(void *arg, uint32_t worker, const char *line, size_t len)
{
	lb_access_log_write(arg, worker, line, len);
}

static int open_log(struct lb_service *s)
{
	const struct lb_access_log_config *config = &s->config->access_log;
	const struct lb_access_log_opts opts = {
		.path = config->path,
		.facility = config->facility,
		.workers = s->workers_count,
	};
	int err;

	if (!opts.path)
		return 0;
	err = lb_access_log_open(&s->access_log, &opts);
	if (err)
		lb_err("access_log: %s: %s", opts.path, strerror(-err));
	return err;
}

void lb_service_reopen_log(struct lb_service *s)
{
	/* A reload changes nothing of it. */
	const char *path = s->first->access_log.path;
	int err = lb_access_log_reopen(s->access_log);

	if (err == -ENOTSUP)
		lb_info("access_log: there is no file that could be opened anew");
	else if (err)
		lb_err("access_log: %s cannot be opened anew: %s; the old one stays in use", path,
		       strerror(-err));
	else
		lb_info("access_log: %s: opened anew", path);
}

static int build_workers(struct lb_service *s)
{
	s->workers = calloc(s->workers_count, sizeof(struct lb_worker *));
	s->envs = calloc(s->workers_count, sizeof(struct lb_flow_env *));
	if (!s->workers || !s->envs ||
	    (s->kernel && lb_sockmap_slots_new(&s->slots, lb_kernel_pairs(s->kernel))))
		return -ENOMEM;
	for (uint32_t i = 0; i < s->workers_count; i++) {
		const struct lb_worker_opts opts = {
			.index = i,
			.rules = s->rules,
			.rules_count = s->rules_count,
			.rules_max = LB_RULES_MAX,
			.kernel = s->kernel,
			.slots = s->slots,
			.kernel_why = s->kernel_report.why,
			.grafts = s->grafts,
			.grafts_shared = s->takeover,
			.graft_why = s->graft_report.why,
			.ports = s->ports,
			.limits = &s->limits,
			.log_format = s->config->access_log.format,
			.log_line = s->access_log ? write_log_line : NULL,
			.log_arg = s->access_log,
		};
		int err = lb_worker_new(&s->workers[i], &opts);

		if (err) {
			lb_err("worker %u: %s", i, strerror(-err));
			return err;
		}
		s->envs[i] = lb_worker_env(s->workers[i]);
	}
	if (lb_worker_adopted(s->workers[0]))
		lb_info("%u grafted flows of an earlier run go on",
			lb_worker_adopted(s->workers[0]));
	return 0;
}

static int run_workers(struct lb_service *s)
{
	for (uint32_t i = 0; i < s->workers_count; i++) {
		int err = lb_worker_start(s->workers[i]);

		if (err) {
			lb_err("worker %u: cannot start its thread: %s", i, strerror(-err));
			return err;
		}
	}
	return 0;
}

static int bring_up(struct lb_service *s, const struct lb_service_opts *opts)
{
	const char *instance = opts->instance;
	int err;

	err = lb_service_lock(s);
	if (err)
		return err;
	err = build_rules(s);
	if (err)
		return err;
	lb_service_set_limits(s);
	/* What follows touches what is in service. */
	if (s->takeover)
		err = lb_takeover_freeze(s->takeover);
	if (err)
		return err;
	open_kernel(s, instance);
	open_graft(s, instance);
	tell_missing(s);
	lb_tls_open_ktls(&s->limits, s->config);
	err = lb_bandwidth_limit_open(&s->buckets, s->rules, s->rules_count, s->kernel,
				      count_buckets(s));
	if (err) {
		lb_err("bandwidth_limit: %s", strerror(-err));
		return err;
	}
	err = lb_admission_new(&s->admission, &(struct lb_admission_opts){
						      .instance = instance,
						      .config = s->config,
						      .rules = s->rules,
						      .rules_count = s->rules_count,
						      .service = s,
						      .beside = s->takeover,
					      });
	if (err)
		return err;
	s->same_host = lb_same_host_apply(s->rules, s->rules_count, &s->limits, instance);
	err = open_log(s);
	if (err)
		return err;
	err = build_workers(s);
	if (err)
		return err;
	err = lb_service_listen(s, opts->listen_fds);
	/* Else when the daemon before us has stopped. */
	if (!err && !s->takeover)
		err = lb_service_accept(s);
	if (err)
		return err;
	err = lb_cluster_open(&s->cluster, s->config, !s->takeover);
	for (size_t i = 0; i < s->rules_count && !err; i++)
		err = lb_admission_share(&s->rules[i], s->rules[i].config,
					 lb_cluster_limits(s->cluster));
	if (!err)
		err = lb_ticket_secrets_read(s->secrets, lb_cluster_key_file(s->cluster));
	if (err)
		return err;
	err = lb_kernel_drop_privileges();
	if (err) {
		lb_err("cannot drop privileges: %s", strerror(-err));
		return err;
	}
	/* Threads inherit what the main thread still has: all of them start after the drop. */
	err = lb_access_log_start(s->access_log);
	if (err) {
		lb_err("access_log: cannot start its thread: %s", strerror(-err));
		return err;
	}
	err = lb_service_prepare_exporter(s);
	if (err)
		return err;
	err = lb_admission_start(s->admission);
	if (err)
		return err;
	err = run_workers(s);
	if (!err)
		err = lb_backends_start(s->backends, s->same_host, lb_cluster_opinions(s->cluster),
					s->workers, s->workers_count);
	if (!err)
		err = lb_service_open_admin(s);
	if (!err && s->takeover)
		err = lb_service_commit(s);
	if (err)
		return err;
	/* The daemon before us has let go of the port, and of the clients: nothing may fail now. */
	err = lb_cluster_start(s->cluster);
	return s->takeover ? 0 : err;
}

int lb_service_start(struct lb_service **ret, const struct lb_config *config,
		     const struct lb_service_opts *opts)
{
	LB_AUTO(lb_service_stop) struct lb_service *s = calloc(1, sizeof(*s));
	int err;

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	s->first = s->config = config;
	s->reloads.generation = 1;
	s->start_ms = lb_clock_ms();
	s->name = opts->instance;
	s->takeover = opts->takeover;
	s->metrics_fd = -1;
	lb_service_look_at_self(s, opts->argv);
	s->workers_count = config->workers ? config->workers : count_cores();
	if (s->workers_count > LB_WORKERS_MAX)
		s->workers_count = LB_WORKERS_MAX;
	err = bring_up(s, opts);
	if (err)
		return err;
	s->takeover = NULL;
	__atomic_store_n(&s->up, true, __ATOMIC_RELAXED);
	*ret = LB_TAKE_PTR(s);
	return 0;
}

/* --- going down ------------------------------------------------------------------------------- */

uint64_t lb_service_flows(const struct lb_service *s)
{
	return __atomic_load_n(&s->limits.sessions, __ATOMIC_RELAXED) +
	       __atomic_load_n(&s->limits.grafts, __ATOMIC_RELAXED);
}

void lb_service_drain(struct lb_service *s)
{
	__atomic_store_n(&s->draining, true, __ATOMIC_RELAXED);
	for (uint32_t i = 0; i < s->workers_count; i++)
		lb_worker_drain(s->workers[i]);
}

uint64_t lb_service_drain_step(struct lb_service *s, uint64_t elapsed_ms)
{
	for (size_t r = 0; r < s->rules_count; r++) {
		if (!s->rules[r].config || s->states[r].cut ||
		    elapsed_ms < s->rules[r].config->timeouts.drain_ms)
			continue;
		/* Without memory for it: at the next step. */
		s->states[r].cut =
			!lb_workers_cut(s->workers, s->workers_count,
					LB_FLOWS_OF_RULE(s->rules[r].id), LB_REASON_DRAINED);
	}
	return lb_service_flows(s);
}

void lb_service_stop(struct lb_service **ps)
{
	struct lb_service *s = *ps;

	if (!s)
		return;
	*ps = NULL;
	lb_service_halt(s);
	lb_exporter_close(&s->exporter);
	for (size_t i = 0; i < s->rules_count; i++)
		lb_admission_share_connections(&s->rules[i], NULL, NULL);
	lb_cluster_close(&s->cluster);
	lb_admission_free(&s->admission);
	lb_service_close_held(s);
	for (uint32_t i = 0; s->workers && i < s->workers_count; i++)
		lb_worker_free(&s->workers[i]);
	free(s->workers);
	free(s->envs);
	lb_access_log_close(&s->access_log);
	lb_grafts_free(&s->grafts);
	/* A start that failed must not cost an earlier daemon's flows. */
	lb_graft_table_close(s->graft_table, s->left || (!s->up && s->graft_report.adopted));
	lb_same_host_close(s->same_host);
	lb_sockmap_slots_free(&s->slots);
	lb_kernel_close(s->kernel);
	lb_backends_free(&s->backends);
	for (size_t i = 0; i < s->rules_count; i++)
		lb_service_free_rule(s, &s->rules[i]);
	free(s->rules);
	free(s->states);
	lb_tls_secrets_free(&s->secrets);
	lb_buckets_free(&s->buckets);
	lb_ports_shelf_free(&s->ports);
	lb_instance_unlock(&s->instance);
	lb_config_ref_put(&s->source);
	lb_takeover_state_fini(s);
	lb_cleanup_close(&s->metrics_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

/* --- changes ---------------------------------------------------------------------------------- */

int lb_service_change_bandwidth(struct lb_service *s, size_t rule,
				const struct lb_bandwidth_limit_config *config)
{
	struct lb_bandwidth_limit *limit = s->rules[rule].bandwidth_limit;

	if (!limit)
		return -ENOENT;
	lb_bandwidth_limit_change(limit, config, lb_clock_ns());
	return lb_workers_look_again(s->workers, s->workers_count, &s->rules[rule]);
}
