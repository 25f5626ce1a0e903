/* SPDX-License-Identifier: MIT */
/*
 * Decides where the listening sockets of a start come from: from whoever handed us some, or our
 * own. Each worker has one of its own at every rule's address. Must never listen where a process
 * that is none of ours does.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/listen_fds.h"
#include "base/log.h"
#include "control/service_parts.h"
#include "control/takeover.h"
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

/* A rule whose listeners are looked for. */
struct listening {
	struct lb_service *s;
	const struct lb_rule *rule;
	struct lb_listen_fds *handed;
	int mss; /* 0: any */
	uint32_t adopted;
	size_t first; /* of its listeners in s->held */
};

/*
 * More workers than the daemon before us had sockets: one of our own would be lost, with who is in
 * its backlog, if nothing came of us. Another descriptor of one that is there is not.
 */
static int share(const struct listening *l, uint32_t worker)
{
	const struct lb_held_listener *of = &l->s->held[l->first + worker % l->adopted];
	int fd = fcntl(lb_listener_fd(of->listener), F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/* One that was handed in for the rule's address, else one of our own. */
static int find_listener(const struct listening *l, uint32_t worker)
{
	LB_AUTO_CLOSE int fd = lb_listen_fds_get(l->handed, &l->rule->config->listen);
	int err;

	if (fd < 0 && l->s->takeover && l->adopted)
		return share(l, worker);
	if (fd < 0)
		return lb_service_open_listener(l->rule->config, worker == 0 && !l->adopted);
	err = lb_accept_adopt(fd);
	if (err)
		return err;
	lb_keepalive_set(fd, &l->rule->config->timeouts);
	return LB_TAKE_FD(fd);
}

/* Takes over <fd>, which may be -errno. */
static int listen_one(struct listening *of, uint32_t worker, int fd)
{
	struct lb_service *s = of->s;
	struct lb_held_listener *grown;
	struct lb_listener *l;
	int err;

	if (fd < 0)
		return fd;
	grown = realloc(s->held, (s->held_count + 1) * sizeof(*grown));
	if (grown)
		s->held = grown;
	err = grown ? lb_listener_new(&l, of->rule, fd) : -ENOMEM;
	if (err) {
		close(fd);
		return err;
	}
	if (of->mss)
		lb_listener_limit_segments(l, of->mss);
	s->held[s->held_count++] = (struct lb_held_listener){worker, l};
	return 0;
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

/*
 * Fewer workers than the daemon before us had: none of its sockets may be closed, because who
 * shakes hands there would be refused (net.ipv4.tcp_migrate_req is off by default).
 */
static int take_the_rest(struct listening *l)
{
	uint32_t workers = l->s->workers_count;
	int err = 0;

	for (uint32_t i = 0; !err && workers && l->s->takeover && l->adopted == workers + i; i++) {
		int fd = lb_listen_fds_get(l->handed, &l->rule->config->listen);

		if (fd < 0)
			break;
		err = lb_accept_adopt(fd);
		if (err)
			close(fd);
		else
			err = listen_one(l, i % workers, fd);
		l->adopted++;
	}
	return err;
}

static int listen_for(struct lb_service *s, const struct lb_rule *rule,
		      struct lb_listen_fds *handed)
{
	struct listening l = {
		.s = s,
		.rule = rule,
		.handed = handed,
		.mss = lb_service_segment(s, rule),
		.first = s->held_count,
	};
	char addr[LB_ADDR_STR_MAX];
	int err = 0;

	for (uint32_t w = 0; w < s->workers_count && !err; w++) {
		bool there = lb_listen_fds_has(handed, &rule->config->listen);

		err = listen_one(&l, w, find_listener(&l, w));
		l.adopted += there;
	}
	if (!err)
		err = take_the_rest(&l);
	if (err)
		tell_refused(rule, err);
	else if (l.adopted && !s->takeover)
		lb_info("rule %s: the listener at %s was handed in", rule->config->name,
			lb_addr_format(&rule->config->listen, addr));
	else if (l.adopted)
		err = lb_takeover_keep(s->takeover, &rule->config->listen);
	return err;
}

int lb_service_listen(struct lb_service *s, struct lb_listen_fds *handed)
{
	int err = 0;

	for (size_t r = 0; r < s->config->rules_count && !err; r++)
		err = listen_for(s, &s->rules[r], handed);
	return err;
}

/* In each worker: those that are held for it. */
static void take_held(struct lb_worker *w, uint32_t index, void *arg)
{
	struct lb_service *s = arg;

	for (size_t i = 0; i < s->held_count; i++) {
		int err;

		if (s->held[i].worker != index)
			continue;
		err = lb_worker_listen(w, &s->held[i].listener);
		if (err)
			lb_err("worker %u cannot listen: %s", index, strerror(-err));
	}
}

int lb_service_accept(struct lb_service *s)
{
	int err = 0;

	if (s->takeover)
		lb_workers_do(s->workers, s->workers_count, take_held, s);
	else
		for (uint32_t i = 0; i < s->workers_count; i++)
			take_held(s->workers[i], i, s);
	for (size_t i = 0; i < s->held_count; i++)
		err = s->held[i].listener ? -ENOMEM : err;
	lb_service_close_held(s);
	return err;
}

void lb_service_close_held(struct lb_service *s)
{
	for (size_t i = 0; i < s->held_count; i++)
		lb_listener_free(&s->held[i].listener);
	free(s->held);
	s->held = NULL;
	s->held_count = 0;
}
