/* SPDX-License-Identifier: MIT */
/*
 * `flows` and `kill`. Decides in which order flows are shown and what is said of each. One list is
 * made at a time: it may take tens of megabytes.
 *
 * A rate is what a flow has moved between two looks, over_ms apart; without over_ms it is that of
 * the flow's whole life, from one look.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "control/admin_collect.h"
#include "control/admin_job.h"
#include "flow/graft_keeper.h"
#include "flow/session.h"
#include "flow/survey.h"

/* What a flow had moved at the first look. */
struct earlier {
	uint64_t id, bytes[2];
};

struct listing {
	struct lb_collection *collection;
	struct earlier *earlier;
	size_t earlier_count;
	uint64_t looked_ns; /* the first time, when there is a second one */
	struct lb_timer timer;
	struct lb_admin_job *job;
};

struct line {
	const struct lb_flow_snapshot *flow;
	uint64_t rate[2]; /* bytes per second */
	uint64_t key;     /* to sort by */
};

static void drop(struct lb_admin_job *job)
{
	struct listing *l = job->work;

	lb_timer_stop(job->loop, &l->timer);
	lb_collection_free(&l->collection);
	free(l->earlier);
	free(l);
}

/* --- rates and order -------------------------------------------------------------------------- */

static int compare_earlier(const void *key, const void *item)
{
	const uint64_t *id = key;
	const struct earlier *e = item;

	return (*id > e->id) - (*id < e->id);
}

static uint64_t per_second(uint64_t bytes, uint64_t ns)
{
	return ns ? (uint64_t)((double)bytes * 1e9 / (double)ns) : 0;
}

static void rate_of(const struct listing *l, uint64_t now_ns, struct line *line)
{
	const struct lb_flow_snapshot *f = line->flow;
	const struct earlier *e = l->earlier ? bsearch(&f->id, l->earlier, l->earlier_count,
						       sizeof(*l->earlier), compare_earlier)
					     : NULL;
	/* One that has begun since is as old as it is. */
	uint64_t since = e ? l->looked_ns : f->accept_ns;

	for (unsigned int d = 0; d < 2; d++)
		line->rate[d] = per_second(f->bytes[d] - (e ? e->bytes[d] : 0), now_ns - since);
}

static uint64_t key_of(enum lb_admin_sort sort, uint64_t now_ns, const struct line *line)
{
	const struct lb_flow_snapshot *f = line->flow;

	switch (sort) {
	case LB_ADMIN_SORT_IDLE:
		return now_ns - f->last_ns;
	case LB_ADMIN_SORT_BYTES:
		return f->bytes[0] + f->bytes[1];
	case LB_ADMIN_SORT_RATE:
		return line->rate[0] + line->rate[1];
	case LB_ADMIN_SORT_RTT:
		return f->has_legs ? (uint64_t)f->leg[0].rtt_us + f->leg[1].rtt_us : 0;
	case LB_ADMIN_SORT_BACKLOG:
		return f->backlog[0] + f->backlog[1];
	case LB_ADMIN_SORT_AGE:
		break;
	}
	return now_ns - f->accept_ns;
}

static int compare_lines(const void *a, const void *b)
{
	const struct line *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? 1 : -1;
	return (x->flow->id > y->flow->id) - (x->flow->id < y->flow->id);
}

/* --- writing ---------------------------------------------------------------------------------- */

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)n);
}

static const char *state_word(const struct lb_flow_snapshot *f)
{
	static const char *const words[] = {
		[LB_FLOW_OPENING] = "opening",
		[LB_FLOW_QUEUED] = "queued",
		[LB_FLOW_CONNECTING] = "connecting",
		[LB_FLOW_CARRIED] = "carried",
	};

	return words[f->state];
}

static json_t *json_of(const struct line *line, uint64_t now_ns)
{
	const struct lb_flow_snapshot *f = line->flow;
	char id[17], client[LB_ADDR_STR_MAX];
	bool legs = f->has_legs;

	snprintf(id, sizeof(id), "%016llx", (unsigned long long)f->id);
	return json_pack(
		"{s:s,s:s,s:s,s:s?,s:s?,s:s,s:s?,s:s?,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:o,s:o,s:o,s:o,"
		"s:o,s:o}",
		"id", id, "client", lb_addr_format(&f->client, client), "rule", f->rule, "of",
		f->of, "backend", f->backend, "state", state_word(f), "carrier",
		f->carrier ? f->carrier->name : NULL, "why",
		f->carrier ? lb_why_word(f->why) : NULL, "worker", (int)f->worker, "age_ms",
		(json_int_t)((now_ns - f->accept_ns) / 1000000), "idle_ms",
		(json_int_t)((now_ns - f->last_ns) / 1000000), "bytes_up", (json_int_t)f->bytes[0],
		"bytes_down", (json_int_t)f->bytes[1], "rate_up", (json_int_t)line->rate[0],
		"rate_down", (json_int_t)line->rate[1], "backlog_up",
		f->carrier ? number(f->backlog[0]) : json_null(), "backlog_down",
		f->carrier ? number(f->backlog[1]) : json_null(), "rtt_client_us",
		legs ? number(f->leg[0].rtt_us) : json_null(), "rtt_backend_us",
		legs ? number(f->leg[1].rtt_us) : json_null(), "retransmissions_client",
		legs ? number(f->leg[0].retransmissions) : json_null(), "retransmissions_backend",
		legs ? number(f->leg[1].retransmissions) : json_null());
}

static void write_lines(struct lb_admin_job *job, const struct line *lines, size_t matched,
			uint64_t missing, uint64_t now_ns)
{
	size_t shown = matched < job->request.limit ? matched : job->request.limit;
	json_int_t all = (json_int_t)matched + (json_int_t)missing;

	lb_admin_text_begin(&job->reply,
			    json_pack("{s:I,s:I,s:I}", "matched", all, "shown", (json_int_t)shown,
				      "over_ms", (json_int_t)job->request.over_ms));
	lb_admin_text_begin_list(&job->reply, "flows");
	for (size_t i = 0; i < shown && !job->reply.failed; i++)
		lb_admin_text_add(&job->reply, json_of(&lines[i], now_ns));
	lb_admin_text_end_list(&job->reply);
	lb_admin_text_end(&job->reply);
}

/* What happened after the last look was taken is later than a worker's clock said. */
static uint64_t latest(struct lb_flow_snapshot *const *flows, size_t count)
{
	uint64_t now = lb_clock_ns();

	for (size_t i = 0; i < count; i++)
		if (flows[i]->last_ns > now)
			now = flows[i]->last_ns;
	return now;
}

static void on_collected(struct lb_admin_job *job)
{
	struct listing *l = job->work;
	struct lb_flow_snapshot **flows;
	struct line *lines;
	uint64_t missing, now;
	size_t count;

	if (lb_collection_flows(l->collection, &flows, &count, &missing)) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	lines = calloc(count + 1, sizeof(*lines));
	if (!lines) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	now = latest(flows, count);
	for (size_t i = 0; i < count; i++) {
		lines[i].flow = flows[i];
		rate_of(l, now, &lines[i]);
		lines[i].key = key_of(job->request.sort, now, &lines[i]);
	}
	qsort(lines, count, sizeof(*lines), compare_lines);
	write_lines(job, lines, count, missing, now);
	free(lines);
	lb_admin_job_end(job);
}

/* --- looking ---------------------------------------------------------------------------------- */

static void look(struct lb_admin_job *job, bool legs, void (*next)(struct lb_admin_job *job))
{
	struct listing *l = job->work;

	if (lb_admin_collect(&l->collection, job, legs, next))
		lb_admin_job_refuse(job, "out of memory");
}

static void on_over(struct lb_timer *t)
{
	struct listing *l = lb_container_of(t, struct listing, timer);

	look(l->job, true, on_collected);
}

static void on_first_look(struct lb_admin_job *job)
{
	struct listing *l = job->work;
	struct lb_flow_snapshot **flows;
	uint64_t missing;

	if (lb_collection_flows(l->collection, &flows, &l->earlier_count, &missing)) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	l->earlier = calloc(l->earlier_count + 1, sizeof(*l->earlier));
	if (!l->earlier) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	for (size_t i = 0; i < l->earlier_count; i++)
		l->earlier[i] = (struct earlier){.id = flows[i]->id,
						 .bytes = {flows[i]->bytes[0], flows[i]->bytes[1]}};
	l->looked_ns = lb_clock_ns();
	lb_collection_free(&l->collection);
	lb_timer_start(job->loop, &l->timer, job->request.over_ms);
}

void lb_admin_answer_flows(struct lb_admin_job *job)
{
	struct listing *l = calloc(1, sizeof(*l));

	if (!l) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	l->job = job;
	lb_timer_init(&l->timer, on_over);
	job->work = l;
	job->drop = drop;
	if (job->request.over_ms)
		look(job, false, on_first_look);
	else
		look(job, true, on_collected);
}

/* --- kill ------------------------------------------------------------------------------------- */

struct hunt {
	struct lb_admin_job *job;
	struct lb_survey *survey;
	uint32_t found; /* atomic */
};

static unsigned int visit(void *arg, const struct lb_survey_flow *f)
{
	struct hunt *h = arg;
	uint64_t id =
		f->session ? lb_snapshot_id(f->session) : lb_snapshot_graft_id(f->env, f->pair);

	if (id != h->job->request.flow)
		return 1;
	__atomic_fetch_add(&h->found, 1, __ATOMIC_RELAXED);
	if (f->session)
		lb_session_close(f->session, LB_REASON_KILLED, false);
	else
		lb_graft_keeper_end(f->env->keeper, f->pair, LB_REASON_KILLED);
	return LB_SURVEY_PRICE_OF_ASKING;
}

static void done(void *arg)
{
	struct hunt *h = arg;

	lb_admin_job_back(h->job);
}

static void on_hunted(struct lb_admin_job *job)
{
	const struct hunt *h = job->work;

	if (!h->found) {
		lb_admin_job_refuse(job, "no such flow, or it has just ended");
		return;
	}
	lb_info("flow %016llx: killed by lbctl", (unsigned long long)job->request.flow);
	lb_admin_text_begin(&job->reply, NULL);
	lb_admin_text_end(&job->reply);
	lb_admin_job_end(job);
}

static void drop_hunt(struct lb_admin_job *job)
{
	struct hunt *h = job->work;

	lb_survey_free(&h->survey);
	free(h);
}

void lb_admin_answer_kill(struct lb_admin_job *job)
{
	struct hunt *h = calloc(1, sizeof(*h));
	const struct lb_survey_opts opts = {.visit = visit, .done = done, .arg = h};

	if (!h) {
		lb_admin_job_refuse(job, "out of memory");
		return;
	}
	h->job = job;
	job->work = h;
	job->drop = drop_hunt;
	lb_admin_job_leave(job, on_hunted);
	if (lb_survey_start(&h->survey, job->opts->envs, job->opts->envs_count, &opts) &&
	    !h->survey) {
		lb_admin_job_stay(job);
		lb_admin_job_refuse(job, "out of memory");
	}
}
