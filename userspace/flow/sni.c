/* SPDX-License-Identifier: MIT */
/* See sni.h. A wildcard stands for exactly one label, as in certificates (RFC 6125, 6.4.3). */
#include "flow/sni.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define ANY_NAME "*"

struct route {
	const struct lb_rule *target;
	char **alpn; /* owned; none: whatever is offered */
	size_t alpn_count;
};

/* One of its names, in lower case: "a.example.org", ".example.org" for *.example.org, or "*". */
struct name {
	char *text; /* owned */
	uint32_t route;
};

struct lb_sni {
	struct route *routes;
	size_t routes_count;
	struct name *names; /* sorted; of one text, in the order of routes */
	size_t names_count;
};

/* --- making ----------------------------------------------------------------------------------- */

static int add_name(struct lb_sni *sni, const char *text, uint32_t route)
{
	char *copy = strdup(!strncmp(text, "*.", 2) ? text + 1 : text);

	if (!copy)
		return -ENOMEM;
	for (char *c = copy; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	sni->names[sni->names_count++] = (struct name){.text = copy, .route = route};
	return 0;
}

static int add_route(struct lb_sni *sni, const struct lb_sni_config *config,
		     const struct lb_rule *target)
{
	uint32_t number = (uint32_t)sni->routes_count++;
	struct route *route = &sni->routes[number];
	int err = 0;

	route->target = target;
	route->alpn = calloc(config->alpn_count + 1, sizeof(char *));
	if (!route->alpn)
		return -ENOMEM;
	for (; route->alpn_count < config->alpn_count; route->alpn_count++) {
		route->alpn[route->alpn_count] = strdup(config->alpn[route->alpn_count]);
		if (!route->alpn[route->alpn_count])
			return -ENOMEM;
	}
	for (size_t i = 0; i < config->names_count && !err; i++)
		err = add_name(sni, config->names[i], number);
	return err;
}

static int compare(const void *left, const void *right)
{
	const struct name *a = left, *b = right;
	int order = strcmp(a->text, b->text);

	return order ? order : (a->route > b->route) - (a->route < b->route);
}

static size_t count_names(const struct lb_rule_config *config)
{
	size_t n = 0;

	for (size_t i = 0; i < config->sni_count; i++)
		n += config->sni[i].names_count;
	return n;
}

int lb_sni_new(struct lb_sni **ret, const struct lb_rule_config *config,
	       const struct lb_rule *const *targets)
{
	LB_AUTO(lb_sni_free) struct lb_sni *sni = NULL;
	int err = 0;

	if (!config->sni_count) {
		*ret = NULL;
		return 0;
	}
	sni = calloc(1, sizeof(*sni));
	if (!sni)
		return -ENOMEM;
	sni->routes = calloc(config->sni_count, sizeof(*sni->routes));
	sni->names = calloc(count_names(config) + 1, sizeof(*sni->names));
	if (!sni->routes || !sni->names)
		return -ENOMEM;
	for (size_t i = 0; i < config->sni_count && !err; i++)
		err = add_route(sni, &config->sni[i], targets[i]);
	if (err)
		return err;
	qsort(sni->names, sni->names_count, sizeof(*sni->names), compare);
	*ret = LB_TAKE_PTR(sni);
	return 0;
}

void lb_sni_free(struct lb_sni **ps)
{
	struct lb_sni *sni = *ps;

	if (!sni)
		return;
	*ps = NULL;
	for (size_t i = 0; i < sni->routes_count; i++) {
		for (size_t j = 0; j < sni->routes[i].alpn_count; j++)
			free(sni->routes[i].alpn[j]);
		free(sni->routes[i].alpn);
	}
	for (size_t i = 0; i < sni->names_count; i++)
		free(sni->names[i].text);
	free(sni->routes);
	free(sni->names);
	free(sni);
}

/* --- looking ---------------------------------------------------------------------------------- */

static bool takes(const struct route *route, const struct lb_client_hello *hello)
{
	for (size_t i = 0; i < route->alpn_count; i++)
		if (lb_client_hello_offers(hello, route->alpn[i]))
			return true;
	return !route->alpn_count;
}

/* The first of the names that is not before <text>. */
static size_t lower_bound(const struct lb_sni *sni, const char *text)
{
	size_t from = 0, to = sni->names_count;

	while (from < to) {
		size_t middle = from + (to - from) / 2;

		if (strcmp(sni->names[middle].text, text) < 0)
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

static const struct lb_rule *look(const struct lb_sni *sni, const char *text,
				  const struct lb_client_hello *hello)
{
	for (size_t i = lower_bound(sni, text);
	     i < sni->names_count && !strcmp(sni->names[i].text, text); i++) {
		const struct route *route = &sni->routes[sni->names[i].route];

		if (takes(route, hello))
			return route->target;
	}
	return NULL;
}

const struct lb_rule *lb_sni_find(const struct lb_sni *sni, const struct lb_client_hello *hello)
{
	const char *name = hello->name, *parent = strchr(name, '.');
	/* What begins with a dot or is a star must not match what stands for names. */
	bool plain = *name && *name != '.' && strcmp(name, ANY_NAME) != 0;
	const struct lb_rule *found = plain ? look(sni, name, hello) : NULL;

	if (!found && plain && parent)
		found = look(sni, parent, hello);
	return found ? found : look(sni, ANY_NAME, hello);
}
