/* SPDX-License-Identifier: MIT */
/*
 * Admission at run time: builds what the rules' lists and rates need, keeps the kernel's tables in
 * step with them and with this host's addresses, and shows the programs that the daemon lives. Has
 * a thread of its own.
 */
#ifndef LB_CONTROL_ADMISSION_H
#define LB_CONTROL_ADMISSION_H

#include "flow/env.h"
#include "kernel/admit.h"

struct lb_admission_service;
struct lb_limits;
struct lb_service;

struct lb_admission_opts {
	const char *instance; /* NULL: the default */
	const struct lb_config *config;
	struct lb_rule *rules; /* borrowed, as all here */
	size_t rules_count;
	struct lb_service *service; /* whose rules they are: they may change */
	bool beside; /* a daemon of this instance lives, whose programs are to stay */
};

/*
 * What <rule>, which is to be as <config> says, needs itself, with the kernel or without. Before a
 * worker sees it. 0 or -errno.
 */
int lb_admission_build(struct lb_rule *rule, const struct lb_rule_config *config);
/* What of it is shared with others: before it serves. 0, or -EINVAL, logged: there are none. */
int lb_admission_share(struct lb_rule *rule, const struct lb_rule_config *config,
		       struct lb_limits *limits);
/*
 * Its limits of connections, while it serves: by what <config> says of them; NULL: with nobody,
 * <config> does not matter then.
 */
void lb_admission_share_connections(struct lb_rule *rule, const struct lb_rule_config *config,
				    struct lb_limits *limits);
/* NULL inside is fine. Nobody may use the rule any more. */
void lb_admission_unbuild(struct lb_rule *rule);

/* What a reload does to a rule that stays. */
struct lb_admission_change {
	struct lb_acl *acl;               /* the new one; after the commit the old one */
	struct lb_rate_limit *rate_limit; /* likewise */
	struct lb_limits *limits;         /* in: those that nodes share; NULL: in no cluster */
	bool acl_changed;                 /* after the commit: other clients may come than before */
};
/* All that may fail. 0 or -errno; to be freed in either case. */
int lb_admission_prepare(struct lb_admission_change *c, const struct lb_rule *rule,
			 const struct lb_rule_config *config);
/*
 * Puts it into force, for new connections, here and in the kernel; <a> may be NULL. What was there
 * before is in <c>: workers may still read it until each of them has ended its turn.
 */
void lb_admission_commit(struct lb_admission_service *a, struct lb_rule *rule,
			 const struct lb_rule_config *config, struct lb_admission_change *c);
void lb_admission_change_fini(struct lb_admission_change *c);
/* A rule that a reload has added, and built. NULL is fine. */
void lb_admission_add(struct lb_admission_service *a, struct lb_rule *rule,
		      const struct lb_rule_config *config);

/*
 * The kernel's part, for rules that were built: attached, with all rights of the start. One log
 * line says what is in service, and where, or why not. 0, with *ret NULL when no rule wants it or
 * it cannot be had; -errno, logged.
 */
int lb_admission_new(struct lb_admission_service **ret, const struct lb_admission_opts *opts);
/*
 * Rules listen elsewhere, or are gone: when this returns the kernel judges for those that are
 * there; should that take more than a second, soon after. The main thread. NULL is fine.
 */
void lb_admission_follow_rules(struct lb_admission_service *a);
/* 0 or -errno, logged. NULL is fine. */
int lb_admission_start(struct lb_admission_service *a);
/* Ends the thread; the programs stay until lb_admission_free(). NULL is fine. */
void lb_admission_stop(struct lb_admission_service *a);
/* Another daemon has taken over, and attached its own. Ends the thread. NULL is fine. */
void lb_admission_leave(struct lb_admission_service *a);
/* It has come to nothing: ours are attached again, soon. NULL is fine. */
void lb_admission_reclaim(struct lb_admission_service *a);
/* After the workers have ended. NULL inside is fine. */
void lb_admission_free(struct lb_admission_service **a);

/* For reports: any thread, while it is not freed. NULL: the kernel does not help. */
struct lb_admit *lb_admission_admit(struct lb_admission_service *a);

#endif
