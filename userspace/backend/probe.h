/* SPDX-License-Identifier: MIT */
/*
 * One health check at a time of one backend: connects, says what is to be said, listens, judges.
 * Ends by itself: good, bad with a cause, or at `timeout_ms`. Holds one descriptor while it runs
 * and nothing otherwise; its connection ends with RST: no TIME_WAIT is left on either side.
 *
 * The loop's thread only.
 */
#ifndef LB_BACKEND_PROBE_H
#define LB_BACKEND_PROBE_H

#include "backend/answer.h"
#include "backend/backend_tls.h"
#include "loop/loop.h"

enum lb_probe_result {
	LB_PROBE_GOOD,
	LB_PROBE_BAD,
	LB_PROBE_SKIPPED, /* this host has no descriptor, memory or port for it: it says nothing */
};

struct lb_probe {
	/* The owner's, set before the first start; <config> and <request> are borrowed. */
	struct lb_loop *loop;
	const struct lb_health_check_config *config;
	struct lb_addr addr;
	const char *request;
	size_t request_len;
	size_t clear_len;           /* so much of it goes before TLS begins: a PROXY header */
	struct lb_backend_tls *tls; /* NULL: none is spoken; needs <backend>, outlives the probe */
	const struct lb_backend *backend;
	/*
	 * Called once for every start, unless it was stopped before. <cause>: what went wrong, in a
	 * few words, NULL when all was well; valid until the callback returns.
	 */
	void (*done)(struct lb_probe *p, enum lb_probe_result result, const char *cause);
	/* The probe's. */
	struct lb_watch watch;
	struct lb_timer timer;
	struct lb_answer answer;
	struct ssl_st *ssl; /* NULL: not yet, or never */
	size_t sent;
	bool connected;
	bool shaken; /* the handshake is over */
	bool silent; /* all is said */
	int error;   /* what kept it from starting */
};

/* All of the owner's fields are set. */
void lb_probe_init(struct lb_probe *p);
/* Not while it runs. <done> is never called from inside. */
void lb_probe_start(struct lb_probe *p);
/* Harmless when it does not run. */
void lb_probe_stop(struct lb_probe *p);

#endif
