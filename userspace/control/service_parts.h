/* SPDX-License-Identifier: MIT */
/* What a service is made of: for those who build it, change it, and read it. */
#ifndef LB_CONTROL_SERVICE_PARTS_H
#define LB_CONTROL_SERVICE_PARTS_H

#include <pthread.h>

#include "control/service.h"
#include "control/takeover.h"

struct lb_access_log;
struct lb_admin;
struct lb_admission_service;
struct lb_backends;
struct lb_buckets;
struct lb_cluster;
struct lb_exporter;
struct lb_grafts;
struct lb_instance;
struct lb_tls_secrets;
struct lb_ports_shelf;
struct lb_sockmap_slots;
struct lb_listener;
struct lb_worker;

/* A socket that listens already, for a worker that does not accept from it yet. */
struct lb_held_listener {
	uint32_t worker;
	struct lb_listener *listener; /* owned; NULL: it accepts */
};

/* Rules in service, and such as were removed and still have flows. */
#define LB_RULES_MAX 8192u

/* A configuration that was loaded while we ran; main thread only. */
struct lb_config_ref {
	struct lb_config *config; /* owned */
	uint32_t holders;
};
/* The last one frees it. NULL inside is fine. */
void lb_config_ref_put(struct lb_config_ref **pr);

/* Of a place in service->rules: one that is free has no config. */
struct lb_rule_state {
	uint64_t gone_ms;             /* removed from the configuration then; 0: it was not */
	struct lb_config_ref *source; /* then: what its config is a part of; NULL: the first one */
	bool cut;                     /* its flows have been cut */
};

struct lb_service {
	const struct lb_config *first;  /* of the start: borrowed for ever */
	const struct lb_config *config; /* in force */
	struct lb_config_ref *source;   /* held: what that is; NULL: the first one, not ours */
	struct lb_instance *instance;
	struct lb_kernel *kernel;
	struct lb_kernel_report kernel_report;
	struct lb_sockmap_slots *slots; /* NULL: without a kernel */
	struct lb_graft_table *graft_table;
	struct lb_graft_table_report graft_report;
	struct lb_grafts *grafts;
	struct lb_ports_shelf *ports;
	struct lb_backends *backends;
	struct lb_buckets *buckets;     /* NULL: no rule limits the bandwidth */
	struct lb_same_host *same_host; /* NULL: not in service */
	struct lb_flow_limits limits;
	/*
	 * By place: LB_RULES_MAX, of which the first rules_count have been used. Only the main
	 * thread changes them, under <lock>; others look under it (lb_service_hold()).
	 */
	struct lb_rule *rules;
	struct lb_rule_state *states;
	size_t rules_count;
	uint64_t last_id; /* of a rule */
	pthread_mutex_t lock;
	struct lb_reload_report reloads; /* under it, too */
	struct lb_worker **workers;
	uint32_t workers_count;
	struct lb_access_log *access_log;
	struct lb_exporter *exporter;
	struct lb_admission_service *admission; /* NULL: the kernel does not help with it */
	struct lb_flow_env **envs;              /* of the workers */
	struct lb_admin *admin;
	struct lb_cluster *cluster; /* NULL: not enabled */
	struct lb_tls_secrets *secrets;
	uint64_t start_ms;
	const char *name;              /* of the instance; borrowed for ever, NULL: the default */
	struct lb_takeover *takeover;  /* borrowed, while we come up; NULL: from nobody */
	struct lb_held_listener *held; /* that do not accept yet */
	size_t held_count;
	/* Under <lock>: by rule, what those before us have counted; NULL: there were none .. */
	struct lb_counters *before_counters;
	struct json_t *before_rules;      /* .. as the last one has said it */
	struct lb_takeover_report before; /* under <lock> */
	struct lb_service_self self;
	pid_t heir;          /* atomic */
	bool commit_claimed; /* atomic: see lb_service_claim_commit() */
	char failure[160];   /* written by the main thread before .. */
	uint32_t failures;   /* .. atomic */
	int metrics_fd;      /* listens, for the exporter to come; -1 */
	uint32_t guests;     /* flows that came from the daemon before; whose turn it is */
	bool frozen;         /* grafts, pins and links are put down */
	bool left;           /* another daemon serves */
	bool draining;       /* atomic */
	bool up;             /* atomic: it has come up */
};

/* Of apply.c, too. 0 or -errno after a message. */
int lb_service_build_rule(struct lb_rule *rule, const struct lb_rule_config *config);
/*
 * Which route a client takes, for every rule of <config>; all have their places. <place>: where the
 * rule or route <i> (lb_config_place()) is, and for a rule where its routes belong. 0 or -ENOMEM.
 */
typedef const struct lb_rule *(*lb_service_place_fn)(void *arg, size_t i, struct lb_sni ***sni);
int lb_service_build_routes(const struct lb_config *config, lb_service_place_fn place, void *arg);
/* Everything that build made; no flow is left, and nobody looks. The place is free. */
void lb_service_free_rule(struct lb_service *s, struct lb_rule *rule);
/* How many sessions there may be, with the rules that are there. */
void lb_service_set_limits(struct lb_service *s);
bool lb_service_may_graft(const struct lb_rule_config *rule);
/*
 * All rules have listeners, in all workers; nobody accepts yet. Those that are open at their
 * addresses already come from <handed>, which may be NULL. 0 or -errno after a message.
 */
int lb_service_listen(struct lb_service *s, struct lb_listen_fds *handed);
/* .. from now on they do. Before the workers run, or while they do. 0 or -errno, logged. */
int lb_service_accept(struct lb_service *s);
/* Those that never came to accept. */
void lb_service_close_held(struct lb_service *s);
/* control/service_doors.c. 0 or -errno, logged. */
int lb_service_open_exporter(struct lb_service *s);
int lb_service_prepare_exporter(struct lb_service *s);
int lb_service_open_admin(struct lb_service *s);
/* Before anything can be replaced. */
void lb_service_look_at_self(struct lb_service *s, char *const *argv);
/* The instance is ours, or shared with the daemon that hands it over. 0 or -errno, logged. */
int lb_service_lock(struct lb_service *s);
/* That one has stopped serving, and we begin. 0, or -errno after a message: we do not. */
int lb_service_commit(struct lb_service *s);
/* A listening socket for <config>; <exclusive>: see lb_accept_open(). -errno on failure. */
int lb_service_open_listener(const struct lb_rule_config *config, bool exclusive);
/*
 * The largest segment that clients of <rule> may send if its flows are to be grafted, 0: any. Its
 * pool and those of its routes are filled. Asks the kernel for the way to each backend.
 */
int lb_service_segment(const struct lb_service *s, const struct lb_rule *rule);

#endif
