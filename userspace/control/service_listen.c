/* SPDX-License-Identifier: MIT */
/*
 * Decides where the listening sockets of a start come from: from whoever handed us some, or our
 * own. Each worker has one of its own at every rule's address. Must never listen where a process
 * that is none of ours does.
 */
#include <errno.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/listen_fds.h"
#include "base/log.h"
#include "control/service_parts.h"
#include "flow/accept.h"
#include "flow/keepalive.h"
#include "flow/listener.h"
#include "flow/segments.h"
#include "worker.h"

/* Of the ways to all backends that a client of <rule> may get. */
static int least_segment(const struct lb_service *s, const struct lb_rule *rule, bool routes)
{
	int least = lb_segments_carried(rule->pool), mss = least;

	for (const struct lb_rule *r = s->rules; routes && r < s->rules + LB_RULES_MAX; r++) {
		if (r->of == rule && r->pool)
			mss = lb_segments_carried(r->pool);
		least = mss < least ? mss : least;
	}
	return least;
}

int lb_service_segment(const struct lb_service *s, const struct lb_rule *rule)
{
	const struct lb_rule_config *config = rule->config;

	if (!s->grafts || !lb_service_may_graft(config))
		return 0;
	return least_segment(s, rule, config->sni_count);
}

int lb_service_open_listener(const struct lb_rule_config *config, bool exclusive)
{
	int fd = lb_accept_open(&config->listen, exclusive);

	if (fd >= 0)
		lb_keepalive_set(fd, &config->timeouts);
	return fd;
}

/* One that was handed in for the rule's address, else one of our own. */
static int find_listener(uint32_t worker, const struct lb_rule_config *config,
			 struct lb_listen_fds *handed, bool *adopted)
{
	LB_AUTO_CLOSE int fd = lb_listen_fds_get(handed, &config->listen);
	int err;

	if (fd < 0)
		return lb_service_open_listener(config, worker == 0 && !*adopted);
	err = lb_accept_adopt(fd);
	if (err)
		return err;
	*adopted = true;
	lb_keepalive_set(fd, &config->timeouts);
	return LB_TAKE_FD(fd);
}

/* <mss>: 0: any. */
static int listen_one(struct lb_service *s, uint32_t worker, const struct lb_rule *rule, int mss,
		      struct lb_listen_fds *handed, bool *adopted)
{
	LB_AUTO(lb_listener_free) struct lb_listener *l = NULL;
	LB_AUTO_CLOSE int fd = find_listener(worker, rule->config, handed, adopted);
	int err;

	if (fd < 0)
		return LB_TAKE_FD(fd);
	err = lb_listener_new(&l, rule, fd);
	if (err)
		return err;
	(void)LB_TAKE_FD(fd);
	if (mss)
		lb_listener_limit_segments(l, mss);
	return lb_worker_listen(s->workers[worker], &l);
}

static void tell_refused(const struct lb_rule *rule, int err)
{
	char addr[LB_ADDR_STR_MAX];

	lb_addr_format(&rule->config->listen, addr);
	if (err == -EAFNOSUPPORT)
		lb_err("rule %s: the listener handed in for %s takes IPv4 clients too: it has to "
		       "be for IPv6 only (systemd: BindIPv6Only=ipv6-only)",
		       rule->config->name, addr);
	else
		lb_err("rule %s: cannot listen on %s: %s", rule->config->name, addr,
		       strerror(-err));
}

static int listen_for(struct lb_service *s, const struct lb_rule *rule,
		      struct lb_listen_fds *handed)
{
	char addr[LB_ADDR_STR_MAX];
	int mss = lb_service_segment(s, rule), err = 0;
	bool adopted = false;

	for (uint32_t w = 0; w < s->workers_count && !err; w++)
		err = listen_one(s, w, rule, mss, handed, &adopted);
	if (err)
		tell_refused(rule, err);
	else if (adopted)
		lb_info("rule %s: the listener at %s was handed in", rule->config->name,
			lb_addr_format(&rule->config->listen, addr));
	return err;
}

int lb_service_listen(struct lb_service *s, struct lb_listen_fds *handed)
{
	int err = 0;

	for (size_t r = 0; r < s->config->rules_count && !err; r++)
		err = listen_for(s, &s->rules[r], handed);
	return err;
}
