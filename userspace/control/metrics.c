/* SPDX-License-Identifier: MIT */
/*
 * Decides how counters are shown to Prometheus. The label sets are bounded: rules, backends and the
 * words of the .def files. Must never count anything itself.
 */
#include "control/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "control/cluster.h"
#include "control/metrics_histogram.h"
#include "control/metrics_process.h"
#include "control/metrics_reloads.h"
#include "control/metrics_same_host.h"
#include "control/metrics_text.h"
#include "control/service.h"
#include "flow/bandwidth_limit.h"
#include "flow/rate_limit.h"
#include "flow/tls.h"
#include "kernel/admit.h"
#include "kernel/graft_table.h"

/* Of one rule. */
struct backends {
	struct lb_pool_row *rows;
	uint32_t count;
};

#define ADMIT_LINKS_MAX 256u

struct view {
	FILE *out;
	struct lb_service *service;
	const struct lb_rule *rules;
	size_t rules_count;
	const struct lb_counters *sums;  /* by rule */
	const struct backends *backends; /* by rule */
	struct lb_reload_report reloads;
};

static const struct lb_carrier *const carriers[] = {&lb_relay, &lb_sockmap, &lb_graft};
static const char *const directions[] = {"up", "down"};

/* One that was removed and still has flows is, until its name is another one's. */
static bool is_shown(const struct view *v, size_t rule)
{
	const struct lb_rule_config *config = v->rules[rule].config;

	if (!config || !lb_service_is_gone(v->service, rule))
		return config;
	for (size_t i = 0; i < v->rules_count; i++)
		if (i != rule && v->rules[i].config && !lb_service_is_gone(v->service, i) &&
		    !strcmp(v->rules[i].config->name, config->name))
			return false;
	return true;
}

/* Rules, and the sni routes that have backends of their own. */
#define for_each_pool(v, r)                           \
	for (size_t r = 0; r < (v)->rules_count; r++) \
		if (is_shown(v, r))

#define for_each_rule(v, r)  \
	for_each_pool (v, r) \
		if (!(v)->rules[r].of)

static void head(const struct view *v, const char *name, const char *type, const char *help)
{
	lb_metrics_text_head(v->out, name, type, help);
}

static void row(const struct view *v, const char *name, size_t rule, const char *key,
		const char *value, uint64_t n)
{
	fputs(name, v->out);
	lb_metrics_text_label(v->out, "rule", v->rules[rule].config->name, true);
	if (key)
		lb_metrics_text_label(v->out, key, value, false);
	fprintf(v->out, "} %" PRIu64 "\n", n);
}

static void connections(const struct view *v)
{
	head(v, "l4lb_connections_total", "counter", "Client connections accepted.");
	for_each_rule (v, r)
		row(v, "l4lb_connections_total", r, NULL, NULL, v->sums[r].connections);
	head(v, "l4lb_queue_length", "gauge", "Clients that wait for a backend with room.");
	for_each_pool (v, r)
		row(v, "l4lb_queue_length", r, NULL, NULL, lb_select_waiting(v->rules[r].select));
	head(v, "l4lb_active_connections", "gauge", "Client connections alive.");
	for_each_rule (v, r)
		row(v, "l4lb_active_connections", r, NULL, NULL, v->sums[r].active);
}

static void traffic(const struct view *v)
{
	head(v, "l4lb_traffic_bytes_total", "counter",
	     "Payload bytes, living flows included: up is client to backend, down the way back.");
	for_each_rule (v, r)
		for (unsigned int d = 0; d < 2; d++)
			row(v, "l4lb_traffic_bytes_total", r, "direction", directions[d],
			    v->sums[r].bytes[d]);
	head(v, "l4lb_carrier_bytes_total", "counter",
	     "Payload bytes both ways by the carrier of their flow.");
	for_each_rule (v, r)
		for (unsigned int c = 0; c < LB_CARRIER_MAX_; c++)
			row(v, "l4lb_carrier_bytes_total", r, "carrier", carriers[c]->name,
			    v->sums[r].carrier_bytes[c]);
}

static void flows(const struct view *v)
{
	head(v, "l4lb_flows_total", "counter", "Flows ended, by the carrier they ended on.");
	for_each_rule (v, r)
		for (unsigned int c = 0; c < LB_CARRIER_MAX_; c++)
			row(v, "l4lb_flows_total", r, "carrier", carriers[c]->name,
			    v->sums[r].flows[c]);
	head(v, "l4lb_promotions_total", "counter",
	     "Flows that went from relay to a kernel carrier.");
	for_each_rule (v, r)
		for (unsigned int c = LB_CARRIER_SOCKMAP; c < LB_CARRIER_MAX_; c++)
			row(v, "l4lb_promotions_total", r, "carrier", carriers[c]->name,
			    v->sums[r].promotions[c]);
	head(v, "l4lb_carrier_refusals_total", "counter",
	     "Flows ended that were not on a faster carrier, by reason.");
	for_each_rule (v, r)
		for (unsigned int w = LB_WHY_NONE + 1; w < LB_WHY_MAX_; w++)
			row(v, "l4lb_carrier_refusals_total", r, "reason",
			    lb_why_word((enum lb_why)w), v->sums[r].whys[w]);
	head(v, "l4lb_ends_total", "counter", "Flows ended, by reason.");
	for_each_rule (v, r)
		for (unsigned int e = 0; e < LB_REASON_MAX_; e++)
			row(v, "l4lb_ends_total", r, "reason", lb_reason_word((enum lb_reason)e),
			    v->sums[r].ends[e]);
}

static void bandwidth(const struct view *v)
{
	struct lb_buckets *buckets = lb_service_buckets(v->service);
	const char *name = "l4lb_bandwidth_limit_wait_seconds_total";

	head(v, "l4lb_bandwidth_limit_waits_total", "counter",
	     "How often a flow had bytes and its bandwidth_limit made them wait.");
	for_each_rule (v, r)
		for (unsigned int d = 0; d < 2; d++)
			row(v, "l4lb_bandwidth_limit_waits_total", r, "direction", directions[d],
			    v->sums[r].bandwidth_waits[d]);
	head(v, name, "counter", "How long they waited, all flows together.");
	for_each_rule (v, r)
		for (unsigned int d = 0; d < 2; d++) {
			fputs(name, v->out);
			lb_metrics_text_label(v->out, "rule", v->rules[r].config->name, true);
			lb_metrics_text_label(v->out, "direction", directions[d], false);
			fprintf(v->out, "} %.3f\n", (double)v->sums[r].bandwidth_wait_ns[d] / 1e9);
		}
	head(v, "l4lb_bandwidth_limit_clients", "gauge",
	     "Clients whose bandwidth is watched: they have a flow, or have not paid for the "
	     "last.");
	for_each_rule (v, r)
		row(v, "l4lb_bandwidth_limit_clients", r, NULL, NULL,
		    v->rules[r].bandwidth_limit
			    ? lb_bandwidth_limit_clients(v->rules[r].bandwidth_limit, lb_clock_ns())
			    : 0);
	head(v, "l4lb_buckets", "gauge", "Buckets in use: two for each such client and backend.");
	fprintf(v->out, "l4lb_buckets %" PRIu32 "\n", buckets ? lb_buckets_used(buckets) : 0);
	head(v, "l4lb_buckets_max", "gauge", "As many there are.");
	fprintf(v->out, "l4lb_buckets_max %" PRIu32 "\n", buckets ? lb_buckets_max(buckets) : 0);
}

static void tls(const struct view *v)
{
	static const char *const sides[] = {"client", "backend"};
	static const char *const results[] = {"full", "resumed", "failed"};
	const char *name = "l4lb_tls_handshakes_total";

	head(v, name, "counter", "TLS handshakes ended, by how.");
	for_each_rule (v, r) {
		for (unsigned int i = 0; i < 2 * LB_HANDSHAKE_MAX_; i++) {
			fputs(name, v->out);
			lb_metrics_text_label(v->out, "rule", v->rules[r].config->name, true);
			lb_metrics_text_label(v->out, "side", sides[i / LB_HANDSHAKE_MAX_], false);
			lb_metrics_text_label(v->out, "result", results[i % LB_HANDSHAKE_MAX_],
					      false);
			fprintf(v->out, "} %" PRIu64 "\n",
				v->sums[r]
					.handshakes[i / LB_HANDSHAKE_MAX_][i % LB_HANDSHAKE_MAX_]);
		}
	}
	head(v, "l4lb_tls_ktls_total", "counter",
	     "TLS connections for which the kernel seals what is sent.");
	for_each_rule (v, r)
		for (unsigned int i = 0; i < 2; i++)
			row(v, "l4lb_tls_ktls_total", r, "side", sides[i], v->sums[r].ktls[i]);
	head(v, "l4lb_tls_certificate_expiry_seconds", "gauge",
	     "When the first of the rule's certificates expires, seconds since 1970.");
	for_each_rule (v, r)
		if (v->rules[r].tls)
			row(v, "l4lb_tls_certificate_expiry_seconds", r, NULL, NULL,
			    (uint64_t)lb_tls_expiry(v->rules[r].tls));
	head(v, "l4lb_tls_ocsp_expiry_seconds", "gauge",
	     "When the first of the rule's OCSP responses expires, seconds since 1970.");
	for_each_rule (v, r) {
		int64_t end = v->rules[r].tls ? lb_tls_staple_end(v->rules[r].tls) : 0;

		if (end && end != INT64_MAX)
			row(v, "l4lb_tls_ocsp_expiry_seconds", r, NULL, NULL, (uint64_t)end);
	}
}

/* Where one stands in the counters of a rule, or of a backend. */
struct place {
	struct lb_metrics_histogram shape;
	size_t counts_at, sum_at;
};

#define PLACE(type, counts, sum) offsetof(struct type, counts), offsetof(struct type, sum)

static const struct place of_rules[] = {
	{{"l4lb_connection_duration_seconds", "Accept to end of a flow.", lb_duration_bounds_ms,
	  LB_DURATION_BUCKETS, 1e3},
	 PLACE(lb_counters, durations, duration_sum_ms)},
	{{"l4lb_connect_duration_seconds", "Connects to backends that succeeded.",
	  lb_connect_bounds_us, LB_CONNECT_BUCKETS, 1e6},
	 PLACE(lb_counters, connects, connect_sum_us)},
	{{"l4lb_first_byte_duration_seconds",
	  "From a backend's connect to its first payload byte, of flows where there was one.",
	  lb_first_byte_bounds_us, LB_FIRST_BYTE_BUCKETS, 1e6},
	 PLACE(lb_counters, first_bytes, first_byte_sum_us)},
};

static const struct place of_backends[] = {
	{{"l4lb_backend_connect_duration_seconds", "Connects to a backend that succeeded.",
	  lb_connect_bounds_us, LB_CONNECT_BUCKETS, 1e6},
	 PLACE(lb_backend_counts, connects, connect_sum_us)},
	{{"l4lb_backend_first_byte_duration_seconds",
	  "From the connect to the first payload byte, by backend.", lb_first_byte_bounds_us,
	  LB_FIRST_BYTE_BUCKETS, 1e6},
	 PLACE(lb_backend_counts, first_bytes, first_byte_sum_us)},
};

/* <counters>: of rule number <rule>, or of a backend of its. */
static void histogram(const struct view *v, const struct place *p, size_t rule, const char *backend,
		      const void *counters)
{
	const char *at = counters;

	lb_metrics_print_histogram(v->out, &p->shape, v->rules[rule].config->name, backend,
				   (const uint64_t *)(at + p->counts_at),
				   *(const uint64_t *)(at + p->sum_at));
}

static void durations(const struct view *v)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(of_rules); i++) {
		head(v, of_rules[i].shape.name, "histogram", of_rules[i].shape.help);
		for_each_rule (v, r)
			histogram(v, &of_rules[i], r, NULL, &v->sums[r]);
	}
}

static void backend_durations(const struct view *v)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(of_backends); i++) {
		head(v, of_backends[i].shape.name, "histogram", of_backends[i].shape.help);
		for_each_pool (v, r)
			for (uint32_t b = 0; b < v->backends[r].count; b++)
				histogram(v, &of_backends[i], r,
					  v->backends[r].rows[b].entry->config.addr,
					  &v->backends[r].rows[b].counts);
	}
}

static void backend_rows(const struct view *v, const char *name,
			 uint64_t (*read)(const struct lb_pool_row *b))
{
	for_each_pool (v, r)
		for (uint32_t i = 0; i < v->backends[r].count; i++)
			row(v, name, r, "backend", v->backends[r].rows[i].entry->config.addr,
			    read(&v->backends[r].rows[i]));
}

static uint64_t read_active(const struct lb_pool_row *b)
{
	return b->active;
}

static uint64_t read_connections(const struct lb_pool_row *b)
{
	return b->counts.connections;
}

static uint64_t read_failures(const struct lb_pool_row *b)
{
	return b->counts.connect_failures;
}

static uint64_t read_checks(const struct lb_pool_row *b)
{
	return b->counts.checks;
}

static uint64_t read_check_failures(const struct lb_pool_row *b)
{
	return b->counts.check_failures;
}

static uint64_t read_eligible(const struct lb_pool_row *b)
{
	return b->eligible;
}

static uint64_t read_addresses(const struct lb_pool_row *b)
{
	return b->backends;
}

static uint64_t read_lookups(const struct lb_pool_row *b)
{
	return __atomic_load_n(&b->entry->lookups, __ATOMIC_RELAXED);
}

static uint64_t read_lookup_failures(const struct lb_pool_row *b)
{
	return __atomic_load_n(&b->entry->lookup_failures, __ATOMIC_RELAXED);
}

static uint64_t read_draining(const struct lb_pool_row *b)
{
	return b->draining;
}

/* Only of those that have one: a gauge that stands still says nothing. */
static void drain_deadlines(const struct view *v)
{
	const char *name = "l4lb_backend_drain_deadline_seconds";
	uint64_t now = lb_clock_ms();

	head(v, name, "gauge", "Time until the flows of a draining backend are cut.");
	for_each_pool (v, r) {
		for (uint32_t i = 0; i < v->backends[r].count; i++) {
			const struct lb_pool_row *b = &v->backends[r].rows[i];
			uint64_t until = b->drain_until_ms;

			if (until)
				row(v, name, r, "backend", b->entry->config.addr,
				    until > now ? (until - now) / 1000 : 0);
		}
	}
}

static void backend_traffic(const struct view *v)
{
	const char *name = "l4lb_backend_traffic_bytes_total";

	head(v, name, "counter", "Payload bytes, living flows included: up is to the backend.");
	for_each_pool (v, r) {
		for (uint32_t i = 0; i < v->backends[r].count; i++) {
			const struct lb_pool_row *b = &v->backends[r].rows[i];

			for (unsigned int d = 0; d < 2; d++) {
				fputs(name, v->out);
				lb_metrics_text_label(v->out, "rule", v->rules[r].config->name,
						      true);
				lb_metrics_text_label(v->out, "backend", b->entry->config.addr,
						      false);
				lb_metrics_text_label(v->out, "direction", directions[d], false);
				fprintf(v->out, "} %" PRIu64 "\n", b->counts.bytes[d]);
			}
		}
	}
}

static void backends(const struct view *v)
{
	head(v, "l4lb_backend_active_connections", "gauge",
	     "Flows a backend holds or is asked for.");
	backend_rows(v, "l4lb_backend_active_connections", read_active);
	head(v, "l4lb_backend_connections_total", "counter", "Connects begun to a backend.");
	backend_rows(v, "l4lb_backend_connections_total", read_connections);
	head(v, "l4lb_backend_connect_failures_total", "counter",
	     "Connects that were refused, failed or timed out.");
	backend_rows(v, "l4lb_backend_connect_failures_total", read_failures);
	head(v, "l4lb_backend_health_status", "gauge",
	     "1 when a backend takes new flows, 0 when it is down, out or drains; of a name: how "
	     "many of its addresses do.");
	backend_rows(v, "l4lb_backend_health_status", read_eligible);
	head(v, "l4lb_backend_addresses", "gauge", "Addresses that a backend stands for.");
	backend_rows(v, "l4lb_backend_addresses", read_addresses);
	head(v, "l4lb_backend_lookups_total", "counter", "Times a backend's name was looked up.");
	backend_rows(v, "l4lb_backend_lookups_total", read_lookups);
	head(v, "l4lb_backend_lookup_failures_total", "counter", "Those that brought no address.");
	backend_rows(v, "l4lb_backend_lookup_failures_total", read_lookup_failures);
	head(v, "l4lb_backend_health_checks_total", "counter",
	     "Health checks that were answered, or not in time.");
	backend_rows(v, "l4lb_backend_health_checks_total", read_checks);
	head(v, "l4lb_backend_health_check_failures_total", "counter",
	     "Those that did not end well.");
	backend_rows(v, "l4lb_backend_health_check_failures_total", read_check_failures);
	backend_traffic(v);
	backend_durations(v);
	head(v, "l4lb_backend_draining", "gauge", "1 while a backend drains.");
	backend_rows(v, "l4lb_backend_draining", read_draining);
	drain_deadlines(v);
}

static void graft(const struct view *v)
{
	static const char *const words[] = {
#define LB_GRAFT_COUNTER(symbol, word, help) #word,
#include <lb/graft_counters.def>
#undef LB_GRAFT_COUNTER
	};
	const struct lb_graft_table_report *report = lb_service_graft(v->service);
	struct lb_graft_table *table = lb_service_graft_table(v->service);

	head(v, "l4lb_graft_in_service", "gauge", "1 when the graft carrier can be used.");
	fprintf(v->out, "l4lb_graft_in_service{reason=\"%s\"} %d\n", lb_why_word(report->why),
		table != NULL);
	if (!table)
		return;
	head(v, "l4lb_graft_flows", "gauge", "Flows that are grafted for good.");
	fprintf(v->out, "l4lb_graft_flows %" PRIu64 "\n", lb_service_grafts(v->service));
	head(v, "l4lb_graft_flows_max", "gauge", "As many have room.");
	fprintf(v->out, "l4lb_graft_flows_max %" PRIu32 "\n", lb_graft_table_pairs(table));
	head(v, "l4lb_graft_packets_total", "counter",
	     "Packets of grafted flows, and what became of them.");
	for (unsigned int i = 0; i < LB_GRAFT_COUNT_MAX_; i++)
		fprintf(v->out, "l4lb_graft_packets_total{what=\"%s\"} %" PRIu64 "\n", words[i],
			lb_graft_table_count(table, (enum lb_graft_counter)i));
}

/* --- admission -------------------------------------------------------------------------------- */

static const char *const admit_hooks[] = {
	[LB_ADMIT_HOOK_XDP] = "xdp",
	[LB_ADMIT_HOOK_TC] = "tc",
};

static const char *const admit_verdicts[] = {
#define LB_ADMIT_VERDICT(symbol, word, help) #word,
#include <lb/admit_verdicts.def>
#undef LB_ADMIT_VERDICT
};

static void admit_row(const struct view *v, const char *name, size_t rule, const char *hook,
		      const char *reason, uint64_t n)
{
	fputs(name, v->out);
	lb_metrics_text_label(v->out, "rule", v->rules[rule].config->name, true);
	lb_metrics_text_label(v->out, "hook", hook, false);
	if (reason)
		lb_metrics_text_label(v->out, "reason", reason, false);
	fprintf(v->out, "} %" PRIu64 "\n", n);
}

/* What the kernel refused of a rule's, hook by hook; <passed>: what it let pass instead. */
static void kernel_rows(const struct view *v, const char *name, size_t rule, bool passed)
{
	struct lb_admit *admit = v->rules[rule].admit;

	for (int h = 0; admit && h < LB_ADMIT_HOOK_MAX_; h++) {
		struct lb_admit_counts c;

		if (!lb_admit_counts(admit, v->rules[rule].index, h, &c))
			continue;
		for (int i = LB_ADMIT_PASSED + 1; i < LB_ADMIT_VERDICT_MAX_ && !passed; i++)
			admit_row(v, name, rule, admit_hooks[h], admit_verdicts[i], c.n[i]);
		if (passed)
			admit_row(v, name, rule, admit_hooks[h], NULL, c.n[LB_ADMIT_PASSED]);
	}
}

static void refusals(const struct view *v)
{
	static const enum lb_reason reasons[] = {LB_REASON_ACL_DENIED, LB_REASON_RATE_LIMITED,
						 LB_REASON_CLIENT_LIMIT};

	head(v, "l4lb_refusals_total", "counter",
	     "Clients refused, by reason: their SYNs at xdp and tc, their connections at accept.");
	for_each_rule (v, r) {
		kernel_rows(v, "l4lb_refusals_total", r, false);
		for (size_t i = 0; i < LB_ARRAY_SIZE(reasons); i++)
			admit_row(v, "l4lb_refusals_total", r, "accept", lb_reason_word(reasons[i]),
				  v->sums[r].ends[reasons[i]]);
	}
	head(v, "l4lb_refusals_unlogged_total", "counter",
	     "Refusals without a line in the access log: there were too many at once.");
	for_each_rule (v, r)
		row(v, "l4lb_refusals_unlogged_total", r, NULL, NULL, v->sums[r].unlogged);
	head(v, "l4lb_admission_passed_total", "counter",
	     "SYNs for rules with access lists or rates that the programs let pass.");
	for_each_rule (v, r)
		kernel_rows(v, "l4lb_admission_passed_total", r, true);
}

static void rate_limits(const struct view *v)
{
	head(v, "l4lb_rate_limit_clients", "gauge",
	     "Clients of a rule that are remembered as not having all their tokens.");
	for_each_rule (v, r)
		if (v->rules[r].rate_limit)
			row(v, "l4lb_rate_limit_clients", r, NULL, NULL,
			    lb_rate_limit_clients(v->rules[r].rate_limit, lb_clock_ns()));
	head(v, "l4lb_rate_limit_clients_max", "gauge", "As many have room.");
	fprintf(v->out, "l4lb_rate_limit_clients_max %" PRIu32 "\n", lb_rate_limit_clients_max());
	head(v, "l4lb_rate_limit_evicted_total", "counter",
	     "Clients forgotten for want of room although they lacked tokens.");
	for_each_rule (v, r)
		if (v->rules[r].rate_limit)
			row(v, "l4lb_rate_limit_evicted_total", r, NULL, NULL,
			    lb_rate_limit_evicted(v->rules[r].rate_limit));
}

static void admission(const struct view *v)
{
	struct lb_admit *admit = lb_service_admit(v->service);
	LB_AUTO_FREE struct lb_admit_link *links = calloc(ADMIT_LINKS_MAX, sizeof(*links));
	size_t count = admit && links ? lb_admit_links(admit, links, ADMIT_LINKS_MAX) : 0;

	refusals(v);
	rate_limits(v);
	head(v, "l4lb_admission_in_service", "gauge",
	     "1 for each interface where SYNs are judged, and the hook that does it.");
	for (size_t i = 0; i < count; i++) {
		fputs("l4lb_admission_in_service", v->out);
		lb_metrics_text_label(v->out, "interface", links[i].interface, true);
		lb_metrics_text_label(v->out, "hook", links[i].hook, false);
		fputs("} 1\n", v->out);
	}
	if (!admit)
		return;
	head(v, "l4lb_map_entries", "gauge", "Entries of the kernel's tables.");
	fprintf(v->out,
		"l4lb_map_entries{map=\"lb_refused\"} %" PRIu32
		"\nl4lb_map_entries{map=\"lb_listeners\"} %" PRIu32 "\n",
		lb_admit_refused(admit), lb_admit_listeners(admit));
	head(v, "l4lb_map_entries_max", "gauge", "As many have room.");
	fprintf(v->out,
		"l4lb_map_entries_max{map=\"lb_refused\"} %u\n"
		"l4lb_map_entries_max{map=\"lb_listeners\"} %u\n",
		LB_ADMIT_REFUSED_MAX, LB_ADMIT_LISTENERS_MAX);
}

static void render(const struct view *v)
{
	connections(v);
	traffic(v);
	flows(v);
	durations(v);
	bandwidth(v);
	tls(v);
	backends(v);
	graft(v);
	admission(v);
	lb_metrics_print_same_host(lb_service_same_host(v->service), v->out);
	lb_cluster_print_metrics(lb_service_cluster(v->service), v->out);
	lb_metrics_print_reloads(&v->reloads, v->out);
	lb_metrics_print_process(v->service, v->out);
}

/* What is read of the rules at one moment. 0 or -errno. */
static int collect(struct view *v, struct lb_counters *sums, struct backends *all)
{
	int err = lb_service_collect(v->service, sums);

	for (size_t r = 0; r < v->rules_count && !err; r++)
		if (is_shown(v, r))
			err = lb_pool_rows(v->rules[r].pool, &all[r].rows, &all[r].count);
	v->sums = sums;
	v->backends = all;
	return err;
}

int lb_metrics_render(FILE *out, void *arg)
{
	struct view v = {.out = out, .service = arg, .reloads = lb_service_reloads(arg)};
	LB_AUTO_FREE struct lb_counters *sums = NULL;
	LB_AUTO_FREE struct backends *all = NULL;
	int err;

	lb_service_hold(v.service);
	v.rules_count = lb_service_rules(v.service, &v.rules);
	sums = calloc(v.rules_count + 1, sizeof(*sums));
	all = calloc(v.rules_count + 1, sizeof(*all));
	err = sums && all ? collect(&v, sums, all) : -ENOMEM;
	if (!err)
		render(&v);
	for (size_t r = 0; r < v.rules_count; r++)
		if (all)
			lb_pool_rows_free(&all[r].rows, all[r].count);
	lb_service_let_go(v.service);
	return err;
}
