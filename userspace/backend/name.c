/* SPDX-License-Identifier: MIT */
/* See name.h. Must never give up an address because nobody answers. */
#include "backend/name.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"

/* No more often than that, whatever an answer says .. */
#define SHORTEST_MS 1000u
/* .. and so long after one that did not come. */
#define RETRY_MS 5000u

struct lb_name {
	struct lb_list all_node, wait_node;
	struct lb_names *all;
	const char *host;
	uint16_t port;
	struct lb_resolve_config config;
	void *owner;
	struct lb_timer timer; /* to the next look-up */
	struct lb_resolve *lookup;
	struct lb_addr *addrs; /* sorted; owned */
	uint32_t count;
	bool failing;
};

struct lb_names {
	struct lb_names_opts opts;
	struct lb_list names;
	struct lb_list waiting;
	uint32_t running;
	uint64_t random;
};

/* --- sets ------------------------------------------------------------------------------------- */

/* Any order will do. All have one port. */
static int compare(const void *a, const void *b)
{
	const struct lb_addr *x = a, *y = b;
	int order;

	if (x->sa.sa_family != y->sa.sa_family)
		return x->sa.sa_family < y->sa.sa_family ? -1 : 1;
	if (x->sa.sa_family == AF_INET)
		return memcmp(&x->in4.sin_addr, &y->in4.sin_addr, sizeof(x->in4.sin_addr));
	order = memcmp(&x->in6.sin6_addr, &y->in6.sin6_addr, sizeof(x->in6.sin6_addr));
	if (order)
		return order;
	return (x->in6.sin6_scope_id > y->in6.sin6_scope_id) -
	       (x->in6.sin6_scope_id < y->in6.sin6_scope_id);
}

static bool has(const struct lb_addr *addrs, uint32_t count, const struct lb_addr *addr)
{
	for (uint32_t i = 0; i < count; i++)
		if (lb_addr_equal(&addrs[i], addr))
			return true;
	return false;
}

/* Which of <answer> the name stands for; <n> may have addresses already. 0 or -ENOMEM. */
static int choose(const struct lb_name *n, const struct lb_resolve_answer *answer,
		  struct lb_addr **ret, uint32_t *count)
{
	bool all = n->config.addresses == LB_RESOLVE_ADDRESSES_ALL;
	const struct lb_addr *from = answer->addrs;
	struct lb_addr *set;

	*count = all ? answer->count : 1;
	if (!all && n->count && has(answer->addrs, answer->count, &n->addrs[0]))
		from = &n->addrs[0];
	set = calloc(*count, sizeof(*set));
	if (!set)
		return -ENOMEM;
	memcpy(set, from, *count * sizeof(*set));
	qsort(set, *count, sizeof(*set), compare);
	*ret = set;
	return 0;
}

static bool is_same(const struct lb_name *n, const struct lb_addr *set, uint32_t count)
{
	if (n->count != count)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (!lb_addr_equal(&n->addrs[i], &set[i]))
			return false;
	return true;
}

/* --- one look-up after the other -------------------------------------------------------------- */

static void on_done(void *arg, const struct lb_resolve_answer *answer);

/* Between nine tenths of <ms> and all of it: what may be believed for so long is not for longer. */
static uint64_t spread(struct lb_names *all, uint64_t ms)
{
	return ms - lb_random_next(&all->random) % (ms / 10 + 1);
}

static uint64_t next_ms(const struct lb_name *n, const struct lb_resolve_answer *answer)
{
	uint64_t most = n->config.interval_ms, ms = most;

	if (!answer || answer->cause)
		ms = RETRY_MS;
	else if (answer->ttl_s)
		ms = answer->ttl_s * 1000ull;
	if (ms < SHORTEST_MS)
		ms = SHORTEST_MS;
	return ms < most ? ms : most;
}

static void wait_for_next(struct lb_name *n, const struct lb_resolve_answer *answer)
{
	lb_timer_start(n->all->opts.loop, &n->timer, spread(n->all, next_ms(n, answer)));
}

static void start(struct lb_name *n)
{
	const struct lb_resolve_ask ask = {
		.loop = n->all->opts.loop,
		.host = n->host,
		.port = n->port,
		.config = n->config,
		.done = on_done,
		.arg = n,
	};

	/* Without memory or descriptors for it: later. */
	if (lb_resolve_start(&n->lookup, &ask))
		wait_for_next(n, NULL);
	else
		n->all->running++;
}

static void on_due(struct lb_timer *t)
{
	struct lb_name *n = lb_container_of(t, struct lb_name, timer);

	if (n->all->running < LB_NAME_LOOKUPS_MAX)
		start(n);
	else
		lb_list_append(&n->all->waiting, &n->wait_node);
}

static void start_next(struct lb_names *all)
{
	struct lb_name *n;

	if (lb_list_empty(&all->waiting))
		return;
	n = lb_container_of(all->waiting.next, struct lb_name, wait_node);
	lb_list_remove(&n->wait_node);
	start(n);
}

static void fail(struct lb_name *n, const char *cause)
{
	if (n->failing)
		return;
	n->failing = true;
	n->all->opts.event(n->owner, LB_NAME_FAILED, cause);
}

static void take(struct lb_name *n, const struct lb_resolve_answer *answer)
{
	LB_AUTO_FREE struct lb_addr *set = NULL;
	uint32_t count;

	if (choose(n, answer, &set, &count)) {
		fail(n, strerror(ENOMEM));
		return;
	}
	if (n->failing) {
		n->failing = false;
		n->all->opts.event(n->owner, LB_NAME_RECOVERED, NULL);
	}
	if (is_same(n, set, count))
		return;
	free(n->addrs);
	n->addrs = LB_TAKE_PTR(set);
	n->count = count;
	n->all->opts.event(n->owner, LB_NAME_CHANGED, NULL);
}

static void on_done(void *arg, const struct lb_resolve_answer *answer)
{
	struct lb_name *n = arg;
	struct lb_names *all = n->all;
	bool good = !answer->cause;

	n->lookup = NULL;
	all->running--;
	wait_for_next(n, answer);
	if (good)
		take(n, answer);
	else
		fail(n, answer->cause);
	all->opts.asked(n->owner, good);
	start_next(all);
}

/* --- life ------------------------------------------------------------------------------------- */

int lb_names_new(struct lb_names **ret, const struct lb_names_opts *opts)
{
	struct lb_names *all = calloc(1, sizeof(*all));

	if (!all)
		return -ENOMEM;
	if (lb_resolve_init()) {
		free(all);
		return -ENOMEM;
	}
	all->opts = *opts;
	all->random = lb_loop_now_ns(opts->loop) | 1;
	lb_list_init(&all->names);
	lb_list_init(&all->waiting);
	*ret = all;
	return 0;
}

void lb_names_free(struct lb_names **names)
{
	struct lb_names *all = *names;

	if (!all)
		return;
	*names = NULL;
	/* Nobody takes the place of one that is removed. */
	while (!lb_list_empty(&all->waiting))
		lb_list_remove(all->waiting.next);
	while (!lb_list_empty(&all->names)) {
		struct lb_name *n = lb_container_of(all->names.next, struct lb_name, all_node);

		lb_name_remove(&n);
	}
	free(all);
}

int lb_name_add(struct lb_names *names, const char *host, uint16_t port,
		const struct lb_resolve_config *config, void *owner, struct lb_name **ret)
{
	struct lb_name *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	n->all = names;
	n->host = host;
	n->port = port;
	n->config = *config;
	n->owner = owner;
	lb_timer_init(&n->timer, on_due);
	lb_list_init(&n->wait_node);
	lb_list_append(&names->names, &n->all_node);
	lb_timer_start(names->opts.loop, &n->timer, 0);
	*ret = n;
	return 0;
}

void lb_name_remove(struct lb_name **pn)
{
	struct lb_name *n = *pn;

	if (!n)
		return;
	*pn = NULL;
	lb_timer_stop(n->all->opts.loop, &n->timer);
	lb_list_remove(&n->wait_node);
	lb_list_remove(&n->all_node);
	if (n->lookup) {
		lb_resolve_cancel(&n->lookup);
		n->all->running--;
		start_next(n->all);
	}
	free(n->addrs);
	free(n);
}

void lb_name_move(struct lb_name *n, void *owner, const struct lb_resolve_config *config)
{
	n->owner = owner;
	n->config = *config;
}

uint32_t lb_name_addresses(const struct lb_name *n, const struct lb_addr **ret)
{
	*ret = n->addrs;
	return n->count;
}
