/* SPDX-License-Identifier: MIT */
/* See client_connection_limit.h. Must never let one in that it cannot remember. */
#include "flow/client_connection_limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "flow/client_table.h"

struct client {
	struct lb_client client;
	uint32_t connections;
};

struct lb_client_connection_limit {
	pthread_mutex_t lock;
	uint32_t max;
	struct lb_client_table table;
};

static struct client *find(struct lb_client_connection_limit *l, const struct lb_addr *addr)
{
	struct lb_client *c = lb_client_table_find(&l->table, addr);

	return c ? lb_container_of(c, struct client, client) : NULL;
}

static bool add(struct lb_client_connection_limit *l, const struct lb_addr *addr)
{
	struct client *c = calloc(1, sizeof(*c));

	if (!c)
		return false;
	c->connections = 1;
	lb_client_table_add(&l->table, &c->client, addr);
	return true;
}

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
	lb_client_table_fini(&l->table, free_client);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

void lb_client_connection_limit_set(struct lb_client_connection_limit *l, uint32_t max)
{
	__atomic_store_n(&l->max, max ? max : UINT32_MAX, __ATOMIC_RELAXED);
}

static bool take(struct lb_client_connection_limit *l, const struct lb_addr *client, uint32_t max)
{
	struct client *c;
	bool ok;

	pthread_mutex_lock(&l->lock);
	c = find(l, client);
	if (!c) {
		ok = add(l, client);
	} else {
		ok = c->connections < max;
		c->connections += ok;
	}
	pthread_mutex_unlock(&l->lock);
	return ok;
}

bool lb_client_connection_limit_take(struct lb_client_connection_limit *l,
				     const struct lb_addr *client)
{
	return take(l, client, __atomic_load_n(&l->max, __ATOMIC_RELAXED));
}

bool lb_client_connection_limit_adopt(struct lb_client_connection_limit *l,
				      const struct lb_addr *client)
{
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
