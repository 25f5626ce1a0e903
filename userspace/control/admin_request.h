/* SPDX-License-Identifier: MIT */
/*
 * A request to the admin socket: one line of words.
 *
 *   flows rule=web sort=rate limit=20
 *   drain web 10.0.0.1:80 deadline_ms=30000
 *   drain "my rule" 10.0.0.1:80
 *
 * The verb, then what it always needs, then options in any order. A word with blanks in it stands
 * in double quotes, with \" and \\ for themselves. Pure: knows no descriptor and no service.
 */
#ifndef LB_CONTROL_ADMIN_REQUEST_H
#define LB_CONTROL_ADMIN_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/log.h"
#include "config/prefix.h"
#include "flow/carrier.h"

/* Bytes of a line without its newline: a rule's name, a backend's, and the rest. */
#define LB_ADMIN_LINE_MAX  1024
#define LB_ADMIN_FLOWS_MAX 131072u
#define LB_ADMIN_WHY_MAX   160

enum lb_admin_verb {
	LB_ADMIN_STATUS,
	LB_ADMIN_BACKENDS,
	LB_ADMIN_FLOWS,
	LB_ADMIN_DRAIN,
	LB_ADMIN_UNDRAIN,
	LB_ADMIN_WEIGHT,
	LB_ADMIN_ENABLE,
	LB_ADMIN_DISABLE,
	LB_ADMIN_KILL,
	LB_ADMIN_LOG,
	LB_ADMIN_RELOAD,
	LB_ADMIN_UPGRADE,
	LB_ADMIN_METRICS,
	LB_ADMIN_OVERVIEW,
	LB_ADMIN_CLUSTER,
	LB_ADMIN_VERSION,
	LB_ADMIN_VERB_MAX_
};

enum lb_admin_sort {
	LB_ADMIN_SORT_AGE, /* the oldest first, as for all: the largest */
	LB_ADMIN_SORT_IDLE,
	LB_ADMIN_SORT_BYTES,
	LB_ADMIN_SORT_RATE,
	LB_ADMIN_SORT_RTT,
	LB_ADMIN_SORT_BACKLOG,
};

/* No deadline. */
#define LB_ADMIN_NEVER UINT64_MAX
/* None was given: what the rule says. */
#define LB_ADMIN_AS_CONFIGURED (UINT64_MAX - 1)

struct lb_admin_request {
	enum lb_admin_verb verb;
	/* Texts point into <text>; NULL: not given. */
	const char *rule, *backend;
	bool by_client; /* flows of <client> alone, and of this port of its when that is not 0 */
	struct lb_prefix client;
	uint16_t client_port;
	bool by_carrier;
	enum lb_carrier_id carrier;
	enum lb_admin_sort sort;
	uint32_t limit;
	uint64_t over_ms; /* rates over so long; 0: over a flow's life */
	uint64_t deadline_ms;
	uint32_t weight;
	uint64_t flow;
	enum lb_log_level level;
	bool dry_run;        /* reload: only what would change */
	const char *binary;  /* upgrade: what to start; NULL: what was started last */
	uint64_t timeout_ms; /* upgrade: 0: as long as the socket waits */
	char text[LB_ADMIN_LINE_MAX + 1];
};

/*
 * <line> has <len> bytes and no newline (a carriage return at its end is forgiven). 0; -EINVAL with
 * a sentence in <why> and *r as it may be.
 */
int lb_admin_request_parse(struct lb_admin_request *r, const char *line, size_t len,
			   char why[LB_ADMIN_WHY_MAX]);

const char *lb_admin_verb_word(enum lb_admin_verb verb);

#endif
