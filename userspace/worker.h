/* SPDX-License-Identifier: MIT */
/*
 * A worker is one thread with one loop, its listeners and its sessions. Built in the main thread,
 * then run; workers share nothing but what struct lb_worker_opts names.
 */
#ifndef LB_WORKER_H
#define LB_WORKER_H

#include "flow/listener.h"
#include "flow/session.h"

struct lb_sockmap_slots;
struct lb_worker;

struct lb_worker_opts {
	uint32_t index;
	struct lb_rule *rules;          /* borrowed, like everything here */
	size_t rules_count;             /* at the start .. */
	uint32_t rules_max;             /* .. and for ever */
	struct lb_kernel *kernel;       /* NULL: kernel_why says why */
	struct lb_sockmap_slots *slots; /* of its tables; shared */
	enum lb_why kernel_why;
	struct lb_grafts *grafts; /* NULL: graft_why says why */
	bool grafts_shared;       /* the daemon before us lives, and some pairs are still its own */
	enum lb_why graft_why;
	struct lb_ports_shelf *ports; /* local ports towards backends */
	struct lb_flow_limits *limits;
	enum lb_log_format log_format; /* of the access log */
	/* One line of it; NULL: none. Called in the worker's thread. Must not block. */
	void (*log_line)(void *arg, uint32_t worker, const char *line, size_t len);
	void *log_arg;
};

/* 0 or -errno. Free with lb_worker_free(). */
int lb_worker_new(struct lb_worker **ret, const struct lb_worker_opts *opts);
/*
 * Takes *pl, which becomes NULL, and accepts from now on. The worker's thread, or before it runs. 0
 * or -errno.
 */
int lb_worker_listen(struct lb_worker *w, struct lb_listener **pl);
/*
 * heir(rule): for whom the listeners of <rule> listen from now on; NULL: for nobody, they are
 * closed when what is in their backlog has been taken. The worker's thread.
 */
void lb_worker_hand_listeners(struct lb_worker *w,
			      const struct lb_rule *(*heir)(const struct lb_rule *rule, void *arg),
			      void *arg);
/* As those of flow/listener.h. The worker's thread. */
void lb_worker_visit_listeners(struct lb_worker *w,
			       void (*fn)(void *arg, const struct lb_rule *rule, int fd),
			       void *arg);
void lb_worker_leave_listeners(struct lb_worker *w,
			       bool (*is_kept)(const struct lb_rule *rule, void *arg), void *arg);
/* Begins to serve in a thread of its own. 0 or -errno. */
int lb_worker_start(struct lb_worker *w);

/* Grafted flows that worker 0 took over from an earlier daemon. Before lb_worker_start(). */
uint32_t lb_worker_adopted(const struct lb_worker *w);

/*
 * The keeper lets go of its grafts, for another daemon to keep them; and takes those that are there
 * again. <gone>: the daemon before us is, and what it still had of the table with it. Inside of
 * lb_workers_do().
 */
void lb_worker_lend_grafts(struct lb_worker *w);
void lb_worker_take_grafts(struct lb_worker *w);
void lb_worker_inherit_grafts(struct lb_worker *w);

/* What it lends to its flows: for surveys (flow/survey.h). */
struct lb_flow_env *lb_worker_env(struct lb_worker *w);

/* Any thread: takes what is in the backlogs, then closes the listeners. */
void lb_worker_drain(struct lb_worker *w);
/*
 * Ends <which> flows of all <count> <workers>, grafted ones included, with <reason> and RST: soon.
 * Any thread but theirs. 0 or -ENOMEM.
 */
int lb_workers_cut(struct lb_worker *const *workers, uint32_t count, struct lb_flows which,
		   enum lb_reason reason);
/*
 * The bandwidth limits of <rule> have changed: those of all <count> <workers>' flows that wait ask
 * again, soon. Any thread. 0 or -ENOMEM: then some wait as long as they would have.
 */
int lb_workers_look_again(struct lb_worker *const *workers, uint32_t count,
			  const struct lb_rule *rule);
/*
 * Adds the worker's counters, living flows included to the byte, to <sums> (by rule). Any thread
 * but the worker's own; waits for the worker. One that is too busy to answer within a second gives
 * its counters as they stand: what the kernel carried since the last answer is then still missing.
 * 0 or -ENOMEM.
 */
int lb_worker_collect(struct lb_worker *w, struct lb_counters *sums);

/* Calls fn(worker, its index, arg) in each one's thread, and returns when all have. Any thread but
 * theirs. */
void lb_workers_do(struct lb_worker *const *workers, uint32_t count,
		   void (*fn)(struct lb_worker *w, uint32_t index, void *arg), void *arg);
/*
 * Inside of lb_workers_do(): how many of <w>'s sessions, or of its grafts, are of <which>; with
 * <cut> they are ended with <reason> and RST. The sessions of all workers come before the grafts:
 * they may become some.
 */
size_t lb_worker_judge_sessions(struct lb_worker *w, struct lb_flows which, enum lb_reason reason,
				bool cut);
size_t lb_worker_judge_grafts(struct lb_worker *w, struct lb_flows which, enum lb_reason reason,
			      bool cut);
/* So many of the rules may be in service from now on. Nobody collects meanwhile. */
void lb_worker_set_rules(struct lb_worker *w, size_t count);
/* The counters of rule <index>, of which no flow is left, begin anew. The worker's thread. */
void lb_worker_forget_rule(struct lb_worker *w, uint32_t index);
/* Flows of rule <index> that it has begun, less those that it has seen end. Any thread. */
uint64_t lb_worker_active(const struct lb_worker *w, uint32_t index);

/*
 * Has its loop turned since this was asked last? Asks it anew. True the first time. The main thread
 * only.
 */
bool lb_worker_turns(struct lb_worker *w);

/* Cuts what is left, ends the thread. */
void lb_worker_stop(struct lb_worker *w);
/* After lb_worker_stop(), or never started. NULL is fine. */
void lb_worker_free(struct lb_worker **w);

#endif
