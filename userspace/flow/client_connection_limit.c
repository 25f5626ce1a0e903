/* SPDX-License-Identifier: MIT */
/* See client_connection_limit.h. Must never let one in that it cannot remember. */
#include "flow/client_connection_limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/hash.h"

#define BUCKETS_FEW 64u

/* An IPv4 address as an IPv6 one is mapped: the same client either way. */
struct key {
	uint8_t bytes[16];
};

struct client {
	struct client *next;
	struct key key;
	uint32_t connections;
};

struct lb_client_connection_limit {
	pthread_mutex_t lock;
	uint32_t max;
	uint64_t seed;
	struct client **buckets;
	size_t buckets_count; /* a power of two */
	size_t clients;
};

static struct key key_of(const struct lb_addr *a)
{
	struct key key = {{[10] = 0xff, [11] = 0xff}};

	if (a->sa.sa_family == AF_INET6)
		memcpy(key.bytes, &a->in6.sin6_addr, 16);
	else
		memcpy(key.bytes + 12, &a->in4.sin_addr, 4);
	return key;
}

/* With a seed that clients do not know: none can make the others' chains long. */
static size_t bucket_of(const struct lb_client_connection_limit *l, const struct key *key,
			size_t count)
{
	struct {
		uint64_t seed;
		struct key key;
	} seeded = {l->seed, *key};

	return lb_hash(&seeded, sizeof(seeded)) & (count - 1);
}

/* The link that leads to <key>'s client, or to the end of its bucket. */
static struct client **find(struct lb_client_connection_limit *l, const struct key *key)
{
	struct client **at = &l->buckets[bucket_of(l, key, l->buckets_count)];

	while (*at && memcmp(&(*at)->key, key, sizeof(*key)) != 0)
		at = &(*at)->next;
	return at;
}

/* Twice as many buckets; without memory the chains get longer, that is all. */
static void grow(struct lb_client_connection_limit *l)
{
	size_t count = l->buckets_count * 2;
	struct client **buckets = calloc(count, sizeof(struct client *));

	if (!buckets)
		return;
	for (size_t i = 0; i < l->buckets_count; i++) {
		struct client *next;

		for (struct client *c = l->buckets[i]; c; c = next) {
			size_t to = bucket_of(l, &c->key, count);

			next = c->next;
			c->next = buckets[to];
			buckets[to] = c;
		}
	}
	free(l->buckets);
	l->buckets = buckets;
	l->buckets_count = count;
}

static bool add(struct lb_client_connection_limit *l, const struct key *key)
{
	struct client *c = malloc(sizeof(*c));
	struct client **at;

	if (!c)
		return false;
	if (l->clients >= l->buckets_count)
		grow(l);
	at = find(l, key);
	*c = (struct client){.key = *key, .connections = 1};
	*at = c;
	l->clients++;
	return true;
}

int lb_client_connection_limit_new(struct lb_client_connection_limit **ret, uint32_t max)
{
	LB_AUTO_FREE struct lb_client_connection_limit *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	if (getrandom(&l->seed, sizeof(l->seed), 0) != sizeof(l->seed))
		return -errno;
	l->max = max;
	l->buckets_count = BUCKETS_FEW;
	l->buckets = calloc(BUCKETS_FEW, sizeof(struct client *));
	if (!l->buckets)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	*ret = LB_TAKE_PTR(l);
	return 0;
}

void lb_client_connection_limit_free(struct lb_client_connection_limit **pl)
{
	struct lb_client_connection_limit *l = *pl;

	if (!l)
		return;
	*pl = NULL;
	for (size_t i = 0; i < l->buckets_count; i++) {
		struct client *next;

		for (struct client *c = l->buckets[i]; c; c = next) {
			next = c->next;
			free(c);
		}
	}
	pthread_mutex_destroy(&l->lock);
	free(l->buckets);
	free(l);
}

static bool take(struct lb_client_connection_limit *l, const struct lb_addr *client, uint32_t max)
{
	struct key key = key_of(client);
	struct client *c;
	bool ok;

	pthread_mutex_lock(&l->lock);
	c = *find(l, &key);
	if (!c) {
		ok = add(l, &key);
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
	return take(l, client, l->max);
}

bool lb_client_connection_limit_adopt(struct lb_client_connection_limit *l,
				      const struct lb_addr *client)
{
	return take(l, client, UINT32_MAX);
}

void lb_client_connection_limit_release(struct lb_client_connection_limit *l,
					const struct lb_addr *client)
{
	struct key key = key_of(client);
	struct client **at, *c;

	pthread_mutex_lock(&l->lock);
	at = find(l, &key);
	c = *at;
	if (c && !--c->connections) {
		*at = c->next;
		l->clients--;
		free(c);
	}
	pthread_mutex_unlock(&l->lock);
}

size_t lb_client_connection_limit_clients(struct lb_client_connection_limit *l)
{
	size_t n;

	pthread_mutex_lock(&l->lock);
	n = l->clients;
	pthread_mutex_unlock(&l->lock);
	return n;
}
