/* SPDX-License-Identifier: MIT */
/*
 * Decides whether every listener can have its address, and whether a connection can come back to
 * the rule it came from. Knows only what addresses say: a backend that is one of this machine's own
 * addresses by another name is not found here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "config/config_check.h"

#define PORTS     65536
#define KEY_BYTES 96
#define NONE      UINT32_MAX

enum visit {
	NOT_SEEN = 0,
	ON_PATH, /* a connection may be on its way through this rule */
	DONE,
};

struct check {
	const struct lb_config *config;
	const struct lb_yaml_node *rules;
	struct lb_config_notices *notices;
	uint32_t *first;       /* [port] -> a rule that listens there, or NONE */
	uint32_t *next;        /* [rule] -> another one of the same port, or NONE */
	unsigned char *visits; /* [rule] -> enum visit */
};

/* Where one backend leads. Names other than localhost could be anything. */
struct target {
	bool known;
	bool localhost;
	uint16_t port;
	struct lb_addr addr; /* when known and not localhost */
};

static struct target target_of(const struct lb_backend_config *backend)
{
	struct target t = {.port = backend->port};

	t.localhost = strcasecmp(backend->host, "localhost") == 0;
	t.known = t.localhost || lb_addr_parse(backend->addr, &t.addr) == 0;
	if (t.known && !t.localhost)
		lb_addr_unmap(&t.addr);
	return t;
}

/* Connecting to 0.0.0.0 or :: reaches the loopback address itself. */
static bool is_first_loopback(const struct lb_addr *a)
{
	if (a->sa.sa_family == AF_INET)
		return a->in4.sin_addr.s_addr == htonl(INADDR_LOOPBACK);
	return lb_addr_is_loopback(a);
}

static bool reaches(const struct target *t, const struct lb_addr *listen)
{
	if (!t->known || t->port != lb_addr_port(listen))
		return false;
	if (t->localhost)
		return lb_addr_is_any(listen) || is_first_loopback(listen);
	if (t->addr.sa.sa_family != listen->sa.sa_family)
		return false;
	if (lb_addr_is_any(listen))
		return lb_addr_is_any(&t->addr) || lb_addr_is_loopback(&t->addr);
	if (lb_addr_is_any(&t->addr))
		return is_first_loopback(listen);
	return lb_addr_equal(&t->addr, listen);
}

/* IPv6 listeners leave IPv4 alone (IPV6_V6ONLY), so only the same family can be in the way. */
static bool collides(const struct lb_addr *a, const struct lb_addr *b)
{
	if (a->sa.sa_family != b->sa.sa_family || lb_addr_port(a) != lb_addr_port(b))
		return false;
	return lb_addr_is_any(a) || lb_addr_is_any(b) || lb_addr_equal(a, b);
}

static void complain_listen(struct check *c, size_t rule, const char *text, const char *name)
{
	const struct lb_yaml_node *where = lb_yaml_get(lb_yaml_at(c->rules, rule), "listen");
	char key[KEY_BYTES], addr[LB_ADDR_STR_MAX];

	snprintf(key, sizeof(key), "rules[%zu].listen", rule);
	lb_config_notices_add(c->notices, LB_CONFIG_ERROR, where->line, where->column, key,
			      "%s is taken by %s%s",
			      lb_addr_format(&c->config->rules[rule].listen, addr), text, name);
}

/* Enters <rule> into the index, after a look at those that are in it. */
static void check_listen(struct check *c, uint32_t rule)
{
	const struct lb_addr *listen = &c->config->rules[rule].listen;
	uint32_t *first = &c->first[lb_addr_port(listen)];

	for (uint32_t i = *first; i != NONE; i = c->next[i]) {
		if (!collides(listen, &c->config->rules[i].listen))
			continue;
		complain_listen(c, rule, "rule ", c->config->rules[i].name);
		break;
	}
	if (c->config->metrics_enabled && collides(listen, &c->config->metrics_addr))
		complain_listen(c, rule, "admin.metrics", "; move one of them");
	c->next[rule] = *first;
	*first = rule;
}

/* A list of backends: the rule's own, or that of one of its sni routes. */
struct origin {
	uint32_t rule;
	size_t sni; /* NO_SNI: the rule's own */
};

#define NO_SNI SIZE_MAX

static void complain_backend(struct check *c, enum lb_config_severity severity,
			     struct origin origin, size_t index, const char *text, const char *name)
{
	const struct lb_yaml_node *home = lb_yaml_at(c->rules, origin.rule), *where;
	char key[KEY_BYTES], sni[KEY_BYTES / 2] = "";

	if (origin.sni != NO_SNI) {
		home = lb_yaml_at(lb_yaml_get(home, "sni"), origin.sni);
		snprintf(sni, sizeof(sni), "sni[%zu].", origin.sni);
	}
	where = lb_yaml_at(lb_yaml_get(home, "backends"), index);
	snprintf(key, sizeof(key), "rules[%u].%sbackends[%zu]", origin.rule, sni, index);
	lb_config_notices_add(c->notices, severity, where->line, where->column, key, "%s%s", text,
			      name);
}

static void follow_rule(struct check *c, uint32_t rule);

static void follow_backends(struct check *c, struct origin origin,
			    const struct lb_backend_config *backends, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct target target = target_of(&backends[i]);

		for (uint32_t to = c->first[target.port]; to != NONE; to = c->next[to]) {
			const struct lb_rule_config *rule = &c->config->rules[to];

			if (!reaches(&target, &rule->listen))
				continue;
			if (to == origin.rule)
				complain_backend(c, LB_CONFIG_ERROR, origin, i,
						 "the rule points at itself: it listens there", "");
			else if (c->visits[to] == ON_PATH)
				complain_backend(c, LB_CONFIG_WARNING, origin, i,
						 "leads back, in a circle, to rule ", rule->name);
			else if (c->visits[to] == NOT_SEEN)
				follow_rule(c, to);
		}
	}
}

/* Depth first. The schema bounds the number of rules and so the depth; the frames are small. */
static void follow_rule(struct check *c, uint32_t rule)
{
	const struct lb_rule_config *config = &c->config->rules[rule];

	c->visits[rule] = ON_PATH;
	follow_backends(c, (struct origin){rule, NO_SNI}, config->backends, config->backends_count);
	for (size_t i = 0; i < config->sni_count; i++)
		follow_backends(c, (struct origin){rule, i}, config->sni[i].backends,
				config->sni[i].backends_count);
	c->visits[rule] = DONE;
}

int lb_config_check_addresses(const struct lb_config *config, const struct lb_yaml_node *root,
			      struct lb_config_notices *notices)
{
	LB_AUTO_FREE uint32_t *first = malloc(PORTS * sizeof(*first));
	LB_AUTO_FREE uint32_t *next = calloc(config->rules_count + 1, sizeof(*next));
	LB_AUTO_FREE unsigned char *visits = calloc(config->rules_count + 1, 1);
	struct check c = {
		.config = config,
		.rules = lb_yaml_get(root, "rules"),
		.notices = notices,
		.first = first,
		.next = next,
		.visits = visits,
	};

	if (!first || !next || !visits)
		return -ENOMEM;
	memset(first, 0xff, PORTS * sizeof(*first));
	for (uint32_t i = 0; i < config->rules_count; i++)
		check_listen(&c, i);
	for (uint32_t i = 0; i < config->rules_count; i++) {
		if (c.visits[i] == NOT_SEEN)
			follow_rule(&c, i);
	}
	return 0;
}
