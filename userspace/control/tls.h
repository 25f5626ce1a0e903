/* SPDX-License-Identifier: MIT */
/*
 * The TLS contexts of rules: judged when the configuration is, made at start, and made anew by a
 * reload that says something else or finds other files. Main thread, but for the judge:
 * whoever loads a configuration.
 */
#ifndef LB_CONTROL_TLS_H
#define LB_CONTROL_TLS_H

#include "config/config.h"
#include "flow/env.h"

/* For lb_config_load_with(): can the files be read, do they belong together, and which are they? */
void lb_tls_judge(struct lb_config *config, const struct lb_yaml_node *root,
		  struct lb_config_notices *notices);

/* What <rule>, which is to be as <config> says, needs. 0, or -errno after a message. */
int lb_tls_build(struct lb_rule *rule, const struct lb_rule_config *config);
/* Harmless when there is nothing. No flow may be left. */
void lb_tls_release(struct lb_rule *rule);

/*
 * When a rule of <config> is the first to want it: does the kernel seal? One line of the log says.
 * Workers may run.
 */
void lb_tls_open_ktls(struct lb_flow_limits *limits, const struct lb_config *config);

/* What a reload does to a rule that stays. */
struct lb_tls_change {
	/* The new ones; after the commit the old ones. */
	struct lb_tls *tls;
	struct lb_backend_tls *backend_tls, *check_tls;
	bool clients, backends, checks; /* these change */
};
/* All that may fail. 0, or -errno after a message; to be freed in either case. */
int lb_tls_prepare(struct lb_tls_change *c, const struct lb_rule *rule,
		   const struct lb_rule_config *config);
/*
 * For flows and checks that begin from now on. What was there before is in <c>: workers may still
 * read it until each of them has ended its turn, checks until they are renewed.
 */
void lb_tls_commit(struct lb_tls_change *c, struct lb_rule *rule);
void lb_tls_change_fini(struct lb_tls_change *c);

#endif
