/* SPDX-License-Identifier: MIT */
/*
 * A session is one client's connection from accept to account. All of it runs in one worker's
 * thread; see the stage table at the top of session.c.
 */
#ifndef LB_FLOW_SESSION_H
#define LB_FLOW_SESSION_H

#include "backend/pool.h"
#include "base/slab.h"
#include "config/config.h"
#include "flow/account.h"
#include "flow/carrier.h"
#include "flow/select.h"

/* A rule in service; shared by all workers. */
struct lb_rule {
	const struct lb_rule_config *config;
	uint32_t index;
	struct lb_pool *pool;
	struct lb_select *select;
	bool same_host; /* bytes of its flows may skip TCP: see kernel/same_host.h */
};

/* What all workers share about flows. */
struct lb_flow_limits {
	uint64_t sessions;     /* atomic: alive in all workers */
	uint64_t sessions_max; /* from the limit of descriptors */
	bool paused;           /* atomic: accepting is paused somewhere, and was announced */
};

/* What a worker lends to its sessions. */
struct lb_flow_env {
	struct lb_carrier_env carrier;
	struct lb_flow_limits *limits;
	struct lb_counters *counters; /* by rule index */
	struct lb_slab slab;
	struct lb_list sessions;
	/* NULL: no access log. Must not block. */
	void (*log_line)(struct lb_flow_env *env, const char *line, size_t len);
};

/* What a stage answers. */
enum lb_step {
	LB_STEP_NEXT,  /* on to the next stage */
	LB_STEP_WAIT,  /* for an event or the timer */
	LB_STEP_CLOSE, /* session->reason says why */
};

/* retries + 1 at most. */
#define LB_TRIES_MAX 16

struct lb_session {
	struct lb_pair pair;
	struct lb_list node; /* in env->sessions */
	struct lb_flow_env *env;
	const struct lb_rule *rule;
	struct lb_backend *backend; /* connected or being tried */
	struct lb_backend *tried[LB_TRIES_MAX];
	struct lb_timer timer; /* of the current stage */
	struct lb_task release;
	struct lb_addr client;
	uint64_t accept_ns;
	uint64_t try_ns;       /* start of the current connect */
	uint64_t connected_ns; /* 0: never */
	uint64_t folded[2];    /* bytes already in the counters */
	enum lb_reason reason;
	uint8_t stage;
	uint8_t tries;
	bool carrying;
	bool closed;
};

/*
 * Takes <fd> (a fresh non-blocking connection of <client>) through the stages. Closes it when there
 * is no memory.
 */
void lb_session_new(struct lb_flow_env *env, const struct lb_rule *rule, int fd,
		    const struct lb_addr *client);

/*
 * The one way out: counts, logs, closes. With <clean> the peers see a FIN, otherwise a RST. The
 * memory goes at the end of the loop's turn. Harmless on a session that is closed.
 */
void lb_session_close(struct lb_session *s, enum lb_reason reason, bool clean);

/* Ends the worker's sessions of rule <rule> (SIZE_MAX: all) with <reason> and RST. */
void lb_session_close_all(struct lb_flow_env *env, size_t rule, enum lb_reason reason);

#endif
