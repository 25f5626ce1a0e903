/* SPDX-License-Identifier: MIT */
/*
 * See difference.h. A key that is not named here needs a restart: a new one does nothing that
 * nobody has thought about.
 */
#include "control/difference.h"

#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "config/schema.h"
#include "flow/bandwidth_limit.h"

#define PATH_BYTES 512

/* Keys of a rule that may change while it serves. */
static const char *const live[] = {
	"listen",
	"backends",
	"resolve",
	"balance",
	"acceleration",
	"timeouts",
	"retries",
	"queue",
	"backend_connection_limit",
	"client_connection_limit",
	"connection_limits",
	"proxy_protocol",
	"accept_proxy_protocol",
	"bandwidth_limit",
	"health_check",
	"passive_health",
	"on_down",
	"allow_list",
	"deny_list",
	"allow_list_file",
	"deny_list_file",
	"acl_cut_existing",
	"rate_limit",
	"tls",
	"backend_tls",
	"sni",
};

/* Keys that a rule which comes later may not have, unless they say nothing. */
static const char *const only_at_start[] = {
	"same_host_bypass",
	"bandwidth_limit",
};

struct walk {
	lb_difference_fn tell;
	void *arg;
	enum lb_difference_kind kind;
	const char *rule;
	int err;
};

static const struct lb_schema_block *rule_block(void)
{
	return lb_schema_find(&lb_schema_root, "rules")->block;
}

static bool is_one_of(const char *name, const char *const *names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (!strcmp(names[i], name))
			return true;
	return false;
}

/* --- values ----------------------------------------------------------------------------------- */

static void print_value(const struct lb_schema_key *key, const void *base, FILE *out)
{
	const void *field = (const char *)base + key->offset;

	if (key->list)
		fprintf(out, "%zu entries", lb_schema_list_count(key, base));
	else if (lb_schema_value_is_nothing(key, field))
		fputs("nothing", out);
	else
		lb_schema_value_print(key, field, out);
}

/* free(3) the result; NULL without memory. */
static char *text_of(const struct lb_schema_key *key, const void *base)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	print_value(key, base, out);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

static void tell_value(struct walk *w, const struct lb_schema_key *key, const char *path,
		       const void *was, const void *is)
{
	LB_AUTO_FREE char *before = text_of(key, was);
	LB_AUTO_FREE char *after = text_of(key, is);
	const struct lb_difference d = {
		.kind = w->kind, .rule = w->rule, .key = path, .was = before, .is = after};

	if (before && after)
		w->tell(w->arg, &d);
	else
		w->err = -ENOMEM;
}

static void walk_block(struct walk *w, const struct lb_schema_block *block, const char *prefix,
		       const void *was, const void *is);

static void walk_key(struct walk *w, const struct lb_schema_key *key, const char *prefix,
		     const void *was, const void *is)
{
	char path[PATH_BYTES];

	if (lb_schema_is_key_equal(key, was, is))
		return;
	snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", key->name);
	if (key->type == LB_SCHEMA_BLOCK && !key->list)
		walk_block(w, key->block, path, (const char *)was + key->offset,
			   (const char *)is + key->offset);
	else
		tell_value(w, key, path, was, is);
}

static void walk_block(struct walk *w, const struct lb_schema_block *block, const char *prefix,
		       const void *was, const void *is)
{
	for (size_t i = 0; i < block->count; i++)
		walk_key(w, &block->keys[i], prefix, was, is);
}

/* --- backends --------------------------------------------------------------------------------- */

/* A list of them, of a rule or of one of its routes. */
struct list {
	const struct lb_backend_config *all;
	size_t count;
};

static const struct lb_backend_config *find_backend(const struct list *list, const char *addr)
{
	for (size_t i = 0; i < list->count; i++)
		if (!strcmp(list->all[i].addr, addr))
			return &list->all[i];
	return NULL;
}

static void tell_entry(struct walk *w, const char *key, const char *was, const char *is)
{
	w->tell(w->arg,
		&(struct lb_difference){
			.kind = w->kind, .rule = w->rule, .key = key, .was = was, .is = is});
}

static void walk_backends(struct walk *w, const char *key, struct list was, struct list is)
{
	const struct lb_schema_block *block = lb_schema_find(rule_block(), "backends")->block;

	for (size_t i = 0; i < was.count; i++) {
		const char *addr = was.all[i].addr;
		const struct lb_backend_config *now = find_backend(&is, addr);
		char path[2 * PATH_BYTES];

		snprintf(path, sizeof(path), "%s[%s]", key, addr);
		if (now)
			walk_block(w, block, path, &was.all[i], now);
		else
			tell_entry(w, key, addr, "");
	}
	for (size_t i = 0; i < is.count; i++)
		if (!find_backend(&was, is.all[i].addr))
			tell_entry(w, key, "", is.all[i].addr);
}

/* --- routes ----------------------------------------------------------------------------------- */

static const struct lb_sni_config *find_route(const struct lb_rule_config *rule, const char *name)
{
	for (size_t i = 0; i < rule->sni_count; i++)
		if (!strcmp(lb_config_route_name(&rule->sni[i]), name))
			return &rule->sni[i];
	return NULL;
}

static void walk_route(struct walk *w, const struct lb_sni_config *was,
		       const struct lb_sni_config *is)
{
	const struct lb_schema_block *block = lb_schema_find(rule_block(), "sni")->block;
	char path[PATH_BYTES], backends[PATH_BYTES + sizeof(".backends")];

	snprintf(path, sizeof(path), "sni[%s]", lb_config_route_name(is));
	snprintf(backends, sizeof(backends), "%s.backends", path);
	walk_key(w, lb_schema_find(block, "names"), path, was, is);
	walk_key(w, lb_schema_find(block, "alpn"), path, was, is);
	walk_backends(w, backends, (struct list){was->backends, was->backends_count},
		      (struct list){is->backends, is->backends_count});
}

/* Whether those routes that both have follow each other in the same way. */
static bool is_in_order(const struct lb_rule_config *was, const struct lb_rule_config *is)
{
	const struct lb_sni_config *last = was->sni;

	for (size_t i = 0; i < is->sni_count; i++) {
		const struct lb_sni_config *found =
			find_route(was, lb_config_route_name(&is->sni[i]));

		if (found && found < last)
			return false;
		last = found ? found : last;
	}
	return true;
}

static void walk_sni(struct walk *w, const struct lb_rule_config *was,
		     const struct lb_rule_config *is)
{
	for (size_t i = 0; i < was->sni_count; i++) {
		const char *name = lb_config_route_name(&was->sni[i]);
		const struct lb_sni_config *now = find_route(is, name);

		if (now)
			walk_route(w, &was->sni[i], now);
		else
			tell_entry(w, "sni", name, "");
	}
	for (size_t i = 0; i < is->sni_count; i++) {
		const char *name = lb_config_route_name(&is->sni[i]);

		if (!find_route(was, name))
			tell_entry(w, "sni", "", name);
	}
	/* Of those that take the same clients the first one gets them. */
	if (!is_in_order(was, is))
		tell_entry(w, "sni", "in that order", "in another order");
}

/* --- rules ------------------------------------------------------------------------------------ */

/* What would have to begin or to end, and cannot while flows are there that know nothing of it. */
static bool is_switched(const struct lb_schema_key *key, const struct lb_rule_config *was,
			const struct lb_rule_config *is)
{
	/* Its flows are between client and backend already: half of what they do would be the old
	 * configuration's, and what was decrypted could go on in clear. */
	if (!strcmp(key->name, "tls"))
		return was->tls.enabled != is->tls.enabled;
	if (!strcmp(key->name, "backend_tls"))
		return was->backend_tls.enabled != is->backend_tls.enabled;
	if (!strcmp(key->name, "sni"))
		return !was->sni_count != !is->sni_count;
	if (!strcmp(key->name, "client_connection_limit"))
		return !was->client_connection_limit != !is->client_connection_limit;
	if (!strcmp(key->name, "bandwidth_limit"))
		return lb_bandwidth_limit_is_set(&was->bandwidth_limit) !=
		       lb_bandwidth_limit_is_set(&is->bandwidth_limit);
	return false;
}

/* Of a file that has the name it had. */
static void walk_list_file(struct walk *w, const char *key, const struct lb_prefixes *was,
			   const struct lb_prefixes *is)
{
	char before[48], after[48];

	if (was->count == is->count &&
	    (!was->count || !memcmp(was->all, is->all, was->count * sizeof(*was->all))))
		return;
	snprintf(before, sizeof(before), "%zu entries", was->count);
	snprintf(after, sizeof(after), "%zu entries, other ones", is->count);
	w->kind = LB_DIFFERENCE_CHANGED;
	w->tell(w->arg,
		&(struct lb_difference){
			.kind = w->kind, .rule = w->rule, .key = key, .was = before, .is = after});
}

/* Of files that have the names they had. */
static void walk_tls_files(struct walk *w, const char *block, const uint8_t *was, const uint8_t *is,
			   bool tell)
{
	if (!tell || !memcmp(was, is, LB_FILES_DIGEST_BYTES))
		return;
	w->kind = LB_DIFFERENCE_CHANGED;
	w->tell(w->arg, &(struct lb_difference){.kind = w->kind,
						.rule = w->rule,
						.key = block,
						.was = "the files as they were",
						.is = "files that have changed"});
}

static void walk_rule(struct walk *w, const struct lb_rule_config *was,
		      const struct lb_rule_config *is)
{
	const struct lb_schema_block *block = rule_block();

	w->rule = is->name;
	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];
		bool may = is_one_of(key->name, live, LB_ARRAY_SIZE(live)) &&
			   !is_switched(key, was, is);

		w->kind = may ? LB_DIFFERENCE_CHANGED : LB_DIFFERENCE_REFUSED;
		if (!strcmp(key->name, "backends"))
			walk_backends(w, "backends",
				      (struct list){was->backends, was->backends_count},
				      (struct list){is->backends, is->backends_count});
		else if (!strcmp(key->name, "sni"))
			walk_sni(w, was, is);
		else
			walk_key(w, key, "", was, is);
	}
	walk_list_file(w, "allow_list_file", &was->allow_file, &is->allow_file);
	walk_list_file(w, "deny_list_file", &was->deny_file, &is->deny_file);
	/* Where the block says something else, that has been told already. */
	walk_tls_files(w, "tls", was->tls.files, is->tls.files,
		       lb_difference_is_same(was, is, "tls"));
	walk_tls_files(w, "backend_tls", was->backend_tls.files, is->backend_tls.files,
		       lb_difference_is_same(was, is, "backend_tls"));
	w->rule = NULL;
}

static void tell_added(struct walk *w, const struct lb_rule_config *is)
{
	char listen[LB_ADDR_STR_MAX];

	lb_addr_format(&is->listen, listen);
	w->tell(w->arg, &(struct lb_difference){.kind = LB_DIFFERENCE_ADDED,
						.rule = is->name,
						.key = "",
						.was = "",
						.is = listen});
	for (size_t i = 0; i < LB_ARRAY_SIZE(only_at_start); i++) {
		const struct lb_schema_key *key = lb_schema_find(rule_block(), only_at_start[i]);

		if (!lb_schema_is_default(key, is))
			w->tell(w->arg, &(struct lb_difference){.kind = LB_DIFFERENCE_REFUSED,
								.rule = is->name,
								.key = key->name,
								.was = "",
								.is = "something"});
	}
}

static void tell_removed(struct walk *w, const struct lb_rule_config *was)
{
	char listen[LB_ADDR_STR_MAX];

	lb_addr_format(&was->listen, listen);
	w->tell(w->arg, &(struct lb_difference){.kind = LB_DIFFERENCE_REMOVED,
						.rule = was->name,
						.key = "",
						.was = listen,
						.is = "",
						.drain_ms = was->timeouts.drain_ms});
}

const struct lb_rule_config *lb_difference_rule(const struct lb_config *config, const char *name)
{
	for (size_t i = 0; i < config->rules_count; i++)
		if (!strcmp(config->rules[i].name, name))
			return &config->rules[i];
	return NULL;
}

bool lb_difference_is_same(const struct lb_rule_config *a, const struct lb_rule_config *b,
			   const char *key)
{
	return lb_schema_is_key_equal(lb_schema_find(rule_block(), key), a, b);
}

static void walk_rules(struct walk *w, const struct lb_config *was, const struct lb_config *is)
{
	for (size_t i = 0; i < was->rules_count; i++)
		if (!lb_difference_rule(is, was->rules[i].name))
			tell_removed(w, &was->rules[i]);
	for (size_t i = 0; i < is->rules_count; i++) {
		const struct lb_rule_config *before = lb_difference_rule(was, is->rules[i].name);

		if (before)
			walk_rule(w, before, &is->rules[i]);
		else
			tell_added(w, &is->rules[i]);
	}
}

int lb_difference_find(const struct lb_config *first, const struct lb_config *was,
		       const struct lb_config *is, lb_difference_fn tell, void *arg)
{
	struct walk w = {.tell = tell, .arg = arg};

	for (size_t i = 0; i < lb_schema_root.count; i++) {
		const struct lb_schema_key *key = &lb_schema_root.keys[i];
		/* The top level's acceleration is what rules have that do not say. */
		bool may = !strcmp(key->name, "log") || !strcmp(key->name, "acceleration");

		if (!strcmp(key->name, "rules"))
			continue;
		w.kind = may ? LB_DIFFERENCE_CHANGED : LB_DIFFERENCE_RESTART;
		walk_key(&w, key, "", may ? was : first, is);
	}
	walk_rules(&w, was, is);
	return w.err;
}

void lb_difference_print(const struct lb_difference *d, FILE *out)
{
	if (d->rule)
		fprintf(out, "rule %s: ", d->rule);
	if (d->kind == LB_DIFFERENCE_ADDED)
		fprintf(out, "added, listens on %s", d->is);
	else if (d->kind == LB_DIFFERENCE_REMOVED)
		fprintf(out, "removed, its flows have %.1f s to end", (double)d->drain_ms / 1000);
	else if (!*d->was)
		fprintf(out, "%s: + %s", d->key, d->is);
	else if (!*d->is)
		fprintf(out, "%s: - %s", d->key, d->was);
	else
		fprintf(out, "%s: %s -> %s", d->key, d->was, d->is);
	if (d->kind == LB_DIFFERENCE_RESTART)
		fprintf(out, " (needs a restart; %s stays in force)", d->was);
	else if (d->kind == LB_DIFFERENCE_REFUSED)
		fputs(" (needs a restart)", out);
}
