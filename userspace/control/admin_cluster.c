/* SPDX-License-Identifier: MIT */
/* Decides what lbctl gets to know of the cluster. */
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "control/admin_job.h"
#include "control/cluster.h"
#include "control/service.h"

static void add_member(void *arg, const struct lb_member_view *m)
{
	struct lb_admin_job *job = arg;
	char addr[LB_ADDR_STR_MAX], hash[9];
	json_t *row;

	(void)snprintf(hash, sizeof(hash), "%08x", m->config_hash);
	row = json_pack("{s:s,s:s,s:s,s:b,s:I,s:s,s:s}", "node", m->name, "addr",
			lb_addr_format(m->addr, addr), "state", lb_cluster_state_word(m->state),
			"self", m->self, "since_ms", (json_int_t)m->since_ms, "version", m->version,
			"config", hash);
	if (row && m->rtt_us)
		json_object_set_new(row, "rtt_us", json_integer(m->rtt_us));
	lb_admin_text_add(&job->reply, row);
}

static json_t *summary(const struct lb_gossip_report *r)
{
	uint64_t dropped = r->counts.malformed + r->counts.misdirected + r->overflowed;

	for (unsigned int v = LB_SEAL_MALFORMED; v < LB_SEAL_VERDICTS; v++)
		dropped += r->opened[v];
	return json_pack("{s:b,s:i,s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:I}", "sealed", r->sealed, "alive",
			 (int)(r->states[LB_MEMBER_ALIVE] + r->states[LB_MEMBER_SUSPECT]), "dead",
			 (int)r->states[LB_MEMBER_DEAD], "slowness", (int)r->health, "suspicion_ms",
			 (json_int_t)r->suspicion_ms, "sent", (json_int_t)r->counts.sent,
			 "received", (json_int_t)r->counts.received, "dropped", (json_int_t)dropped,
			 "refutations", (json_int_t)r->counts.refutations, "twins",
			 (json_int_t)r->counts.twins);
}

/* --- limits ----------------------------------------------------------------------------------- */

/* So many are told of, those that are wanted most. */
#define ROWS_MAX 64u

struct row {
	struct lb_share_label label;
	struct lb_share_view view;
};

struct rows {
	size_t count;
	struct row all[ROWS_MAX];
};

static uint64_t weight(const struct lb_share_view *v)
{
	return v->demand + v->lent + v->borrowed;
}

static void keep_row(void *arg, const struct lb_share_view *v)
{
	struct rows *rows = arg;
	size_t i = rows->count;

	if (!weight(v))
		return;
	if (i < ROWS_MAX)
		rows->count++;
	else if (weight(&rows->all[--i].view) >= weight(v))
		return;
	for (; i && weight(&rows->all[i - 1].view) < weight(v); i--)
		rows->all[i] = rows->all[i - 1];
	rows->all[i] = (struct row){.label = *v->label, .view = *v};
}

static void set_label(json_t *o, const struct lb_share_label *label)
{
	static const uint8_t nobody[sizeof(label->addr)];
	char text[LB_ADDR_STR_MAX];
	struct lb_addr a;

	/* Others are short of it, and nobody has asked for it here. */
	if (!label->rule[0])
		return;
	json_object_set_new(o, "rule", json_string(label->rule));
	if (!memcmp(label->addr, nobody, sizeof(nobody)))
		return;
	lb_addr_from_bytes(&a, label->addr, label->port);
	if (label->kind == LB_SHARE_BACKEND_CONNECTIONS)
		json_object_set_new(o, "backend", json_string(lb_addr_format(&a, text)));
	else
		json_object_set_new(o, "client", json_string(lb_addr_format_host(&a, text)));
}

/* Of connections only nodes that count with different numbers of them can have too many. */
static double overshoot_of(const struct row *r, const struct lb_limits_report *report)
{
	const struct lb_share_limit *limit = &r->view.limit;
	double share = ((double)limit->most + limit->burst) * (double)report->excess_ppm / 1000000;

	if (r->label.kind == LB_SHARE_RATE || report->excess_ppm)
		share += (double)report->excess;
	return share;
}

static json_t *row_of(const struct row *r, const struct lb_limits_report *report)
{
	static const char *const kinds[] = {
		[LB_SHARE_RATE] = "rate",
		[LB_SHARE_CLIENT_CONNECTIONS] = "connections",
		[LB_SHARE_BACKEND_CONNECTIONS] = "connections",
	};
	const struct lb_share_view *v = &r->view;
	char key[17];
	json_t *o;

	(void)snprintf(key, sizeof(key), "%016" PRIx64, v->key);
	o = json_pack("{s:s,s:s,s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:f}", "key", key, "of",
		      kinds[r->label.kind], "limit", (json_int_t)v->limit.most, "burst",
		      (json_int_t)v->limit.burst, "demand", (double)v->demand / 1000, "share",
		      (double)v->share / 1000, "safe", (double)v->safe / 1000, "lent",
		      (double)v->lent / 1000, "borrowed", (double)v->borrowed / 1000, "overshoot",
		      overshoot_of(r, report));
	if (o && r->label.kind != LB_SHARE_RATE)
		json_object_set_new(o, "used", json_integer((json_int_t)(v->used / 1000)));
	if (o)
		set_label(o, &r->label);
	return o;
}

static void add_limits(struct lb_admin_job *job, struct lb_limits *limits)
{
	struct rows rows = {};
	struct lb_limits_report r;
	const struct lb_share_counts *n = &r.counts;

	lb_limits_look(limits, lb_clock_ns() / 1000, &r, keep_row, &rows);
	lb_admin_text_add_member(
		&job->reply, "shares",
		json_pack("{s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "nodes", (int)r.size, "keys",
			  (int)r.keys, "excess_ppm", (json_int_t)r.excess_ppm, "excess",
			  (json_int_t)r.excess, "sent", (json_int_t)n->sent, "sent_bytes",
			  (json_int_t)n->sent_bytes, "received", (json_int_t)n->received, "stale",
			  (json_int_t)n->stale + (json_int_t)n->malformed, "untracked",
			  (json_int_t)n->untracked));
	lb_admin_text_begin_list(&job->reply, "limits");
	for (size_t i = 0; i < rows.count; i++)
		lb_admin_text_add(&job->reply, row_of(&rows.all[i], &r));
	lb_admin_text_end_list(&job->reply);
}

void lb_admin_answer_cluster(struct lb_admin_job *job)
{
	struct lb_cluster *c = lb_service_cluster(job->opts->service);
	struct lb_gossip_report report;

	if (!c) {
		lb_admin_job_refuse(job, "this node is in no cluster (cluster.enabled)");
		return;
	}
	lb_admin_text_begin(&job->reply, NULL);
	lb_admin_text_begin_list(&job->reply, "members");
	lb_gossip_look(lb_cluster_gossip(c), &report, add_member, job);
	lb_admin_text_end_list(&job->reply);
	lb_admin_text_add_member(&job->reply, "cluster", summary(&report));
	add_limits(job, lb_cluster_limits(c));
	lb_admin_text_end(&job->reply);
	lb_admin_job_end(job);
}
