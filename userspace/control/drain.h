/* SPDX-License-Identifier: MIT */
/*
 * Draining: a backend gets no new flow, and its old ones live on until a deadline. Those that have
 * been idle for some seconds are closed at once, in good order where their carrier knows that
 * nothing is under way; what is left at the deadline is reset. `drain: true` in lb.yaml and `lbctl
 * drain` are the same state.
 *
 * All of it in the thread that watches over the backends, if nothing else is said.
 */
#ifndef LB_CONTROL_DRAIN_H
#define LB_CONTROL_DRAIN_H

#include "control/forecast.h"
#include "flow/env.h"
#include "worker.h"

struct lb_drains;
struct lb_loop;

/* All borrowed, until lb_drains_free(). */
struct lb_drains_opts {
	struct lb_loop *loop;
	struct lb_worker *const *workers;
	uint32_t workers_count;
};

/* No deadline. */
#define LB_DRAIN_NEVER UINT64_MAX

/* 0 or -errno. Any thread. */
int lb_drains_new(struct lb_drains **ret, const struct lb_drains_opts *opts);
/* When the thread has ended and the workers still run: waits for what they do for us. */
void lb_drains_stop(struct lb_drains *d);
/* NULL inside is fine. */
void lb_drains_free(struct lb_drains **d);

/*
 * <b> of <rule> drains from now on, or with another deadline than before: in <ms>, or
 * LB_DRAIN_NEVER. One line in the log, unless <quietly>. 0 or -ENOMEM with nothing changed.
 */
int lb_drain_begin(struct lb_drains *d, const struct lb_rule *rule, struct lb_backend *b,
		   uint64_t ms, bool quietly);
/* It takes flows again, as far as this goes. False: it did not drain. */
bool lb_drain_end(struct lb_drains *d, const struct lb_rule *rule, struct lb_backend *b);

/* <b>, of <rule>'s set, drains if it is to: as configured. 0 or -ENOMEM. */
int lb_drain_follow(struct lb_drains *d, const struct lb_rule *rule, struct lb_backend *b);
/* <b> has left the set. While it has flows it goes on draining. */
void lb_drain_leave(struct lb_drains *d, struct lb_backend *b);

struct lb_drain_report {
	uint64_t flows;
	struct lb_forecast forecast;
	uint64_t since_ms;    /* for so long */
	uint64_t cut_in_ms;   /* LB_DRAIN_NEVER: not at all; 0: now */
	uint64_t closed, cut; /* idle ones, those at the deadline; so far */
};
/* False: it does not drain. */
bool lb_drain_report(const struct lb_drains *d, const struct lb_backend *b,
		     struct lb_drain_report *ret);

#endif
