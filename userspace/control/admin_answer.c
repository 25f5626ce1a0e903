/* SPDX-License-Identifier: MIT */
/*
 * Decides what the admin socket answers to what needs no other thread, and who answers the rest.
 * Must never change a flow or a backend itself.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/admin_job.h"
#include "control/metrics.h"
#include "control/overview.h"
#include "control/service.h"
#include "control/takeover.h"

/* A reply without a list. */
static void answer(struct lb_admin_job *job, json_t *head)
{
	if (!head) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	lb_admin_text_begin(&job->reply, head);
	lb_admin_text_end(&job->reply);
	lb_admin_job_end(job);
}

/* --- status ----------------------------------------------------------------------------------- */

static json_t *service_of(bool in_service, enum lb_why why)
{
	return json_pack("{s:b,s:s}", "in_service", in_service, "why",
			 lb_why_word(in_service ? LB_WHY_NONE : why));
}

static json_t *carriers(struct lb_service *s)
{
	struct lb_graft_table *table = lb_service_graft_table(s);
	enum lb_why sockmap = lb_service_kernel(s)->why;
	json_t *graft = service_of(table, lb_service_graft(s)->why);

	if (graft && table) {
		json_object_set_new(graft, "flows", json_integer((json_int_t)lb_service_grafts(s)));
		json_object_set_new(graft, "flows_max", json_integer(lb_graft_table_pairs(table)));
	}
	return json_pack("{s:o,s:o}", "graft", graft, "sockmap",
			 service_of(sockmap == LB_WHY_NONE, sockmap));
}

/* The daemon before us, while it drains; NULL: there is none. */
static json_t *predecessor(struct lb_service *s)
{
	const struct lb_takeover_report before = lb_service_predecessor(s);
	uint64_t now = lb_clock_ms();

	if (!before.pid)
		return NULL;
	return json_pack("{s:i,s:s,s:I,s:I}", "pid", (int)before.pid, "version", before.version,
			 "flows", (json_int_t)before.flows, "cut_in_ms",
			 (json_int_t)(before.cut_at_ms > now ? before.cut_at_ms - now : 0));
}

static json_t *head_of_status(const struct lb_admin_job *job)
{
	struct lb_service *s = job->opts->service;

	return json_pack("{s:s,s:s?,s:i,s:s,s:I,s:i,s:s,s:I,s:I,s:o,s:o*}", "version", LB_VERSION,
			 "instance", job->opts->instance, "pid", (int)getpid(), "state",
			 lb_service_is_draining(s) ? "draining" : "serving", "uptime_ms",
			 (json_int_t)(lb_clock_ms() - lb_service_start_ms(s)), "workers",
			 (int)lb_service_workers(s), "log_level",
			 lb_log_level_name(lb_log_get_level()), "flows",
			 (json_int_t)lb_service_flows(s), "access_log_dropped",
			 (json_int_t)lb_service_log_dropped(s), "carriers", carriers(s),
			 "predecessor", predecessor(s));
}

static json_t *rule_of_status(const struct lb_service *s, const struct lb_rule *rule,
			      const struct lb_counters *c)
{
	const struct lb_service_pools pools = lb_service_pools(s, rule);
	char listen[LB_ADDR_STR_MAX];
	uint64_t failed = c->ends[LB_REASON_NO_BACKEND] + c->ends[LB_REASON_CONNECT_FAILED] +
			  c->ends[LB_REASON_CONNECT_TIMEOUT] + c->ends[LB_REASON_BACKEND_LIMIT] +
			  c->ends[LB_REASON_QUEUE_FULL] + c->ends[LB_REASON_QUEUE_TIMEOUT];

	return json_pack("{s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:i,s:i}", "rule", rule->config->name,
			 "listen", lb_addr_format(&rule->config->listen, listen), "flows",
			 (json_int_t)c->active, "connections", (json_int_t)c->connections,
			 "unserved", (json_int_t)failed, "queued", (json_int_t)pools.queued,
			 "bytes_up", (json_int_t)c->bytes[0], "bytes_down", (json_int_t)c->bytes[1],
			 "backends", (int)pools.all, "backends_eligible", (int)pools.eligible);
}

static void answer_status(struct lb_admin_job *job)
{
	LB_AUTO_FREE struct lb_counters *sums = NULL;
	struct lb_service *s = job->opts->service;
	const struct lb_rule *rules;
	json_t *head = head_of_status(job);
	size_t count;

	lb_service_hold(s);
	count = lb_service_rules(s, &rules);
	sums = calloc(count + 1, sizeof(*sums));
	if (!sums || lb_service_collect(s, sums)) {
		lb_service_let_go(s);
		json_decref(head);
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	lb_admin_text_begin(&job->reply, head);
	lb_admin_text_begin_list(&job->reply, "rules");
	for (size_t i = 0; i < count; i++)
		if (rules[i].config && !rules[i].of && !lb_service_is_gone(s, i))
			lb_admin_text_add(&job->reply, rule_of_status(s, &rules[i], &sums[i]));
	lb_service_let_go(s);
	lb_admin_text_end_list(&job->reply);
	lb_admin_text_end(&job->reply);
	lb_admin_job_end(job);
}

/* --- the rest --------------------------------------------------------------------------------- */

static void answer_metrics(struct lb_admin_job *job)
{
	LB_AUTO_FREE char *page = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&page, &len);
	int err;

	if (!out) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	err = lb_metrics_render(out, job->opts->service);
	if (fclose(out) && !err)
		err = -errno;
	if (err)
		lb_admin_job_refuse(job, "the metrics could not be written");
	else
		answer(job, json_pack("{s:s%}", "metrics", page, len));
}

static void answer_overview(struct lb_admin_job *job)
{
	const struct lb_overview_opts opts = {.instance = job->opts->instance,
					      .rows_max = SIZE_MAX};

	if (lb_overview_write(&job->reply, job->opts->service, &opts))
		lb_admin_job_refuse(job, "out of memory");
	else
		lb_admin_job_end(job);
}

static void answer_log(struct lb_admin_job *job)
{
	enum lb_log_level level = job->request.level, before = lb_log_get_level();

	enum lb_log_level more = level > before ? level : before;

	/* Said while the more talkative one is in force: turning the log down is on record too. */
	lb_log_set_level(more);
	lb_log(more < LB_LOG_INFO ? more : LB_LOG_INFO, "log level: %s instead of %s, by lbctl",
	       lb_log_level_name(level), lb_log_level_name(before));
	lb_log_set_level(level);
	answer(job, json_pack("{s:s,s:s}", "level", lb_log_level_name(level), "before",
			      lb_log_level_name(before)));
}

static void answer_version(struct lb_admin_job *job)
{
	answer(job, json_pack("{s:s}", "version", LB_VERSION));
}

void lb_admin_answer(struct lb_admin_job *job)
{
	static void (*const by[])(struct lb_admin_job * job) = {
		[LB_ADMIN_STATUS] = answer_status,
		[LB_ADMIN_BACKENDS] = lb_admin_answer_backends,
		[LB_ADMIN_FLOWS] = lb_admin_answer_flows,
		[LB_ADMIN_DRAIN] = lb_admin_answer_backends,
		[LB_ADMIN_UNDRAIN] = lb_admin_answer_backends,
		[LB_ADMIN_WEIGHT] = lb_admin_answer_backends,
		[LB_ADMIN_ENABLE] = lb_admin_answer_backends,
		[LB_ADMIN_DISABLE] = lb_admin_answer_backends,
		[LB_ADMIN_KILL] = lb_admin_answer_kill,
		[LB_ADMIN_LOG] = answer_log,
		[LB_ADMIN_RELOAD] = lb_admin_answer_reload,
		[LB_ADMIN_UPGRADE] = lb_admin_answer_upgrade,
		[LB_ADMIN_METRICS] = answer_metrics,
		[LB_ADMIN_OVERVIEW] = answer_overview,
		[LB_ADMIN_CLUSTER] = lb_admin_answer_cluster,
		[LB_ADMIN_VERSION] = answer_version,
	};
	_Static_assert(LB_ARRAY_SIZE(by) == LB_ADMIN_VERB_MAX_, "every verb is answered");

	by[job->request.verb](job);
}
