/* SPDX-License-Identifier: MIT */
/* See tls.h. Decides where in lb.yaml a problem with a certificate is told. */
#include "control/tls.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "backend/backend_tls.h"
#include "backend/ktls.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "config/yaml.h"
#include "control/difference.h"
#include "flow/tls.h"

#define DAY_S          86400
#define EXPIRES_SOON_S (14 * DAY_S)
#define KEY_BYTES      96

/* --- judging ---------------------------------------------------------------------------------- */

struct place {
	const struct lb_yaml_node *rule;
	size_t index;
	const char *block; /* "tls", "backend_tls" */
};

static void complain(struct lb_config_notices *notices, const struct place *place,
		     enum lb_config_severity severity, const struct lb_tls_problem *problem)
{
	const struct lb_yaml_node *where = lb_yaml_get_key(place->rule, place->block), *found;
	const struct lb_yaml_node *home = lb_yaml_get(place->rule, place->block);
	char path[KEY_BYTES], item[32] = "";

	if (problem->item != SIZE_MAX) {
		home = lb_yaml_at(lb_yaml_get(home, "certificates"), problem->item);
		snprintf(item, sizeof(item), ".certificates[%zu]", problem->item);
	}
	found = problem->key ? lb_yaml_get_key(home, problem->key) : NULL;
	where = found ? found : where;
	snprintf(path, sizeof(path), "rules[%zu].%s%s%s%s", place->index, place->block, item,
		 problem->key ? "." : "", problem->key ? problem->key : "");
	lb_config_notices_add(notices, severity, where ? where->line : 0, where ? where->column : 0,
			      path, "%s", problem->text);
}

static void warn_of_expiry(struct lb_config_notices *notices, const struct place *place,
			   int64_t expiry)
{
	struct lb_tls_problem problem = LB_TLS_PROBLEM_NONE;
	int64_t left = expiry - (int64_t)time(NULL);

	if (left > EXPIRES_SOON_S)
		return;
	if (left <= 0)
		snprintf(problem.text, sizeof(problem.text), "a certificate has expired");
	else
		snprintf(problem.text, sizeof(problem.text), "a certificate expires in %lld days",
			 (long long)left / DAY_S);
	complain(notices, place, LB_CONFIG_WARNING, &problem);
}

static void warn_of_staple(struct lb_config_notices *notices, const struct place *place,
			   int64_t end)
{
	struct lb_tls_problem problem = LB_TLS_PROBLEM_NONE;

	if (!end || end > (int64_t)time(NULL))
		return;
	snprintf(problem.text, sizeof(problem.text),
		 "an OCSP response has expired: it is not sent any more");
	complain(notices, place, LB_CONFIG_WARNING, &problem);
}

static void judge_rule(struct lb_rule_config *rule, struct place place,
		       struct lb_config_notices *notices)
{
	LB_AUTO(lb_tls_free) struct lb_tls *tls = NULL;
	LB_AUTO(lb_backend_tls_free) struct lb_backend_tls *backend = NULL;
	struct lb_tls_problem problem = LB_TLS_PROBLEM_NONE;

	place.block = "tls";
	/* Before they are read: what changes in between is another file at the next reload. */
	if ((rule->tls.enabled && lb_tls_digest(&rule->tls, rule->tls.files)) ||
	    (rule->backend_tls.enabled &&
	     lb_backend_tls_digest(&rule->backend_tls, rule->backend_tls.files)))
		notices->out_of_memory = true;
	if (rule->tls.enabled && lb_tls_new(&tls, rule, NULL, NULL, &problem) == -EINVAL)
		complain(notices, &place, LB_CONFIG_ERROR, &problem);
	if (tls) {
		warn_of_expiry(notices, &place, lb_tls_expiry(tls));
		warn_of_staple(notices, &place, lb_tls_staple_end(tls));
	}
	place.block = "backend_tls";
	problem = LB_TLS_PROBLEM_NONE;
	if (rule->backend_tls.enabled &&
	    lb_backend_tls_new(&backend, &rule->backend_tls, !rule->backend_tls.ignore_verify,
			       &problem) == -EINVAL)
		complain(notices, &place, LB_CONFIG_ERROR, &problem);
}

void lb_tls_judge(struct lb_config *config, const struct lb_yaml_node *root,
		  struct lb_config_notices *notices)
{
	const struct lb_yaml_node *rules = lb_yaml_get(root, "rules");

	for (size_t i = 0; i < config->rules_count; i++)
		judge_rule(&config->rules[i],
			   (struct place){.rule = lb_yaml_at(rules, i), .index = i}, notices);
}

/* --- making ----------------------------------------------------------------------------------- */

static bool checks_by_tls(const struct lb_rule_config *config)
{
	return config->health_check.enabled && config->health_check.tls;
}

static int build_backend(struct lb_backend_tls **ret, const struct lb_rule_config *of,
			 struct lb_tls_problem *problem)
{
	const struct lb_backend_tls_config *config = &of->backend_tls;

	if (config->ignore_verify)
		lb_warn("rule %s: backend_tls.ignore_verify: backends are not verified", of->name);
	return lb_backend_tls_new(ret, config, !config->ignore_verify, problem);
}

/* Where flows speak no TLS nobody has said whom to believe: that TLS is spoken is what counts. */
static int build_check(struct lb_backend_tls **ret, const struct lb_rule_config *of,
		       struct lb_tls_problem *problem)
{
	static const struct lb_backend_tls_config any;
	const struct lb_backend_tls_config *config = &of->backend_tls;

	if (!config->enabled)
		return lb_backend_tls_new(ret, &any, false, problem);
	return lb_backend_tls_new(ret, config, !config->ignore_verify, problem);
}

/* Those parts of <c> that change; <rule> is what is in force, whose tickets stay good. */
static int build(struct lb_tls_change *c, const struct lb_rule_config *config,
		 const struct lb_rule *rule)
{
	struct lb_tls_problem problem = LB_TLS_PROBLEM_NONE;
	int err = 0;

	if (c->clients && config->tls.enabled)
		err = lb_tls_new(&c->tls, config, rule->tls, rule->secrets, &problem);
	if (!err && c->backends && config->backend_tls.enabled)
		err = build_backend(&c->backend_tls, config, &problem);
	if (!err && c->checks && checks_by_tls(config))
		err = build_check(&c->check_tls, config, &problem);
	if (err)
		lb_err("rule %s: TLS: %s%s%s", config->name, problem.key ? problem.key : "",
		       problem.key ? ": " : "", *problem.text ? problem.text : strerror(-err));
	return err;
}

int lb_tls_build(struct lb_rule *rule, const struct lb_rule_config *config)
{
	LB_AUTO(lb_tls_change_fini)
	struct lb_tls_change c = {.clients = true, .backends = true, .checks = true};
	int err = build(&c, config, rule);

	if (!err)
		lb_tls_commit(&c, rule);
	return err;
}

void lb_tls_release(struct lb_rule *rule)
{
	lb_tls_free(&rule->tls);
	lb_backend_tls_free(&rule->backend_tls);
	lb_backend_tls_free(&rule->check_tls);
}

static bool wants_ktls(const struct lb_config *config)
{
	for (size_t i = 0; i < config->rules_count; i++) {
		const struct lb_rule_config *rule = &config->rules[i];

		if ((rule->tls.enabled && rule->tls.ktls == LB_KTLS_AUTO) ||
		    (rule->backend_tls.enabled && rule->backend_tls.ktls == LB_KTLS_AUTO))
			return true;
	}
	return false;
}

void lb_tls_open_ktls(struct lb_flow_limits *limits, const struct lb_config *config)
{
	enum lb_ktls ktls = LB_KTLS_IN_SERVICE;
	char why[128] = "";

	if (limits->ktls != LB_KTLS_UNTRIED || !wants_ktls(config))
		return;
	if (lb_ktls_probe(why, sizeof(why)))
		ktls = LB_KTLS_MISSING;
	if (ktls == LB_KTLS_IN_SERVICE)
		lb_info("kTLS is in service: the kernel seals what is sent over TLS");
	else
		lb_info("kTLS is not in service: %s; OpenSSL seals what is sent over TLS", why);
	__atomic_store_n(&limits->ktls, ktls, __ATOMIC_RELAXED);
}

/* --- a change --------------------------------------------------------------------------------- */

/* Else something may be in force that no later reload would see as another one. */
static bool are_as_judged(const struct lb_tls_change *c, const struct lb_rule_config *config)
{
	uint8_t now[LB_FILES_DIGEST_BYTES];

	if (c->tls &&
	    (lb_tls_digest(&config->tls, now) || memcmp(now, config->tls.files, sizeof(now)) != 0))
		return false;
	return !(c->backend_tls && (lb_backend_tls_digest(&config->backend_tls, now) ||
				    memcmp(now, config->backend_tls.files, sizeof(now)) != 0));
}

int lb_tls_prepare(struct lb_tls_change *c, const struct lb_rule *rule,
		   const struct lb_rule_config *config)
{
	const struct lb_rule_config *was = rule->config;
	int err;

	c->clients = !lb_difference_is_same(was, config, "tls") ||
		     memcmp(was->tls.files, config->tls.files, LB_FILES_DIGEST_BYTES) != 0;
	c->backends = !lb_difference_is_same(was, config, "backend_tls") ||
		      memcmp(was->backend_tls.files, config->backend_tls.files,
			     LB_FILES_DIGEST_BYTES) != 0;
	c->checks = (c->backends && checks_by_tls(config)) ||
		    checks_by_tls(was) != checks_by_tls(config);
	err = build(c, config, rule);
	if (!err && !are_as_judged(c, config)) {
		lb_err("rule %s: TLS: files have changed while they were read", config->name);
		err = -EAGAIN;
	}
	return err;
}

static void swap(void *a, void *b)
{
	void **in_force = a, **fresh = b;

	*fresh = __atomic_exchange_n(in_force, *fresh, __ATOMIC_ACQ_REL);
}

void lb_tls_commit(struct lb_tls_change *c, struct lb_rule *rule)
{
	if (c->clients)
		swap(&rule->tls, &c->tls);
	if (c->backends)
		swap(&rule->backend_tls, &c->backend_tls);
	if (c->checks)
		swap(&rule->check_tls, &c->check_tls);
}

void lb_tls_change_fini(struct lb_tls_change *c)
{
	lb_tls_free(&c->tls);
	lb_backend_tls_free(&c->backend_tls);
	lb_backend_tls_free(&c->check_tls);
}
