/* SPDX-License-Identifier: MIT */
/* See health_check.h. Must never have two checks of one backend under way. */
#include "backend/health_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/health.h"
#include "backend/probe.h"
#include "base/cleanup.h"
#include "base/hash.h"

/* RFC 7231: who asks. */
#define AGENT "layer4-lb-health-check"

struct lb_health_check {
	struct lb_list all_node, wait_node;
	struct lb_health_checks *all;
	struct lb_backend *backend;
	const struct lb_health_check_config *config;
	struct lb_health health;
	struct lb_probe probe;
	struct lb_timer timer; /* to the next one */
	char *request;
	uint64_t since_ms; /* in this state since; 0: the start */
	void *watcher;
	bool running;
	bool trusts;       /* it is not asked, because of what others say */
	bool doubted;      /* flows have said otherwise */
	uint64_t asked_ms; /* the last answer's time */
	struct lb_task release;
};

struct lb_health_checks {
	struct lb_health_checks_opts opts;
	struct lb_list checks;
	uint32_t running;
	struct lb_list waiting;
	uint64_t random;
};

/* --- what is said ----------------------------------------------------------------------------- */

/*
 * PROXY headers that speak for nobody, for a check is the balancer's own: of version 1, and the
 * LOCAL command of version 2, which holds NULs.
 */
#define PROXY_UNKNOWN "PROXY UNKNOWN\r\n"
#define PROXY_LOCAL   "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"

static void write_proxy(FILE *out, enum lb_proxy_protocol version)
{
	if (version == LB_PROXY_PROTOCOL_V2)
		fwrite(PROXY_LOCAL, 1, sizeof(PROXY_LOCAL) - 1, out);
	else
		fputs(PROXY_UNKNOWN, out);
}

/* <version>: of the header that the backend's flows begin with. 0 or -ENOMEM. */
static int build_request(struct lb_health_check *c, enum lb_proxy_protocol version)
{
	const struct lb_health_check_config *config = c->config;
	const char *send = config->send ? config->send : "";
	LB_AUTO_FREE char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return -ENOMEM;
	if (config->send_proxy)
		write_proxy(out, version);
	fflush(out);
	c->probe.clear_len = size;
	if (config->protocol == LB_HEALTH_CHECK_HTTP)
		fprintf(out,
			"GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: " AGENT
			"\r\nAccept: */*\r\nConnection: close\r\n\r\n",
			config->path, config->host ? config->host : c->backend->config->addr);
	else
		fputs(send, out);
	if (fclose(out))
		return -ENOMEM;
	free(c->request);
	c->request = LB_TAKE_PTR(text);
	c->probe.request = c->request;
	c->probe.request_len = size;
	return 0;
}

/* --- one check after the other ---------------------------------------------------------------- */

static void run(struct lb_health_check *c)
{
	c->all->running++;
	c->running = true;
	lb_probe_start(&c->probe);
}

/* Only of a state that was found here, and that no answer has disagreed with since. */
static bool is_vouched(const struct lb_health_check *c, uint64_t *until_ms)
{
	return c->config->share && c->all->opts.share.vouched && c->health.asked &&
	       !c->health.streak && !c->doubted &&
	       c->all->opts.share.vouched(c->watcher, c->health.up, until_ms);
}

static void on_due(struct lb_timer *t)
{
	struct lb_health_check *c = lb_container_of(t, struct lb_health_check, timer);
	uint64_t now = lb_loop_now_ms(c->all->opts.loop), until_ms;

	c->trusts = is_vouched(c, &until_ms);
	if (c->trusts) {
		lb_timer_start(c->all->opts.loop, t, until_ms > now ? until_ms - now : 1);
		return;
	}
	if (c->all->running < LB_PROBES_MAX) {
		run(c);
		return;
	}
	lb_list_append(&c->all->waiting, &c->wait_node);
}

static void run_next(struct lb_health_checks *h)
{
	struct lb_health_check *c;

	if (lb_list_empty(&h->waiting))
		return;
	c = lb_container_of(h->waiting.next, struct lb_health_check, wait_node);
	lb_list_remove(&c->wait_node);
	run(c);
}

/* Between nine and eleven tenths of <ms>. */
static uint64_t spread(struct lb_health_checks *h, uint64_t ms)
{
	return ms - ms / 10 + lb_random_next(&h->random) % (ms / 5 + 1);
}

static void note(struct lb_health_check *c, bool good, const char *cause)
{
	struct lb_health_checks *h = c->all;
	uint64_t now = lb_loop_now_ms(h->opts.loop);
	uint32_t answers = c->health.streak + 1;
	struct lb_health_change change;

	__atomic_fetch_add(&c->backend->counts.checks, 1, __ATOMIC_RELAXED);
	if (!good)
		__atomic_fetch_add(&c->backend->counts.check_failures, 1, __ATOMIC_RELAXED);
	if (!lb_health_note(&c->health, c->config, good))
		return;
	change = (struct lb_health_change){
		.watcher = c->watcher,
		.backend = c->backend,
		.up = c->health.up,
		.cause = cause,
		.answers = answers,
		.was_ms = c->since_ms ? now - c->since_ms : 0,
	};
	c->since_ms = now;
	h->opts.changed(&change);
}

static void on_done(struct lb_probe *p, enum lb_probe_result result, const char *cause)
{
	struct lb_health_check *c = lb_container_of(p, struct lb_health_check, probe);
	struct lb_health_checks *h = c->all;

	h->running--;
	c->running = c->doubted = false;
	c->asked_ms = lb_loop_now_ms(h->opts.loop);
	if (result != LB_PROBE_SKIPPED && c->config->share && h->opts.share.answered)
		h->opts.share.answered(c->watcher, result == LB_PROBE_GOOD);
	if (result != LB_PROBE_SKIPPED)
		note(c, result == LB_PROBE_GOOD, cause);
	lb_timer_start(h->opts.loop, &c->timer,
		       spread(h, lb_health_next_ms(&c->health, c->config)));
	run_next(h);
}

void lb_health_checks_look_again(struct lb_health_checks *h)
{
	for (struct lb_list *n = h->checks.next; n != &h->checks; n = n->next) {
		struct lb_health_check *c = lb_container_of(n, struct lb_health_check, all_node);
		uint64_t until_ms;

		if (!c->trusts || is_vouched(c, &until_ms))
			continue;
		c->trusts = false;
		lb_timer_start(h->opts.loop, &c->timer, 0);
	}
}

bool lb_health_check_trusts(const struct lb_health_check *c)
{
	return c->trusts;
}

void lb_health_check_doubt(struct lb_health_check *c)
{
	uint64_t now = lb_loop_now_ms(c->all->opts.loop), next;

	if (!c->config->share || c->running || c->doubted || !c->trusts)
		return;
	next = c->asked_ms + c->config->interval_ms / c->config->fall;
	c->doubted = true;
	c->trusts = false;
	lb_timer_start(c->all->opts.loop, &c->timer, next > now ? next - now : 0);
}

/* --- birth and death -------------------------------------------------------------------------- */

int lb_health_checks_new(struct lb_health_checks **ret, const struct lb_health_checks_opts *opts)
{
	struct lb_health_checks *h = calloc(1, sizeof(*h));

	if (!h)
		return -ENOMEM;
	h->opts = *opts;
	h->random = lb_loop_now_ns(opts->loop) | 1;
	lb_list_init(&h->checks);
	lb_list_init(&h->waiting);
	*ret = h;
	return 0;
}

static void check_free(struct lb_health_check **pc)
{
	struct lb_health_check *c = *pc;

	if (!c)
		return;
	*pc = NULL;
	free(c->request);
	lb_backend_tls_free(&c->probe.tls);
	free(c);
}

/* No probe is under way. In the middle of a reload <tls> may be gone; a renewal follows then. */
static void set_tls(struct lb_health_check *c, struct lb_backend_tls *tls)
{
	lb_backend_tls_free(&c->probe.tls);
	c->probe.tls = c->config->tls && tls ? lb_backend_tls_hold(tls) : NULL;
}

static void set_address(struct lb_health_check *c)
{
	c->probe.addr = c->backend->addr;
	if (c->config->port)
		lb_addr_set_port(&c->probe.addr, c->config->port);
}

int lb_health_checks_add(struct lb_health_checks *h, const struct lb_rule_config *rule,
			 struct lb_backend_tls *tls, struct lb_backend *b, void *watcher,
			 struct lb_health_check **ret)
{
	LB_AUTO(check_free) struct lb_health_check *c = calloc(1, sizeof(*c));
	int err;

	if (!c)
		return -ENOMEM;
	c->all = h;
	c->watcher = watcher;
	c->backend = b;
	c->config = &rule->health_check;
	c->probe = (struct lb_probe){.loop = h->opts.loop, .config = c->config};
	c->probe.done = on_done;
	c->probe.backend = b;
	set_tls(c, tls);
	set_address(c);
	err = build_request(c, rule->proxy_protocol);
	if (err)
		return err;
	lb_probe_init(&c->probe);
	lb_timer_init(&c->timer, on_due);
	lb_health_init(&c->health, c->config);
	lb_list_init(&c->wait_node);
	lb_list_append(&h->checks, &c->all_node);
	lb_timer_start(h->opts.loop, &c->timer, 0);
	*ret = LB_TAKE_PTR(c);
	return 0;
}

static void release(struct lb_task *t)
{
	struct lb_health_check *c = lb_container_of(t, struct lb_health_check, release);

	check_free(&c);
}

static void stop(struct lb_health_check *c)
{
	lb_timer_stop(c->all->opts.loop, &c->timer);
	lb_probe_stop(&c->probe);
	lb_list_remove(&c->wait_node);
	lb_list_remove(&c->all_node);
}

/* Not under way any more; its place is the next one's. */
static void give_up(struct lb_health_check *c)
{
	lb_probe_stop(&c->probe);
	lb_list_remove(&c->wait_node);
	if (!c->running)
		return;
	c->running = false;
	c->all->running--;
	run_next(c->all);
}

int lb_health_checks_renew(struct lb_health_check *c, const struct lb_rule_config *rule,
			   struct lb_backend_tls *tls, bool changed)
{
	c->config = c->probe.config = c->probe.answer.config = &rule->health_check;
	if (!changed)
		return 0;
	give_up(c);
	set_tls(c, tls);
	set_address(c);
	lb_timer_start(c->all->opts.loop, &c->timer, 0);
	return build_request(c, rule->proxy_protocol);
}

bool lb_health_check_known(const struct lb_health_check *c, bool *up)
{
	*up = c->health.up;
	return c->health.asked;
}

bool lb_health_check_restore(struct lb_health_check *c, bool up)
{
	if (c->health.asked)
		return false;
	c->health = (struct lb_health){.up = up, .asked = true};
	return true;
}

void lb_health_checks_remove(struct lb_health_check **pc)
{
	struct lb_health_check *c = *pc;
	struct lb_health_checks *h;

	if (!c)
		return;
	*pc = NULL;
	h = c->all;
	give_up(c);
	stop(c);
	/* Events of this turn may still name its probe. */
	lb_loop_defer(h->opts.loop, &c->release, release);
}

void lb_health_checks_free(struct lb_health_checks **ph)
{
	struct lb_health_checks *h = *ph;

	if (!h)
		return;
	*ph = NULL;
	while (!lb_list_empty(&h->checks)) {
		struct lb_health_check *c =
			lb_container_of(h->checks.next, struct lb_health_check, all_node);

		stop(c);
		check_free(&c);
	}
	free(h);
}
