/* SPDX-License-Identifier: MIT */
/*
 * Active health checks: asks every backend it is given, again and again, and tells
 * when one has gone down or come up (backend/health.h: when that is). Decides nothing about flows.
 *
 * The first checks go out at once; later ones are spread by a tenth of their interval, so that
 * backends are not asked in step. At most LB_PROBES_MAX run at a time: the rest waits its turn.
 *
 * The loop's thread only, if nothing else is said.
 */
#ifndef LB_BACKEND_HEALTH_CHECK_H
#define LB_BACKEND_HEALTH_CHECK_H

#include "backend/pool.h"
#include "loop/loop.h"

/* Descriptors they may take. */
#define LB_PROBES_MAX 256u

struct lb_backend_tls;
struct lb_health_checks;
struct lb_health_check; /* of one backend */

/* What has become of a backend. */
struct lb_health_change {
	void *watcher; /* as given to lb_health_checks_add() */
	struct lb_backend *backend;
	bool up;
	const char *cause; /* of the last answer; NULL when up */
	uint32_t answers;  /* in a row that made the change */
	uint64_t was_ms;   /* how long it had been in the other state; 0: since the start */
};

struct lb_health_checks_opts {
	struct lb_loop *loop;
	void (*changed)(const struct lb_health_change *change);
	/* Of checks that are shared (health_check.share); NULL: none is. */
	struct {
		/* Others have found it <up>, too: no need to ask before *until_ms. */
		bool (*vouched)(void *watcher, bool up, uint64_t *until_ms);
		/* A check has been answered. */
		void (*answered)(void *watcher, bool good);
	} share;
};

/* 0 or -errno. Any thread, before the loop runs. */
int lb_health_checks_new(struct lb_health_checks **ret, const struct lb_health_checks_opts *opts);
/*
 * Checks <b> as <rule> says, at once for the first time; both outlive the check. <tls>, with which
 * checks over TLS are made, is held. 0 or -ENOMEM.
 * The loop's thread, or before it runs.
 */
int lb_health_checks_add(struct lb_health_checks *h, const struct lb_rule_config *rule,
			 struct lb_backend_tls *tls, struct lb_backend *b, void *watcher,
			 struct lb_health_check **ret);
/*
 * <rule>, which outlives the check, says from now on how it is checked; what is known of the
 * backend stays. <changed>: it says something else than before; a check under way is given up then,
 * and the next one is due at once, with <tls>. 0, or -ENOMEM: then what is asked is what was asked
 * before. The loop's thread.
 */
int lb_health_checks_renew(struct lb_health_check *c, const struct lb_rule_config *rule,
			   struct lb_backend_tls *tls, bool changed);
/* Whether it has been answered, and then what that says. The loop's thread. */
bool lb_health_check_known(const struct lb_health_check *c, bool *up);
/* Another daemon has found it <up> or not. False: it has been answered here. The loop's thread. */
bool lb_health_check_restore(struct lb_health_check *c, bool up);
/* Whether it is not asked because of what others say. The loop's thread. */
bool lb_health_check_trusts(const struct lb_health_check *c);
/*
 * Others may say something else of backends than before: those that are not asked because of what
 * they said are, at once, if that does not hold any more. The loop's thread.
 */
void lb_health_checks_look_again(struct lb_health_checks *h);
/*
 * Flows have seen it fail: it is asked soon, whatever others say; not more often than one that is
 * down. Harmless when its checks are not shared. The loop's thread.
 */
void lb_health_check_doubt(struct lb_health_check *c);
/* Ends it: no callback comes any more. NULL inside is fine. */
void lb_health_checks_remove(struct lb_health_check **pc);
/* Ends all. NULL is fine. The loop must not run any more. */
void lb_health_checks_free(struct lb_health_checks **ph);

#endif
