/* SPDX-License-Identifier: MIT */
/*
 * Decides whether routes by name can be told apart, by clients' hellos and by people, and whether
 * their rule leaves TLS to others.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "config/config_check.h"

#define KEY_BYTES 96
/* Rules and routes have their places in one table; see LB_RULES_MAX. */
#define PLACES_MAX 4096u

struct check {
	const struct lb_config *config;
	const struct lb_yaml_node *rules;
	struct lb_config_notices *notices;
};

/* A name in a route, and where that is. */
struct name {
	const char *text;
	size_t rule, route, index;
};

static void complain(struct check *c, enum lb_config_severity severity, const struct name *at,
		     const char *text)
{
	const struct lb_yaml_node *route =
		lb_yaml_at(lb_yaml_get(lb_yaml_at(c->rules, at->rule), "sni"), at->route);
	const struct lb_yaml_node *where = lb_yaml_at(lb_yaml_get(route, "names"), at->index);
	char key[KEY_BYTES];

	snprintf(key, sizeof(key), "rules[%zu].sni[%zu].names[%zu]", at->rule, at->route,
		 at->index);
	lb_config_notices_add(c->notices, severity, where->line, where->column, key, "%s", text);
}

/* --- one name --------------------------------------------------------------------------------- */

/* Labels of what a host name may have, and of what some have all the same. */
static bool is_host(const char *text)
{
	for (const char *p = text; *p; p++) {
		bool dot = *p == '.';

		if (dot ? p == text || p[1] == '.' || !p[1]
			: !isalnum((unsigned char)*p) && !strchr("-_", *p))
			return false;
	}
	return *text;
}

static bool is_name(const char *text)
{
	if (!strcmp(text, "*"))
		return true;
	return is_host(!strncmp(text, "*.", 2) ? text + 2 : text);
}

/* --- routes of one rule ----------------------------------------------------------------------- */

static int by_text(const void *left, const void *right)
{
	const struct name *a = left, *b = right;
	int order = strcasecmp(a->text, b->text);

	if (!order && a->route != b->route)
		order = a->route < b->route ? -1 : 1;
	return order ? order : (a->index > b->index) - (a->index < b->index);
}

/* Who asks for a name goes to the first route that has it and takes what he offers. */
static void check_reached(struct check *c, const struct name *names, size_t count)
{
	bool taken = false;

	for (size_t i = 0; i < count; i++) {
		const struct name *n = &names[i];

		if (i && strcasecmp(n->text, names[i - 1].text) != 0)
			taken = false;
		if (taken)
			complain(c, LB_CONFIG_WARNING, n,
				 "nobody comes here: another route has this name before");
		taken = taken || !c->config->rules[n->rule].sni[n->route].alpn_count;
	}
}

static int check_names(struct check *c, size_t rule)
{
	const struct lb_rule_config *config = &c->config->rules[rule];
	LB_AUTO_FREE struct name *names = NULL;
	size_t count = 0;

	for (size_t i = 0; i < config->sni_count; i++)
		count += config->sni[i].names_count;
	names = calloc(count + 1, sizeof(*names));
	if (!names)
		return -ENOMEM;
	count = 0;
	for (size_t i = 0; i < config->sni_count; i++) {
		for (size_t j = 0; j < config->sni[i].names_count; j++) {
			struct name n = {config->sni[i].names[j], rule, i, j};

			names[count++] = n;
			if (!is_name(n.text))
				complain(c, LB_CONFIG_ERROR, &n,
					 "expected a host name, *.example.org or *");
		}
	}
	if (count)
		qsort(names, count, sizeof(*names), by_text);
	check_reached(c, names, count);
	return 0;
}

static void check_passes_through(struct check *c, size_t rule)
{
	const struct lb_rule_config *config = &c->config->rules[rule];
	const struct lb_yaml_node *where = lb_yaml_get_key(lb_yaml_at(c->rules, rule), "sni");
	char key[KEY_BYTES];

	if (!config->sni_count || (!config->tls.enabled && !config->backend_tls.enabled))
		return;
	snprintf(key, sizeof(key), "rules[%zu].sni", rule);
	lb_config_notices_add(c->notices, LB_CONFIG_ERROR, where->line, where->column, key,
			      "says where TLS goes that is passed through; with %s the rule speaks "
			      "TLS itself",
			      config->tls.enabled ? "tls" : "backend_tls");
}

/* --- all -------------------------------------------------------------------------------------- */

/* What a rule or a route is called. */
struct title {
	char *text; /* owned */
	struct name at;
	bool is_route;
};

struct titles {
	struct title *all;
	size_t count;
};

static void titles_free(struct titles *t)
{
	for (size_t i = 0; i < t->count; i++)
		free(t->all[i].text);
	free(t->all);
}

static int add_title(struct titles *t, const struct lb_rule_config *rule,
		     const struct lb_sni_config *sni, struct name at)
{
	char *text = sni ? lb_config_route_title(rule, sni) : strdup(rule->name);

	if (!text)
		return -ENOMEM;
	t->all[t->count++] = (struct title){.text = text, .at = at, .is_route = sni};
	return 0;
}

/* The rule first, then in the order of the file. */
static int by_title(const void *left, const void *right)
{
	const struct title *a = left, *b = right;
	int order = strcmp(a->text, b->text);

	if (!order && a->is_route != b->is_route)
		order = a->is_route ? 1 : -1;
	if (!order && a->at.rule != b->at.rule)
		order = a->at.rule < b->at.rule ? -1 : 1;
	return order ? order : (a->at.route > b->at.route) - (a->at.route < b->at.route);
}

static int check_titles(struct check *c, size_t count)
{
	LB_AUTO(titles_free) struct titles t = {.all = calloc(count + 1, sizeof(*t.all))};
	int err = t.all ? 0 : -ENOMEM;

	for (size_t i = 0; i < c->config->rules_count && !err; i++) {
		const struct lb_rule_config *rule = &c->config->rules[i];

		err = add_title(&t, rule, NULL, (struct name){.rule = i});
		for (size_t j = 0; j < rule->sni_count && !err; j++)
			err = add_title(&t, rule, &rule->sni[j],
					(struct name){.rule = i, .route = j});
	}
	if (err)
		return err;
	qsort(t.all, t.count, sizeof(*t.all), by_title);
	for (size_t i = 1; i < t.count; i++)
		if (t.all[i].is_route && !strcmp(t.all[i].text, t.all[i - 1].text))
			complain(c, LB_CONFIG_ERROR, &t.all[i].at,
				 "another route, or rule, is called so; give this one a `name`");
	return 0;
}

int lb_config_check_sni(const struct lb_config *config, const struct lb_yaml_node *root,
			struct lb_config_notices *notices)
{
	struct check c = {
		.config = config, .rules = lb_yaml_get(root, "rules"), .notices = notices};
	size_t count = config->rules_count;
	int err = 0;

	for (size_t i = 0; i < config->rules_count && !err; i++) {
		count += config->rules[i].sni_count;
		check_passes_through(&c, i);
		err = check_names(&c, i);
	}
	if (!err && count > PLACES_MAX)
		lb_config_notices_add(notices, LB_CONFIG_ERROR, c.rules->line, c.rules->column,
				      "rules", "expected at most %u rules and routes, found %zu",
				      PLACES_MAX, count);
	return err ? err : check_titles(&c, count);
}
