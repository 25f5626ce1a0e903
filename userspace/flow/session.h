/* SPDX-License-Identifier: MIT */
/*
 * A session is one client's connection from accept to account. All of it runs in one worker's
 * thread; see the stage table at the top of session.c.
 */
#ifndef LB_FLOW_SESSION_H
#define LB_FLOW_SESSION_H

#include "flow/bandwidth_limit.h"
#include "flow/env.h"

/* What a stage answers. */
enum lb_step {
	LB_STEP_NEXT,  /* on to the next stage */
	LB_STEP_WAIT,  /* for an event or the timer */
	LB_STEP_RETRY, /* back to connect: another backend, or session->reason if there is none */
	LB_STEP_CLOSE, /* session->reason says why */
};

/* retries + 1 at most. */
#define LB_TRIES_MAX 16

struct lb_session {
	struct lb_pair pair;
	struct lb_list node; /* in env->sessions */
	struct lb_flow_env *env;
	const struct lb_rule *rule;
	const struct lb_rule *route;  /* whose backends it gets: the rule, or a route of it */
	struct lb_backend *backend;   /* connected or being tried */
	uint64_t tried[LB_TRIES_MAX]; /* by id */
	struct lb_timer timer;        /* of the current stage */
	struct lb_task release;
	struct lb_addr client;      /* its peer, or whom the PROXY header names .. */
	struct lb_addr destination; /* .. and where to it went; no family: to our listener */
	bool client_named;          /* .. by the header */
	char certified[65];         /* the name of its certificate, "" without one */
	struct lb_waiter waiter;    /* for a backend that has room .. */
	bool waiting;               /* .. now */
	uint64_t accept_ns;         /* in this daemon or in one before it .. */
	uint64_t came_ns;           /* .. and in this one */
	uint64_t try_ns;            /* start of the current connect */
	uint64_t connected_ns;      /* 0: never */
	uint64_t folded[2];         /* bytes already in the counters */
	struct lb_bandwidth_share *bandwidth; /* NULL: no limit */
	struct lb_tls *tls;                   /* held while it shakes hands with its client .. */
	struct lb_backend_tls *backend_tls;   /* .. with its backend, and from then on */
	enum lb_reason reason;
	uint8_t stage;
	uint8_t tries;
	bool admitted;   /* counted for its client */
	bool distressed; /* counted against its backend already */
	bool carrying;
	bool closed;
	bool first_counted;     /* the time to the backend's first byte */
	bool handshake_queued;  /* waits for a turn of the loop that has time for it */
	uint32_t hello_awaited; /* so many bytes of its ClientHello, by SO_RCVLOWAT; 0: any .. */
	uint32_t hello_looked;  /* .. and so many have been looked at, again and again */
};

/*
 * Takes <fd> (a fresh non-blocking connection of <client>) through the stages. Closes it when there
 * is no memory.
 */
void lb_session_new(struct lb_flow_env *env, const struct lb_rule *rule, int fd,
		    const struct lb_addr *client);

/*
 * For a stage that waits for something else: an event of the client. Its bytes, even its FIN, stay
 * in its socket and are remembered. LB_STEP_WAIT, or LB_STEP_CLOSE when it is gone.
 */
enum lb_step lb_session_client_waits(struct lb_session *s, uint32_t events);

/* What is left of the rule's handshake_ms, which counts from accept; 1 at least. */
uint64_t lb_session_handshake_left_ms(const struct lb_session *s);

/* The stage's event(s, LB_LEG_CLIENT, 0) in the next turn. */
void lb_session_again(struct lb_session *s);

/* Some of the worker's have come to env->door: they go on. */
void lb_session_granted(struct lb_flow_env *env);

/* The bandwidth limits of <rule> have changed: its flows look again at what they may move. */
void lb_session_look_again(struct lb_flow_env *env, const struct lb_rule *rule);

/*
 * The one way out: counts, logs, closes. With <clean> the peers see a FIN, otherwise a RST. The
 * memory goes at the end of the loop's turn. Harmless on a session that is closed.
 */
void lb_session_close(struct lb_session *s, enum lb_reason reason, bool clean);

/*
 * Ends <which> of the worker's sessions with <reason> and RST. One that is still connecting to a
 * backend is not yet that backend's.
 */
void lb_session_close_all(struct lb_flow_env *env, struct lb_flows which, enum lb_reason reason);
/*
 * For flow/handover.
 *
 * A session of <route> that is carried already, with everything it holds: one more of its client's.
 * <backend> is adopted for it. The caller fills in the rest, the pair's too, and calls
 * lb_session_resume(), with which it may end; the descriptors are the session's. 0, or -errno with
 * the descriptors and <backend> as they were.
 */
int lb_session_restore(struct lb_session **ret, struct lb_flow_env *env,
		       const struct lb_rule *route, const struct lb_addr *client,
		       struct lb_backend *backend, const int fd[2]);
void lb_session_resume(struct lb_session *s);
/*
 * Another way out, of one that relay carries: nothing is closed, logged or counted as an end. <fd>
 * are the caller's now; what the pair holds is freed. lb_account_fold() comes before.
 */
void lb_session_take_out(struct lb_session *s, int fd[2]);

/* How many it would end. */
size_t lb_session_count(const struct lb_flow_env *env, struct lb_flows which);

#endif
