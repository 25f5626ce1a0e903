/* SPDX-License-Identifier: MIT */
/* What no single row of the schema can see: keys that contradict each other. */
#ifndef LB_CONFIG_CONFIG_CHECK_H
#define LB_CONFIG_CONFIG_CHECK_H

#include "config/config.h"
#include "config/yaml.h"

/*
 * <config> was read from <root> without an error. Errors and warnings go to <notices>. 0 or
 * -ENOMEM. Pure; any thread.
 */
int lb_config_check(const struct lb_config *config, const struct lb_yaml_node *root,
		    struct lb_config_notices *notices);

/* The part about sni routes; config_check_sni.c. */
int lb_config_check_sni(const struct lb_config *config, const struct lb_yaml_node *root,
			struct lb_config_notices *notices);
/* The part about who listens where and who connects to whom; config_check_addresses.c. */
int lb_config_check_addresses(const struct lb_config *config, const struct lb_yaml_node *root,
			      struct lb_config_notices *notices);

#endif
