/* SPDX-License-Identifier: MIT */
/* The TLS contexts of rules: judged when the configuration is, made at start. Main thread. */
#ifndef LB_CONTROL_TLS_H
#define LB_CONTROL_TLS_H

#include "config/config.h"
#include "flow/env.h"

/* For lb_config_load_with(): can the files be read, and do they belong together? */
void lb_tls_judge(const struct lb_config *config, const struct lb_yaml_node *root,
		  struct lb_config_notices *notices);

/*
 * What <rule>, which is to be as <config> says, needs; <config> must outlive it. Before privileges
 * are dropped. 0, or -errno after a message.
 */
int lb_tls_build(struct lb_rule *rule, const struct lb_rule_config *config);
/* Harmless when there is nothing. No flow may be left. */
void lb_tls_release(struct lb_rule *rule);

#endif
