/* SPDX-License-Identifier: MIT */
/*
 * Decides what a route has from its rule: whatever concerns its backends and its flows. Who may
 * come, and how much of everything, is the rule's business alone: it would count twice. Owns of a
 * route nothing but its name.
 */
#include "config/config_routes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *lb_config_route_name(const struct lb_sni_config *route)
{
	return route->name ? route->name : route->names[0];
}

const struct lb_rule_config *lb_config_place(const struct lb_config *config, size_t i)
{
	return i < config->rules_count ? &config->rules[i]
				       : &config->routes[i - config->rules_count];
}

char *lb_config_route_title(const struct lb_rule_config *rule, const struct lb_sni_config *sni)
{
	char *text = NULL;

	return asprintf(&text, "%s/%s", rule->name, lb_config_route_name(sni)) < 0 ? NULL : text;
}

static int derive(struct lb_rule_config *route, const struct lb_rule_config *rule,
		  const struct lb_sni_config *sni)
{
	*route = *rule;
	route->of = rule;
	route->backends = sni->backends;
	route->backends_count = sni->backends_count;
	route->listen = (struct lb_addr){.sa.sa_family = AF_UNSPEC};
	route->sni = NULL;
	route->sni_count = 0;
	route->client_connection_limit = 0;
	route->rate_limit = (struct lb_rate_limit_config){0};
	route->bandwidth_limit = (struct lb_bandwidth_limit_config){0};
	route->allow_list = route->deny_list = NULL;
	route->allow_list_count = route->deny_list_count = 0;
	route->allow_list_file = route->deny_list_file = NULL;
	route->allow_file = route->deny_file = (struct lb_prefixes){0};
	route->name = lb_config_route_title(rule, sni);
	return route->name ? 0 : -ENOMEM;
}

int lb_config_routes_build(struct lb_config *config)
{
	size_t count = 0;
	int err = 0;

	for (size_t i = 0; i < config->rules_count; i++)
		count += config->rules[i].sni_count;
	if (!count)
		return 0;
	config->routes = calloc(count, sizeof(*config->routes));
	if (!config->routes)
		return -ENOMEM;
	for (size_t i = 0; i < config->rules_count && !err; i++) {
		const struct lb_rule_config *rule = &config->rules[i];

		for (size_t j = 0; j < rule->sni_count && !err; j++)
			err = derive(&config->routes[config->routes_count++], rule, &rule->sni[j]);
	}
	return err;
}

void lb_config_routes_free(struct lb_config *config)
{
	for (size_t i = 0; i < config->routes_count; i++)
		free(config->routes[i].name);
	free(config->routes);
	config->routes = NULL;
	config->routes_count = 0;
}
