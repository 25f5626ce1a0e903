/* SPDX-License-Identifier: MIT */
/* See client_table.h. */
#include "flow/client_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/hash.h"

#define HEADS_FEW 64u

static size_t head_of(const struct lb_client_table *t, const uint8_t key[16], size_t count)
{
	struct {
		uint64_t seed;
		uint8_t key[16];
	} seeded = {.seed = t->seed};

	memcpy(seeded.key, key, 16);
	return lb_hash(&seeded, sizeof(seeded)) & (count - 1);
}

int lb_client_table_init(struct lb_client_table *t)
{
	*t = (struct lb_client_table){.heads_count = HEADS_FEW};
	if (getrandom(&t->seed, sizeof(t->seed), 0) != sizeof(t->seed))
		return -errno;
	t->heads = calloc(HEADS_FEW, sizeof(struct lb_client *));
	return t->heads ? 0 : -ENOMEM;
}

void lb_client_table_fini(struct lb_client_table *t, void (*free_one)(struct lb_client *c))
{
	for (size_t i = 0; t->heads && i < t->heads_count; i++) {
		struct lb_client *next;

		for (struct lb_client *c = t->heads[i]; free_one && c; c = next) {
			next = c->next;
			free_one(c);
		}
	}
	free(t->heads);
	*t = (struct lb_client_table){};
}

struct lb_client *lb_client_table_find(const struct lb_client_table *t, const struct lb_addr *addr)
{
	struct lb_client *c;
	uint8_t key[16];

	lb_addr_to_bytes(addr, key);
	c = t->heads[head_of(t, key, t->heads_count)];
	while (c && memcmp(c->key, key, sizeof(key)) != 0)
		c = c->next;
	return c;
}

static void grow(struct lb_client_table *t)
{
	size_t count = t->heads_count * 2;
	struct lb_client **heads = calloc(count, sizeof(struct lb_client *));

	if (!heads)
		return;
	for (size_t i = 0; i < t->heads_count; i++) {
		struct lb_client *next;

		for (struct lb_client *c = t->heads[i]; c; c = next) {
			size_t to = head_of(t, c->key, count);

			next = c->next;
			c->next = heads[to];
			heads[to] = c;
		}
	}
	free(t->heads);
	t->heads = heads;
	t->heads_count = count;
}

void lb_client_table_add(struct lb_client_table *t, struct lb_client *c, const struct lb_addr *addr)
{
	size_t to;

	if (t->count >= t->heads_count)
		grow(t);
	lb_addr_to_bytes(addr, c->key);
	to = head_of(t, c->key, t->heads_count);
	c->next = t->heads[to];
	t->heads[to] = c;
	t->count++;
}

void lb_client_table_remove(struct lb_client_table *t, struct lb_client *c)
{
	struct lb_client **at = &t->heads[head_of(t, c->key, t->heads_count)];

	while (*at != c)
		at = &(*at)->next;
	*at = c->next;
	c->next = NULL;
	t->count--;
}

void lb_client_table_each(const struct lb_client_table *t,
			  void (*fn)(struct lb_client *c, void *arg), void *arg)
{
	for (size_t i = 0; i < t->heads_count; i++)
		for (struct lb_client *c = t->heads[i]; c; c = c->next)
			fn(c, arg);
}
