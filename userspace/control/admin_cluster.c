/* SPDX-License-Identifier: MIT */
/* Decides what lbctl gets to know of the cluster. */
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
	uint64_t dropped = r->counts.malformed + r->counts.misdirected;

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
	lb_admin_text_end(&job->reply);
	lb_admin_job_end(job);
}
