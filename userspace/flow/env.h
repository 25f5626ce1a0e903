/* SPDX-License-Identifier: MIT */
/* What flows stand on: the rules in service, and what a worker lends to its sessions. */
#ifndef LB_FLOW_ENV_H
#define LB_FLOW_ENV_H

#include "backend/pool.h"
#include "base/slab.h"
#include "config/config.h"
#include "flow/account.h"
#include "flow/carrier.h"
#include "flow/handshake_row.h"
#include "flow/select_queue.h"
#include "flow/walk.h"

struct lb_backend_tls;
struct lb_bandwidth_limit;
struct lb_acl;
struct lb_admit;
struct lb_client_connection_limit;
struct lb_graft_keeper;
struct lb_rate_limit;
struct lb_sni;
struct lb_tls;
struct lb_tls_secrets;

/*
 * A rule in service; shared by all workers. Its configuration may be replaced at any time by
 * another one with the same name: whoever reads it keeps no pointer into it for longer than a turn.
 */
struct lb_rule {
	const struct lb_rule_config *config;
	uint64_t id; /* never used again; not 0 */
	uint32_t index;
	/*
	 * This is a route (sni) of that rule, which outlives it: a pool, and who watches over it.
	 * Its flows are that rule's: counted, limited and admitted there. NULL: it is a rule.
	 */
	const struct lb_rule *of;
	struct lb_pool *pool;
	struct lb_select *select;
	struct lb_client_connection_limit *client_connection_limit; /* NULL: none */
	struct lb_bandwidth_limit *bandwidth_limit;                 /* NULL: none */
	/* A reload may change these six: to be read atomically, once in a turn. */
	struct lb_acl *acl;                 /* NULL: everybody may come */
	struct lb_rate_limit *rate_limit;   /* NULL: none */
	struct lb_admit *admit;             /* NULL: who is refused is refused here alone */
	struct lb_sni *sni;                 /* its routes, likewise; NULL: none */
	struct lb_tls *tls;                 /* NULL: clients speak none */
	struct lb_backend_tls *backend_tls; /* NULL: backends speak none */
	struct lb_backend_tls *check_tls;   /* NULL: checks speak none; the watching thread's */
	struct lb_tls_secrets *secrets;     /* of tickets that all nodes open; borrowed for ever */
	/*
	 * Atomic: NULL, or told of every flow that shows <b> failing. Any worker; must not block.
	 */
	void (*failed)(const struct lb_rule *rule, struct lb_backend *b);
	bool same_host; /* bytes of its flows may skip TCP: see kernel/same_host.h */
};

/* Whose the flows of a rule or a route are. */
static inline const struct lb_rule *lb_rule_whole(const struct lb_rule *rule)
{
	return rule->of ? rule->of : rule;
}

/* Whether it has that id, or is a route of the rule that has it. */
static inline bool lb_rule_is(const struct lb_rule *rule, uint64_t id)
{
	return rule->id == id || (rule->of && rule->of->id == id);
}

/* One flow more of <route>, or one less; only of a route: a rule counts its own. */
static inline void lb_rule_count_route(const struct lb_rule *route, struct lb_counters *by_rule,
				       int64_t flows)
{
	if (route->of)
		lb_count(&by_rule[route->index].active, (uint64_t)flows);
}

/* A flow of <rule> has shown <b>, which it holds, failing. */
static inline void lb_rule_failed(const struct lb_rule *rule, struct lb_backend *b)
{
	void (*failed)(const struct lb_rule *r, struct lb_backend *backend) =
		__atomic_load_n(&rule->failed, __ATOMIC_RELAXED);

	if (failed)
		failed(rule, b);
}

/* Some flows: of one rule, or route, and of one backend, by id; 0: of all. */
struct lb_flows {
	uint64_t rule;
	uint64_t backend;
	const struct lb_acl *denied_by; /* of clients that it does not allow; NULL: of all */
};
#define LB_FLOWS_ALL                  ((struct lb_flows){0})
#define LB_FLOWS_OF_RULE(rule_id)     ((struct lb_flows){.rule = (rule_id)})
#define LB_FLOWS_OF_BACKEND(its_id)   ((struct lb_flows){.backend = (its_id)})
#define LB_FLOWS_DENIED(rule_id, acl) ((struct lb_flows){.rule = (rule_id), .denied_by = (acl)})

/* Whether the kernel seals what is sent over TLS. */
enum lb_ktls { LB_KTLS_UNTRIED, LB_KTLS_MISSING, LB_KTLS_IN_SERVICE };

/* What all workers share about flows. */
struct lb_flow_limits {
	uint64_t sessions;     /* atomic: alive in all workers */
	uint64_t sessions_max; /* from the limit of descriptors */
	uint64_t grafts;       /* atomic: flows that need no session any more */
	uint32_t paused;       /* atomic: listeners that have paused accepting */
	enum lb_ktls ktls;     /* atomic */
};

/* Lines for refusals: a flood of them must not become one of lines. See account.c. */
struct lb_refusal_lines {
	uint64_t full_ns;  /* when there will be a whole burst again */
	uint64_t unlogged; /* since the last one that was written */
};

/* What a worker lends to its sessions. */
struct lb_flow_env {
	struct lb_carrier_env carrier;
	struct lb_flow_limits *limits;
	struct lb_counters *counters; /* by rule index */
	struct lb_ends ends;
	struct lb_slab slab;
	struct lb_slab shares; /* of the bandwidth limits, for flows that have one */
	struct lb_handshake_row handshakes;
	struct lb_refusal_lines refusal_lines;
	struct lb_list sessions;        /* in the order in which they came */
	struct lb_list walks;           /* struct lb_walk: those over them */
	struct lb_walk distress;        /* distress.c's */
	struct lb_graft_keeper *keeper; /* one worker's; NULL: the others' */
	struct lb_door door;            /* for sessions that waited for a backend */
	enum lb_log_format log_format;
	/* NULL: no access log. Must not block. */
	void (*log_line)(struct lb_flow_env *env, const char *line, size_t len);
};

#endif
