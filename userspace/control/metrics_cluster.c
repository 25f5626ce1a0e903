/* SPDX-License-Identifier: MIT */
/* What the cluster looks like from here, for Prometheus. See cluster.h. */
#include <inttypes.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "control/cluster.h"
#include "control/metrics_text.h"

static const char *const state_words[] = {
	[LB_MEMBER_ALIVE] = "alive",
	[LB_MEMBER_SUSPECT] = "suspect",
	[LB_MEMBER_DEAD] = "dead",
	[LB_MEMBER_LEFT] = "left",
};

const char *lb_cluster_state_word(enum lb_member_state state)
{
	return state_words[state];
}

static void print_counter(FILE *out, const char *name, const char *help, uint64_t value)
{
	lb_metrics_text_head(out, name, "counter", help);
	fprintf(out, "%s %" PRIu64 "\n", name, value);
}

static void print_dropped(const struct lb_gossip_report *r, FILE *out)
{
	static const char name[] = "l4lb_cluster_dropped_total";

	lb_metrics_text_head(out, name, "counter",
			     "Datagrams that were not believed, by reason; none is answered.");
	for (unsigned int v = LB_SEAL_MALFORMED; v < LB_SEAL_VERDICTS; v++)
		fprintf(out, "%s{reason=\"%s\"} %" PRIu64 "\n", name,
			lb_seal_verdict_name((enum lb_seal_verdict)v),
			r->opened[v] + (v == LB_SEAL_MALFORMED ? r->counts.malformed : 0));
	fprintf(out, "%s{reason=\"misdirected\"} %" PRIu64 "\n", name, r->counts.misdirected);
	fprintf(out, "%s{reason=\"twin\"} %" PRIu64 "\n", name, r->counts.twins);
	fprintf(out, "%s{reason=\"overflow\"} %" PRIu64 "\n", name, r->overflowed);
}

static void print_gauge(FILE *out, const char *name, const char *help, double value)
{
	lb_metrics_text_head(out, name, "gauge", help);
	fprintf(out, "%s %.9g\n", name, value);
}

static void print_limits(struct lb_limits *limits, FILE *out)
{
	struct lb_limits_report r;

	lb_limits_look(limits, lb_clock_ns() / 1000, &r, NULL, NULL);
	print_gauge(out, "l4lb_cluster_share_nodes", "Nodes that limits are divided by.", r.size);
	print_gauge(out, "l4lb_cluster_share_keys",
		    "Limits of which parts are lent among nodes, or have been lately.", r.keys);
	print_gauge(out, "l4lb_cluster_share_excess_ratio",
		    "Of any limit that nodes share, so much may be too much now.",
		    (double)r.excess_ppm / 1000000);
	print_gauge(out, "l4lb_cluster_share_excess_connections",
		    "And so many connections, of each.", (double)r.excess);
	print_counter(out, "l4lb_cluster_share_sent_total", "Messages about shares to other nodes.",
		      r.counts.sent);
	print_counter(out, "l4lb_cluster_share_sent_bytes_total", "Their bytes.",
		      r.counts.sent_bytes);
	print_counter(out, "l4lb_cluster_share_received_total", "Those of other nodes.",
		      r.counts.received);
	print_counter(out, "l4lb_cluster_share_stale_total",
		      "Those that were overtaken, or not understood.",
		      r.counts.stale + r.counts.malformed);
	print_counter(out, "l4lb_cluster_share_untracked_total",
		      "Times there was no room to share a limit: the node spent its own part.",
		      r.counts.untracked);
}

void lb_cluster_print_metrics(const struct lb_cluster *c, FILE *out)
{
	struct lb_gossip_report r;

	if (!c)
		return;
	lb_gossip_look(lb_cluster_gossip(c), &r, NULL, NULL);
	lb_metrics_text_head(out, "l4lb_cluster_members", "gauge",
			     "Nodes of the cluster as this one sees them, itself among them.");
	for (size_t i = 0; i < LB_ARRAY_SIZE(state_words); i++)
		fprintf(out, "l4lb_cluster_members{state=\"%s\"} %u\n", state_words[i],
			r.states[i]);
	lb_metrics_text_head(out, "l4lb_cluster_slowness", "gauge",
			     "0: this node hears well, up to 8: it gives others more time.");
	fprintf(out, "l4lb_cluster_slowness %u\n", r.health);
	print_counter(out, "l4lb_cluster_sent_total", "Datagrams sent to other nodes.",
		      r.counts.sent);
	print_counter(out, "l4lb_cluster_sent_bytes_total", "Their bytes, unsealed.",
		      r.counts.sent_bytes);
	print_counter(out, "l4lb_cluster_unsent_total", "Datagrams the kernel did not take.",
		      r.unsent);
	print_counter(out, "l4lb_cluster_received_total", "Datagrams of other nodes.",
		      r.counts.received);
	print_dropped(&r, out);
	print_counter(out, "l4lb_cluster_probes_total", "Other nodes asked whether they are there.",
		      r.counts.probes);
	print_counter(out, "l4lb_cluster_probes_failed_total", "Those that got no answer.",
		      r.counts.probes_failed);
	print_counter(out, "l4lb_cluster_suspicions_total", "Times a node was held suspect here.",
		      r.counts.suspicions);
	print_counter(out, "l4lb_cluster_deaths_total", "Times one was held dead here.",
		      r.counts.deaths);
	print_counter(out, "l4lb_cluster_refutations_total",
		      "Times this node said that it is well, against what others said.",
		      r.counts.refutations);
	print_limits(lb_cluster_limits(c), out);
}
