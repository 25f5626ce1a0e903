/* SPDX-License-Identifier: MIT */
/*
 * Acts on what health checks find, and on what flows tell of their backends (passive_health): one
 * that is down or ejected gets no flow any more; the flows of one that is down are kept or reset as
 * its rule says; the log tells once, with the cause.
 *
 * Everything happens in the thread of one loop (control/backends.h), which is meant by "the loop's
 * thread"; before it runs, its builder's.
 */
#ifndef LB_CONTROL_HEALTH_H
#define LB_CONTROL_HEALTH_H

#include "cluster/opinion.h"
#include "flow/env.h"
#include "worker.h"

struct lb_health_service;

/* All borrowed, until lb_health_free(). */
struct lb_health_opts {
	struct lb_loop *loop;
	struct lb_worker *const *workers;
	uint32_t workers_count;
	struct lb_opinions *opinions; /* of other nodes; NULL: there is no cluster */
};

/* 0 or -errno. */
int lb_health_new(struct lb_health_service **ret, const struct lb_health_opts *opts);
/* The loop does not run any more. What is watched is freed with its backend. NULL is fine. */
void lb_health_free(struct lb_health_service **h);

/*
 * <b>, of <rule>'s set, is watched as the rule wants it. What was known of one that was away
 * is forgotten. 0 or -ENOMEM with nothing watched. The loop's thread.
 */
int lb_health_watch(struct lb_health_service *h, const struct lb_rule *rule, struct lb_backend *b);
/*
 * The same for one that may be watched already, after rule->config has been replaced: what is known
 * of <b> stays. <changed>: its checks are to be others than before. The loop's thread, before the
 * old configuration is freed.
 */
int lb_health_renew(struct lb_health_service *h, const struct lb_rule *rule, struct lb_backend *b,
		    bool changed);
/*
 * <b> is watched no more: its checks have ended when this returns. Harmless when it is not. The
 * loop's thread, before <b> is let go.
 */
void lb_health_unwatch(struct lb_backend *b);
/*
 * <b>'s whole weight is new: its share follows, at once or in the steps of its slow start. The
 * loop's thread.
 */
void lb_health_reweigh(const struct lb_rule *rule, struct lb_backend *b);
/* What is known of a backend. */
struct lb_health_known {
	bool asked, up;         /* its checks have been answered, and what they say */
	uint64_t ejected_ms;    /* it is out for so long still; 0: it is not .. */
	uint32_t ejected_times; /* .. and has been so often in a row */
	uint64_t slow_ms;       /* it has come up so long ago, and does not have its share yet */
};
/* The loop's thread. */
struct lb_health_known lb_health_known(const struct lb_backend *b);
/*
 * Another daemon has known that of <b>, which is watched; answers that came here stay. The loop's
 * thread.
 */
void lb_health_restore(struct lb_backend *b, const struct lb_health_known *known);
/*
 * From whom it is that <b> is up or down: "own", or the node that has asked last, in <node>. NULL:
 * from nobody. The loop's thread.
 */
const char *lb_health_source(const struct lb_backend *b, char node[LB_WIRE_NAME_MAX]);
/* For lb_rule.failed: a flow has shown <b> failing. Any worker that holds it. */
void lb_health_failed(const struct lb_rule *rule, struct lb_backend *b);

#endif
