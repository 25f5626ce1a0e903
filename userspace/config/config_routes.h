/* SPDX-License-Identifier: MIT */
/* The sni routes of rules as rules: see struct lb_config. */
#ifndef LB_CONFIG_CONFIG_ROUTES_H
#define LB_CONFIG_CONFIG_ROUTES_H

#include "config/config.h"

/* All else of <config> is as it will be. 0 or -ENOMEM. */
int lb_config_routes_build(struct lb_config *config);
/* What that made, if it did. */
void lb_config_routes_free(struct lb_config *config);

#endif
