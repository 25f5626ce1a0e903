/* SPDX-License-Identifier: MIT */
/*
 * The service: a configuration in force. Starting is "apply from empty": rules are built, sockets
 * bound, the kernel's part loaded, workers run. Main thread only, but for lb_service_collect().
 */
#ifndef LB_CONTROL_SERVICE_H
#define LB_CONTROL_SERVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "config/config.h"
#include "flow/account.h"
#include "flow/session.h"
#include "kernel/graft_table.h"
#include "kernel/kernel.h"
#include "kernel/same_host.h"

struct lb_cluster;
struct lb_listen_fds;
struct lb_service;
struct lb_takeover;

struct lb_service_opts {
	const char *instance; /* NULL: the default instance */
	/* Listeners that are open already are taken from here; borrowed for the start. */
	struct lb_listen_fds *listen_fds; /* NULL: none are */
	/* The daemon that serves until we do; borrowed likewise, its listeners are among those. */
	struct lb_takeover *takeover; /* NULL: there is none */
	char *const *argv;            /* as main() got it, for the next one; for ever */
};

/*
 * Brings <config> (borrowed until the service is freed) into force. On failure -errno, everything
 * undone, and what was wrong is in the log. Privileges are dropped on the way, after what needs
 * them and before the first client is accepted.
 */
int lb_service_start(struct lb_service **ret, const struct lb_config *config,
		     const struct lb_service_opts *opts);

/* What became of the reloads. Copied as a whole: lb_service_reloads(). */
struct lb_reload_report {
	uint64_t generation; /* of the configuration in force: 1 from the start */
	uint64_t begun;
	uint64_t applied;
	uint64_t refused;
	uint64_t last_s;  /* the last one's time, CLOCK_REALTIME; 0: there was none */
	uint64_t results; /* bit 0: the last one was applied; bit 1: the one before; .. */
};

/*
 * To be called now and then: removed rules whose flows are over, or whose time is, go for good.
 * True: there is still one, call again soon.
 */
bool lb_service_tick(struct lb_service *s);

/* The access log's file has been moved away: a new one. A line in the log says how it went. */
void lb_service_reopen_log(struct lb_service *s);

/* Stops accepting; flows go on. */
void lb_service_drain(struct lb_service *s);
/* To be called while draining: cuts flows whose rule's drain_ms is over. Flows left. */
uint64_t lb_service_drain_step(struct lb_service *s, uint64_t elapsed_ms);
/* Flows alive. */
uint64_t lb_service_flows(const struct lb_service *s);

/*
 * Other rates for rule number <rule>, for its living flows too. 0; -ENOMEM: then flows that wait
 * come to it later; -ENOENT when it had no limit at its start.
 */
int lb_service_change_bandwidth(struct lb_service *s, size_t rule,
				const struct lb_bandwidth_limit_config *config);

/* Cuts what is left; from then on nobody serves, steers or watches. */
void lb_service_halt(struct lb_service *s);
/* Frees, after that. NULL inside is fine. */
void lb_service_stop(struct lb_service **s);

/* Flows that have ended since the start. Any thread. */
struct lb_ends lb_service_ends(const struct lb_service *s);
/*
 * What became of those that ended between <before> and <after>, in words: as much as fits. True:
 * we have cut none.
 */
bool lb_service_tell_ends(const struct lb_ends *before, const struct lb_ends *after, char *text,
			  size_t size);

/* How the next one is started: any thread. */
struct lb_service_self {
	char binary[4096]; /* what we were started from, as it was called then; "": not known */
	char *const *argv;
};
const struct lb_service_self *lb_service_self(const struct lb_service *s);
/* Who has taken over; 0: nobody. Any thread. */
pid_t lb_service_heir(const struct lb_service *s);
/*
 * Whoever has claimed the commit decides it: the one that serves, to let go, or `lbctl upgrade`, to
 * end a new one that is too slow. False: the other one has. Any thread.
 */
bool lb_service_claim_commit(struct lb_service *s);
void lb_service_unclaim_commit(struct lb_service *s);
/* Why nobody has, the last time; "": nobody has tried. Any thread, for as long as <s>. */
const char *lb_service_takeover_failure(const struct lb_service *s);
void lb_service_set_takeover_failure(struct lb_service *s, const char *why);
/* lbctl still waits for answers. Any thread. */
bool lb_service_is_answering(const struct lb_service *s);

/* --- another daemon takes over: control/takeover_offer.c --- */

/* NULL, or why nobody may: what it would break. */
const char *lb_service_refuses_takeover(const struct lb_service *s);
/* fn(arg, address, fd) for all listening sockets of all workers, by rule and worker. */
void lb_service_visit_listeners(struct lb_service *s,
				void (*fn)(void *arg, const struct lb_addr *addr, int fd),
				void *arg);
/* What is to be shared (enum lb_takeover_what); -1: there is none. */
int lb_service_own_fd(const struct lb_service *s, unsigned int what);
/*
 * What only one daemon may hold is put down: grafts and their keeping, pins, what picks sockets for
 * same_host_bypass. Flows go on, and new clients are taken. And the way back.
 */
void lb_service_freeze(struct lb_service *s);
/* What is counted from now on nobody is told here. lb_service_thaw() takes that back, too. */
void lb_service_hush(struct lb_service *s);
void lb_service_thaw(struct lb_service *s);
struct lb_takeover_taken;
/*
 * Frozen: the other one serves. Listeners it <keeps> are closed here, others once their backlogs
 * are empty; what it shares with us goes on without us. Flows go on: lb_service_drain_step().
 */
void lb_service_leave(struct lb_service *s, pid_t heir, const struct lb_takeover_taken *taken,
		      const struct lb_addr *keeps, size_t keeps_count);
/* When the last flow is cut, if lb_service_leave() or _drain() was <elapsed_ms> ago: in so long. */
uint64_t lb_service_cut_in_ms(const struct lb_service *s, uint64_t elapsed_ms);

/* --- the daemon before us --- */

/* What it has said of its state, if anything; with <counters> only those. */
void lb_service_take_state(struct lb_service *s, struct lb_takeover *before, bool counters);
/* What is known of it; NULL: it is gone. */
void lb_service_set_predecessor(struct lb_service *s, const struct lb_takeover *before);
/* It is gone, and what it still had of the grafts with it. */
void lb_service_inherit(struct lb_service *s);

/* --- for reports; any thread --- */

struct lb_takeover_report;
/* The daemon before us, while it drains: control/takeover.h. */
struct lb_takeover_report lb_service_predecessor(struct lb_service *s);

bool lb_service_is_draining(const struct lb_service *s);
/* It has come up and does not drain: new clients are taken. */
bool lb_service_is_ready(const struct lb_service *s);
/* When it was started, lb_clock_ms() scale. */
uint64_t lb_service_start_ms(const struct lb_service *s);
/*
 * Between hold and let_go the rules do not change, and no longer may anybody keep what it found in
 * them: pools, backends that it does not hold itself, configurations.
 */
void lb_service_hold(struct lb_service *s);
void lb_service_let_go(struct lb_service *s);
/* Of the file that was loaded; for ever. */
const char *lb_service_path(const struct lb_service *s);
struct lb_reload_report lb_service_reloads(struct lb_service *s);

/*
 * All that have been in service; held. One without config is not there; lb_service_is_gone() tells
 * those that are no longer in the configuration and still have flows.
 */
size_t lb_service_rules(const struct lb_service *s, const struct lb_rule **rules);
/* Backends of a rule, and clients that wait for one: at its own pool and those of its routes. */
struct lb_service_pools {
	uint32_t all, eligible, queued;
};
/* <rule> is one of those, and no route; held. */
struct lb_service_pools lb_service_pools(const struct lb_service *s, const struct lb_rule *rule);
/* NULL when no rule limits the bandwidth. */
struct lb_buckets *lb_service_buckets(const struct lb_service *s);
bool lb_service_is_gone(const struct lb_service *s, size_t rule);
uint32_t lb_service_workers(const struct lb_service *s);
const struct lb_kernel_report *lb_service_kernel(const struct lb_service *s);
const struct lb_graft_table_report *lb_service_graft(const struct lb_service *s);
/* NULL when graft is not in service. */
struct lb_graft_table *lb_service_graft_table(const struct lb_service *s);
/* Flows on sockmap, and how many have room. */
uint64_t lb_service_sockmap_flows(const struct lb_service *s, uint64_t *max);
/* Flows grafted for good: they have no session. */
uint64_t lb_service_grafts(const struct lb_service *s);
/* NULL: the kernel does not help with admission, or no rule wants it. */
struct lb_admit *lb_service_admit(const struct lb_service *s);
/* NULL: not in service, or no rule wants it. */
const struct lb_same_host *lb_service_same_host(const struct lb_service *s);
/* NULL: not enabled. */
struct lb_cluster *lb_service_cluster(const struct lb_service *s);
uint64_t lb_service_log_dropped(const struct lb_service *s);
/*
 * Sums of all workers by rule, living flows included; <sums> holds as many as there are rules;
 * held.
 */
int lb_service_collect(struct lb_service *s, struct lb_counters *sums);

#endif
