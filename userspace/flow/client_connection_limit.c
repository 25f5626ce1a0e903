/* SPDX-License-Identifier: MIT */
/* See client_connection_limit.h. Must never let one in that it cannot remember. */
#include "flow/client_connection_limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "flow/client_table.h"

struct client {
	struct lb_client client;
	uint32_t connections;
	/* Of what nodes lend each other: what it may have, if that is of this <sharing>. */
	uint32_t max, sharing;
};

struct lb_client_connection_limit {
	pthread_mutex_t lock; /* of all below; taken after that of <limits> */
	uint32_t max;         /* UINT32_MAX: any */
	struct lb_client_table table;
	struct lb_limits *limits; /* atomic; NULL: the limit is this node's */
	uint32_t sharing;         /* how often that has begun */
	uint32_t told_size; /* nodes, when others were last told of all; 0: they have not been */
	struct lb_limits_holder holder;
};

static struct client *find(struct lb_client_connection_limit *l, const struct lb_addr *addr)
{
	struct lb_client *c = lb_client_table_find(&l->table, addr);

	return c ? lb_container_of(c, struct client, client) : NULL;
}

/* Its first connection; NULL: no memory. */
static struct client *add(struct lb_client_connection_limit *l, const struct lb_addr *addr)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->connections = 1;
	lb_client_table_add(&l->table, &c->client, addr);
	return c;
}

static struct lb_limits *limits_of(const struct lb_client_connection_limit *l)
{
	return __atomic_load_n(&l->limits, __ATOMIC_ACQUIRE);
}

static uint32_t max_of(const struct lb_client_connection_limit *l)
{
	return __atomic_load_n(&l->max, __ATOMIC_RELAXED);
}

/* --- with other nodes ------------------------------------------------------------------------- */

static bool is_limit(uint32_t max)
{
	return max <= LB_SHARE_LIMIT_MAX;
}

/* Half of it leaves time to hear of more; and it is this node's, too, when there is one more. */
static bool is_near(const struct client *c, uint32_t max)
{
	return c->connections > max / 2;
}

static struct lb_client_connection_limit *owner_of(struct lb_limits_holder *h)
{
	return lb_container_of(h, struct lb_client_connection_limit, holder);
}

static struct lb_share_label label_of(const struct lb_client_connection_limit *l,
				      const uint8_t addr[16])
{
	struct lb_share_label label = {.kind = LB_SHARE_CLIENT_CONNECTIONS};

	memcpy(label.rule, l->holder.rule, sizeof(label.rule));
	memcpy(label.addr, addr, sizeof(label.addr));
	return label;
}

static void set_share(const struct lb_client_connection_limit *l, struct client *c, uint32_t max)
{
	c->max = max;
	c->sharing = l->sharing;
}

static void use(struct lb_limits_holder *h, const struct lb_share_label *label, uint32_t max,
		struct lb_share_use *ret)
{
	struct lb_client_connection_limit *l = owner_of(h);
	struct lb_addr addr;
	struct client *c;

	lb_addr_from_bytes(&addr, label->addr, 0);
	ret->most = is_limit(max_of(l)) ? max_of(l) : 0;
	pthread_mutex_lock(&l->lock);
	c = find(l, &addr);
	if (c) {
		set_share(l, c, max);
		ret->used = c->connections;
	}
	pthread_mutex_unlock(&l->lock);
}

struct announcement {
	const struct lb_client_connection_limit *l;
	struct lb_limits *limits;
	uint64_t now_us;
};

static void announce(struct lb_client *client, void *arg)
{
	const struct client *c = lb_container_of(client, struct client, client);
	struct announcement *a = arg;
	struct lb_share_label label = label_of(a->l, client->key);
	const struct lb_share_ask ask = {
		.key = lb_share_key(&label), .limit.most = max_of(a->l), .label = &label};

	(void)lb_limits_follow(a->limits, &ask,
			       is_near(c, lb_limits_own(a->limits, ask.limit.most)), a->now_us);
}

static void announce_soon(struct lb_client_connection_limit *l)
{
	pthread_mutex_lock(&l->lock);
	l->told_size = 0;
	pthread_mutex_unlock(&l->lock);
}

/* Of those that came when nobody was asked, or this node had a larger part, or that others want. */
static void look(struct lb_limits_holder *h, struct lb_limits *limits, bool strangers,
		 uint64_t now_us)
{
	struct lb_client_connection_limit *l = owner_of(h);
	struct announcement a = {l, limits, now_us};
	uint32_t size = lb_limits_size(limits);

	pthread_mutex_lock(&l->lock);
	if ((strangers || l->told_size != size) && is_limit(max_of(l)))
		lb_client_table_each(&l->table, announce, &a);
	l->told_size = size;
	pthread_mutex_unlock(&l->lock);
}

struct entry {
	struct lb_client_connection_limit *l;
	const struct lb_addr *client;
};

static enum lb_limits_verdict take_shared(void *arg, uint32_t max, bool shared)
{
	enum lb_limits_verdict v = LB_LIMITS_REFUSED;
	struct entry *e = arg;
	struct client *c;

	pthread_mutex_lock(&e->l->lock);
	c = find(e->l, e->client);
	if (!c && max)
		c = add(e->l, e->client);
	else if (c && c->connections < max)
		c->connections++;
	else
		c = NULL;
	if (c)
		v = is_near(c, max) ? LB_LIMITS_NEAR : LB_LIMITS_TAKEN;
	if (c && shared)
		set_share(e->l, c, max);
	pthread_mutex_unlock(&e->l->lock);
	return v;
}

/* What needs nobody else. A client that is new here may be known to those who have borrowed. */
static bool take_own(struct lb_client_connection_limit *l, struct lb_limits *limits,
		     const struct lb_addr *client)
{
	struct client *c;
	bool ok;

	pthread_mutex_lock(&l->lock);
	c = find(l, client);
	if (c && c->sharing == l->sharing)
		ok = c->connections < c->max;
	else
		ok = c && c->connections < lb_limits_own(limits, max_of(l)) / 2;
	if (ok)
		c->connections++;
	pthread_mutex_unlock(&l->lock);
	return ok;
}

static bool take_among(struct lb_client_connection_limit *l, struct lb_limits *limits,
		       const struct lb_addr *client, uint64_t now_us)
{
	struct entry e = {l, client};
	struct lb_share_label label;
	struct lb_share_ask ask = {.limit.most = max_of(l), .label = &label};
	uint8_t addr[16];

	if (take_own(l, limits, client))
		return true;
	lb_addr_to_bytes(client, addr);
	label = label_of(l, addr);
	ask.key = lb_share_key(&label);
	return lb_limits_connect(limits, &ask, now_us, take_shared, &e) != LB_LIMITS_REFUSED;
}

void lb_client_connection_limit_share(struct lb_client_connection_limit *l,
				      struct lb_limits *limits, const char *rule)
{
	struct lb_limits *before = limits_of(l);

	if (limits == before)
		return;
	__atomic_store_n(&l->limits, NULL, __ATOMIC_RELEASE);
	if (before)
		lb_limits_remove_holder(before, &l->holder);
	if (!limits)
		return;
	pthread_mutex_lock(&l->lock);
	l->sharing++;
	l->told_size = 0;
	pthread_mutex_unlock(&l->lock);
	l->holder = (struct lb_limits_holder){
		.kind = LB_SHARE_CLIENT_CONNECTIONS, .use = use, .look = look};
	/* The configuration's bounds keep it below. */
	(void)snprintf(l->holder.rule, sizeof(l->holder.rule), "%s", rule);
	lb_limits_add_holder(limits, &l->holder);
	__atomic_store_n(&l->limits, limits, __ATOMIC_RELEASE);
}

/* --- for everybody ---------------------------------------------------------------------------- */

static void free_client(struct lb_client *c)
{
	free(lb_container_of(c, struct client, client));
}

int lb_client_connection_limit_new(struct lb_client_connection_limit **ret, uint32_t max)
{
	LB_AUTO(lb_client_connection_limit_free)
	struct lb_client_connection_limit *l = calloc(1, sizeof(*l));
	int err;

	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	l->max = max;
	err = lb_client_table_init(&l->table);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(l);
	return 0;
}

void lb_client_connection_limit_free(struct lb_client_connection_limit **pl)
{
	struct lb_client_connection_limit *l = *pl;

	if (!l)
		return;
	*pl = NULL;
	lb_client_connection_limit_share(l, NULL, NULL);
	lb_client_table_fini(&l->table, free_client);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

void lb_client_connection_limit_set(struct lb_client_connection_limit *l, uint32_t max)
{
	__atomic_store_n(&l->max, max ? max : UINT32_MAX, __ATOMIC_RELAXED);
	announce_soon(l);
}

static bool take(struct lb_client_connection_limit *l, const struct lb_addr *client, uint32_t max)
{
	struct client *c;
	bool ok;

	pthread_mutex_lock(&l->lock);
	c = find(l, client);
	if (!c) {
		ok = add(l, client) != NULL;
	} else {
		ok = c->connections < max;
		c->connections += ok;
	}
	pthread_mutex_unlock(&l->lock);
	return ok;
}

bool lb_client_connection_limit_take(struct lb_client_connection_limit *l,
				     const struct lb_addr *client, uint64_t now_us)
{
	struct lb_limits *limits = limits_of(l);
	uint32_t max = max_of(l);

	if (limits && is_limit(max))
		return take_among(l, limits, client, now_us);
	return take(l, client, max);
}

bool lb_client_connection_limit_adopt(struct lb_client_connection_limit *l,
				      const struct lb_addr *client)
{
	announce_soon(l);
	return take(l, client, UINT32_MAX);
}

void lb_client_connection_limit_release(struct lb_client_connection_limit *l,
					const struct lb_addr *client)
{
	struct client *c;

	pthread_mutex_lock(&l->lock);
	c = find(l, client);
	if (c && !--c->connections) {
		lb_client_table_remove(&l->table, &c->client);
		free(c);
	}
	pthread_mutex_unlock(&l->lock);
}

size_t lb_client_connection_limit_clients(struct lb_client_connection_limit *l)
{
	size_t n;

	pthread_mutex_lock(&l->lock);
	n = l->table.count;
	pthread_mutex_unlock(&l->lock);
	return n;
}
