/* SPDX-License-Identifier: MIT */
/*
 * Decides whether keys that are each in order make sense together. Who listens where and who
 * connects to whom is judged in config_check_addresses.c, routes by name in config_check_sni.c.
 * Must never ask the machine it runs on: the answer depends on the file alone.
 */
#include "config/config_check.h"

#include <string.h>

#define KEY_BYTES 96

struct check {
	const struct lb_config *config;
	const struct lb_yaml_node *root;
	struct lb_config_notices *notices;
};

/* Of one rule: its number, and where it stands. */
struct place {
	size_t index;
	const struct lb_yaml_node *node;
};

/*
 * About <key> of the rule, or <block>.<key> when <block> is given; at the place of the innermost of
 * the rule, the block and the key that is in the file.
 */
static void complain(struct check *c, enum lb_config_severity severity, struct place rule,
		     const char *block, const char *key, const char *text)
{
	const struct lb_yaml_node *where = rule.node, *home = rule.node, *found;
	char path[KEY_BYTES];

	snprintf(path, sizeof(path), "rules[%zu].%s%s%s", rule.index, block ? block : "",
		 block ? "." : "", key);
	if (block) {
		found = lb_yaml_get_key(home, block);
		where = found ? found : where;
		home = lb_yaml_get(home, block);
	}
	found = lb_yaml_get_key(home, key);
	where = found ? found : where;
	lb_config_notices_add(c->notices, severity, where->line, where->column, path, "%s", text);
}

static void check_name(struct check *c, struct place rule)
{
	const char *name = c->config->rules[rule.index].name;

	for (size_t i = 0; i < rule.index; i++) {
		if (strcmp(c->config->rules[i].name, name) != 0)
			continue;
		complain(c, LB_CONFIG_ERROR, rule, NULL, "name",
			 "another rule has this name; logs and metrics could not tell them apart");
		return;
	}
}

/* A backend listed twice was how one weighted before there were weights; it still works. */
static void check_backends(struct check *c, struct place rule)
{
	const struct lb_rule_config *config = &c->config->rules[rule.index];
	size_t draining = 0;

	for (size_t i = 0; i < config->backends_count; i++) {
		const struct lb_backend_config *b = &config->backends[i];
		char key[KEY_BYTES];

		draining += b->drain;
		for (size_t j = 0; j < i; j++) {
			const struct lb_backend_config *other = &config->backends[j];
			const struct lb_yaml_node *where;

			if (b->port != other->port || strcmp(b->host, other->host) != 0)
				continue;
			where = lb_yaml_at(lb_yaml_get(rule.node, "backends"), i);
			snprintf(key, sizeof(key), "rules[%zu].backends[%zu]", rule.index, i);
			lb_config_notices_add(
				c->notices, LB_CONFIG_WARNING, where->line, where->column, key,
				"%s is listed before; use weight for a larger share", b->addr);
			break;
		}
	}
	if (draining == config->backends_count)
		complain(c, LB_CONFIG_WARNING, rule, NULL, "backends",
			 "every backend is draining, so no client will be served");
}

static void check_tls(struct check *c, struct place rule)
{
	const struct lb_tls_config *tls = &c->config->rules[rule.index].tls;
	const struct lb_backend_tls_config *backend = &c->config->rules[rule.index].backend_tls;

	if (tls->enabled && !tls->cert != !tls->key)
		complain(c, LB_CONFIG_ERROR, rule, "tls", tls->cert ? "cert" : "key",
			 "cert and key belong together; one of them is missing");
	else if (tls->enabled && !tls->cert && !tls->certificates_count)
		complain(c, LB_CONFIG_ERROR, rule, "tls", "cert",
			 "missing; tls needs cert and key, or certificates");
	if (tls->enabled && tls->ocsp && !tls->cert)
		complain(c, LB_CONFIG_ERROR, rule, "tls", "ocsp", "says nothing without cert");
	if (tls->enabled && tls->share_tickets &&
	    (!c->config->cluster.enabled || !c->config->cluster.key_file))
		complain(c, LB_CONFIG_ERROR, rule, "tls", "share_tickets",
			 "needs a cluster with a key_file: tickets are sealed with keys of that");
	if (backend->enabled && !backend->client_cert != !backend->client_key)
		complain(c, LB_CONFIG_ERROR, rule, "backend_tls",
			 backend->client_cert ? "client_cert" : "client_key",
			 "client_cert and client_key belong together; one of them is missing");
}

static void check_trust(struct check *c, struct place rule)
{
	const struct lb_tls_config *tls = &c->config->rules[rule.index].tls;
	const struct lb_backend_tls_config *backend = &c->config->rules[rule.index].backend_tls;

	if (tls->enabled && tls->client_crl && !tls->client_ca)
		complain(c, LB_CONFIG_ERROR, rule, "tls", "client_crl",
			 "says nothing without client_ca");
	if (tls->enabled && tls->client_auth == LB_CLIENT_AUTH_OPTIONAL && !tls->client_ca)
		complain(c, LB_CONFIG_ERROR, rule, "tls", "client_auth",
			 "says nothing without client_ca");
	if (backend->enabled && backend->crl && !backend->ca)
		complain(c, LB_CONFIG_ERROR, rule, "backend_tls", "crl", "says nothing without ca");
	if (backend->enabled && backend->ignore_verify)
		complain(c, LB_CONFIG_WARNING, rule, "backend_tls", "ignore_verify",
			 "whoever is in between can read and change everything");
}

static void check_health(struct check *c, struct place rule)
{
	const struct lb_health_check_config *health = &c->config->rules[rule.index].health_check;

	if (health->enabled && health->path[0] != '/')
		complain(c, LB_CONFIG_ERROR, rule, "health_check", "path",
			 "expected a path that starts with /");
	if (health->enabled && health->share && !c->config->cluster.enabled)
		complain(c, LB_CONFIG_ERROR, rule, "health_check", "share", "needs a cluster");
}

static bool is_denied(const struct lb_rule_config *config, const struct lb_prefix *clients)
{
	for (size_t i = 0; i < config->deny_list_count; i++) {
		if (lb_prefix_contains(&config->deny_list[i], clients))
			return true;
	}
	return false;
}

/*
 * Everyone is refused when each allowed prefix is inside one denied prefix. (Many small denials can
 * add up to the same; that is not a slip of the pen, and not searched for.)
 */
static void check_access_lists(struct check *c, struct place rule)
{
	const struct lb_rule_config *config = &c->config->rules[rule.index];
	const struct lb_prefix everyone = {.family = (uint8_t)config->listen.sa.sa_family};
	size_t possible = 0;

	if (!config->allow_list_count && is_denied(config, &everyone))
		complain(c, LB_CONFIG_WARNING, rule, NULL, "deny_list", "refuses every client");
	for (size_t i = 0; i < config->allow_list_count; i++) {
		if (config->allow_list[i].family != everyone.family)
			continue;
		possible++;
		if (!is_denied(config, &config->allow_list[i]))
			return;
	}
	if (!config->allow_list_count)
		return;
	if (possible)
		complain(c, LB_CONFIG_WARNING, rule, NULL, "deny_list", "refuses every client");
	else
		complain(c, LB_CONFIG_WARNING, rule, NULL, "allow_list",
			 "names no client of the listener's address family, so nobody is served");
}

static void check_cluster(struct check *c)
{
	const struct lb_cluster_config *cluster = &c->config->cluster;
	const struct lb_yaml_node *where = lb_yaml_get_key(c->root, "cluster");

	if (cluster->enabled && !cluster->key_file && !cluster->insecure)
		lb_config_notices_add(c->notices, LB_CONFIG_REFUSES_TO_RUN, where->line,
				      where->column, "cluster.key_file",
				      "missing; anybody could join (insecure: true allows that)");
}

/* Alone, this node would let in what all of them together may. */
static void check_shared_limits(struct check *c, struct place rule)
{
	static const char why[] = "true, and this node is in no cluster (cluster.enabled)";
	const struct lb_rule_config *r = &c->config->rules[rule.index];

	if (c->config->cluster.enabled)
		return;
	if (r->rate_limit.enabled && r->rate_limit.cluster)
		complain(c, LB_CONFIG_ERROR, rule, "rate_limit", "cluster", why);
	if (r->connection_limits.cluster)
		complain(c, LB_CONFIG_ERROR, rule, "connection_limits", "cluster", why);
}

static void check_graft(struct check *c)
{
	const struct lb_graft_config *graft = &c->config->graft;
	const struct lb_yaml_node *block = lb_yaml_get(c->root, "graft");
	const struct lb_yaml_node *where;

	if (graft->port_min <= graft->port_max)
		return;
	where = lb_yaml_get_key(block, "port_max");
	if (!where)
		where = lb_yaml_get_key(block, "port_min");
	lb_config_notices_add(c->notices, LB_CONFIG_ERROR, where->line, where->column,
			      "graft.port_max", "is below port_min (%u > %u)",
			      (unsigned int)graft->port_min, (unsigned int)graft->port_max);
}

static void check_page(struct check *c)
{
	const struct lb_yaml_node *where = lb_yaml_get_key(lb_yaml_get(c->root, "admin"), "page");
	char addr[LB_ADDR_STR_MAX];

	if (!c->config->admin.page)
		return;
	if (!c->config->metrics_enabled)
		lb_config_notices_add(c->notices, LB_CONFIG_ERROR, where->line, where->column,
				      "admin.page", "is at the address of metrics, which is off");
	else if (!lb_addr_is_loopback(&c->config->metrics_addr))
		lb_config_notices_add(c->notices, LB_CONFIG_WARNING, where->line, where->column,
				      "admin.page", "whoever reaches %s sees it",
				      lb_addr_format(&c->config->metrics_addr, addr));
}

int lb_config_check(const struct lb_config *config, const struct lb_yaml_node *root,
		    struct lb_config_notices *notices)
{
	struct check c = {.config = config, .root = root, .notices = notices};
	int err;

	for (size_t i = 0; i < config->rules_count; i++) {
		struct place rule = {i, lb_yaml_at(lb_yaml_get(root, "rules"), i)};

		check_name(&c, rule);
		check_backends(&c, rule);
		check_tls(&c, rule);
		check_trust(&c, rule);
		check_health(&c, rule);
		check_access_lists(&c, rule);
		check_shared_limits(&c, rule);
	}
	check_cluster(&c);
	check_graft(&c);
	check_page(&c);
	err = lb_config_check_sni(config, root, notices);
	return err ? err : lb_config_check_addresses(config, root, notices);
}
