/* SPDX-License-Identifier: MIT */
/*
 * Decides how long a backend lives. Must never connect to anything, nor free what somebody holds.
 */
#include "backend/pool.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ports.h"
#include "base/cleanup.h"
#include "base/hash.h"

#define NO_ROW UINT32_MAX

/* --- entries ---------------------------------------------------------------------------------- */

static void entry_free(struct lb_pool_entry **pe)
{
	struct lb_pool_entry *e = *pe;

	if (!e)
		return;
	*pe = NULL;
	free(e->config.addr);
	free(e->config.host);
	free(e->config.tls_name);
	free(e);
}

static int copy_string(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return from && !*to ? -ENOMEM : 0;
}

static int copy_config(struct lb_backend_config *to, const struct lb_backend_config *from)
{
	*to = *from;
	to->addr = to->host = to->tls_name = NULL;
	if (copy_string(&to->addr, from->addr) || copy_string(&to->host, from->host) ||
	    copy_string(&to->tls_name, from->tls_name))
		return -ENOMEM;
	return 0;
}

int lb_pool_new_entry(struct lb_pool *pool, const struct lb_backend_config *config,
		      struct lb_pool_entry **ret)
{
	LB_AUTO(entry_free) struct lb_pool_entry *e = calloc(1, sizeof(*e));

	if (!e || copy_config(&e->config, config))
		return -ENOMEM;
	e->pool = pool;
	e->out = config->drain ? LB_BACKEND_DRAINS : 0;
	e->whole_weight = config->weight * LB_WEIGHT_UNIT;
	e->row = NO_ROW;
	e->holders = 1;
	lb_list_init(&e->node);
	*ret = LB_TAKE_PTR(e);
	return 0;
}

void lb_pool_list_entry(struct lb_pool_entry *entry)
{
	pthread_mutex_lock(&entry->pool->lock);
	lb_list_append(&entry->pool->entries, &entry->node);
	pthread_mutex_unlock(&entry->pool->lock);
}

/* True when it is to be freed. Under the lock. */
static bool entry_put(struct lb_pool_entry *e)
{
	if (--e->holders)
		return false;
	lb_list_remove(&e->node);
	return true;
}

static void entry_let_go(struct lb_pool_entry *e)
{
	struct lb_pool *pool = e->pool;
	bool last;

	pthread_mutex_lock(&pool->lock);
	last = entry_put(e);
	pthread_mutex_unlock(&pool->lock);
	if (last)
		entry_free(&e);
}

void lb_pool_remove_entry(struct lb_pool_entry *entry)
{
	struct lb_pool *pool = entry->pool;

	pthread_mutex_lock(&pool->lock);
	lb_list_remove(&entry->node);
	entry->row = NO_ROW;
	pthread_mutex_unlock(&pool->lock);
	entry_let_go(entry);
}

/* --- backends --------------------------------------------------------------------------------- */

/* A host name of 253 characters and a port fit. */
#define NAME_BYTES 260

static struct lb_backend *backend_of(struct lb_list *node)
{
	return lb_container_of(node, struct lb_backend, node);
}

/* The stricter one of the rule's and its own. */
static uint32_t limit_of(const struct lb_rule_config *rule, const struct lb_backend_config *b)
{
	uint32_t all = rule->backend_connection_limit, own = b->max_connections;

	if (!all || !own)
		return all ? all : own;
	return all < own ? all : own;
}

/*
 * Of its address, or of its name where that is all that nodes have in common: its addresses come
 * and go. Both as everybody would write them, whatever lb.yaml has.
 */
static uint64_t place_of(const char *name, const struct lb_addr *addr, bool shared)
{
	char text[NAME_BYTES];
	struct lb_addr same;
	size_t len = 0;

	if (shared || !lb_addr_parse(name, &same)) {
		name = lb_addr_format(addr, text);
		return lb_hash(name, strlen(name));
	}
	for (; name[len] && len < sizeof(text); len++)
		text[len] = (char)tolower((unsigned char)name[len]);
	return lb_hash(text, len);
}

static uint64_t next_id(void)
{
	static uint64_t last; /* atomic */

	return __atomic_add_fetch(&last, 1, __ATOMIC_RELAXED);
}

static uint8_t first_state(const struct lb_rule_config *rule, const struct lb_pool_entry *e)
{
	const struct lb_health_check_config *check = &rule->health_check;
	bool unknown = check->enabled && check->initial == LB_HEALTH_CHECK_INITIAL_UNKNOWN;

	return (uint8_t)(e->out | (unknown ? LB_BACKEND_DOWN : 0));
}

int lb_pool_new_backend(struct lb_pool_entry *entry, const struct lb_rule_config *rule,
			const struct lb_addr *addr, bool shared, struct lb_backend **ret)
{
	const struct lb_backend_config *config = &entry->config;
	struct lb_backend *b = calloc(1, sizeof(*b));

	if (!b)
		return -ENOMEM;
	b->config = config;
	b->pool = entry->pool;
	b->entry = entry;
	b->addr = *addr;
	b->id = next_id();
	b->place = place_of(config->addr, addr, shared);
	b->whole_weight = b->weight = entry->whole_weight;
	b->backup = config->backup;
	b->limit = limit_of(rule, config);
	b->out = first_state(rule, entry);
	b->holders = 1;
	lb_list_init(&b->node);
	pthread_mutex_lock(&b->pool->lock);
	entry->holders++;
	pthread_mutex_unlock(&b->pool->lock);
	*ret = b;
	return 0;
}

struct lb_backend *lb_pool_find_left(struct lb_pool_entry *entry, const struct lb_addr *addr)
{
	struct lb_pool *pool = entry->pool;
	struct lb_backend *found = NULL;

	pthread_mutex_lock(&pool->lock);
	lb_list_for_each (node, &pool->left) {
		struct lb_backend *b = backend_of(node);

		if (b->entry == entry && lb_addr_equal(&b->addr, addr)) {
			b->holders++;
			found = b;
			break;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return found;
}

/* Under the lock. */
static void settle(struct lb_backend *b, const struct lb_rule_config *rule,
		   const struct lb_backend_config *was)
{
	const struct lb_backend_config *is = &b->entry->config;
	uint32_t whole = is->weight * LB_WEIGHT_UNIT;

	b->limit = limit_of(rule, is);
	b->backup = is->backup;
	if (is->weight != was->weight) {
		/* One that starts slowly is not taken further than it is. */
		if (b->weight == b->whole_weight || b->weight > whole)
			b->weight = whole;
		b->whole_weight = whole;
	}
	if (is->drain && !was->drain)
		__atomic_fetch_or(&b->out, LB_BACKEND_DRAINS, __ATOMIC_RELAXED);
	else if (!is->drain && was->drain)
		__atomic_fetch_and(&b->out, (uint8_t)~LB_BACKEND_DRAINS, __ATOMIC_RELAXED);
}

void lb_pool_settle(struct lb_pool_entry *entry, const struct lb_rule_config *rule,
		    const struct lb_backend_config *config)
{
	const struct lb_backend_config was = entry->config;
	struct lb_pool *pool = entry->pool;

	pthread_mutex_lock(&pool->lock);
	entry->config.weight = config->weight;
	entry->config.backup = config->backup;
	entry->config.drain = config->drain;
	entry->config.max_connections = config->max_connections;
	if (config->weight != was.weight)
		entry->whole_weight = config->weight * LB_WEIGHT_UNIT;
	if (config->drain != was.drain)
		entry->out = (uint8_t)((entry->out & ~LB_BACKEND_DRAINS) |
				       (config->drain ? LB_BACKEND_DRAINS : 0));
	for (uint32_t i = 0; i < pool->count; i++)
		if (pool->backends[i]->entry == entry)
			settle(pool->backends[i], rule, &was);
	lb_list_for_each (node, &pool->left)
		if (backend_of(node)->entry == entry)
			settle(backend_of(node), rule, &was);
	pthread_mutex_unlock(&pool->lock);
}

struct lb_backend *lb_pool_hold(struct lb_backend *b)
{
	pthread_mutex_lock(&b->pool->lock);
	b->holders++;
	pthread_mutex_unlock(&b->pool->lock);
	return b;
}

static void add_counts(struct lb_backend_counts *to, const struct lb_backend_counts *from)
{
	uint64_t *sums = (uint64_t *)to;
	const uint64_t *parts = (const uint64_t *)from;

	for (size_t i = 0; i < sizeof(*to) / sizeof(*sums); i++)
		sums[i] += __atomic_load_n(&parts[i], __ATOMIC_RELAXED);
}

bool lb_pool_put_locked(struct lb_backend *b)
{
	if (--b->holders)
		return false;
	lb_list_remove(&b->node);
	/* In the same moment, so that no sum ever falls. */
	add_counts(&b->entry->gone, &b->counts);
	return true;
}

static void backend_free(struct lb_backend *b)
{
	if (b->unwatch)
		b->unwatch(b->watch);
	lb_ports_close(&b->ports);
	free(b);
}

void lb_pool_bury(struct lb_backend *b)
{
	entry_let_go(b->entry);
	backend_free(b);
}

void lb_pool_put(struct lb_backend **pb)
{
	struct lb_backend *b = *pb;
	pthread_mutex_t *lock;
	bool last;

	if (!b)
		return;
	*pb = NULL;
	lock = &b->pool->lock;
	pthread_mutex_lock(lock);
	last = lb_pool_put_locked(b);
	pthread_mutex_unlock(lock);
	if (last)
		lb_pool_bury(b);
}

/* --- the pool --------------------------------------------------------------------------------- */

int lb_pool_new(struct lb_pool **ret)
{
	struct lb_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	pthread_mutex_init(&pool->lock, NULL);
	lb_list_init(&pool->left);
	lb_list_init(&pool->entries);
	*ret = pool;
	return 0;
}

void lb_pool_free(struct lb_pool **pp)
{
	struct lb_pool *pool = *pp;

	if (!pool)
		return;
	*pp = NULL;
	/* Whoever still holds one is gone. */
	for (uint32_t i = 0; i < pool->count; i++)
		lb_list_append(&pool->left, &pool->backends[i]->node);
	while (!lb_list_empty(&pool->left)) {
		struct lb_backend *b = backend_of(pool->left.next);

		lb_list_remove(&b->node);
		entry_let_go(b->entry);
		backend_free(b);
	}
	while (!lb_list_empty(&pool->entries)) {
		struct lb_pool_entry *e =
			lb_container_of(pool->entries.next, struct lb_pool_entry, node);

		lb_list_remove(&e->node);
		entry_free(&e);
	}
	free(pool->backends);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

/* --- reading ---------------------------------------------------------------------------------- */

int lb_pool_snapshot(struct lb_pool *pool, struct lb_backend ***ret, uint32_t *count)
{
	struct lb_backend **all;
	int err = 0;

	pthread_mutex_lock(&pool->lock);
	all = calloc(pool->count + 1, sizeof(struct lb_backend *));
	if (!all) {
		err = -ENOMEM;
	} else {
		*count = pool->count;
		for (uint32_t i = 0; i < pool->count; i++) {
			all[i] = pool->backends[i];
			all[i]->holders++;
		}
		*ret = all;
	}
	pthread_mutex_unlock(&pool->lock);
	return err;
}

void lb_pool_snapshot_free(struct lb_backend ***backends, uint32_t count)
{
	for (uint32_t i = 0; *backends && i < count; i++)
		lb_pool_put(&(*backends)[i]);
	free(*backends);
	*backends = NULL;
}

/* Under the lock. */
static struct lb_backend *find(struct lb_pool *pool, const struct lb_addr *addr)
{
	for (uint32_t i = 0; i < pool->count; i++)
		if (lb_addr_equal(&pool->backends[i]->addr, addr))
			return pool->backends[i];
	lb_list_for_each (node, &pool->left)
		if (lb_addr_equal(&backend_of(node)->addr, addr))
			return backend_of(node);
	return NULL;
}

struct lb_backend *lb_pool_find(struct lb_pool *pool, const struct lb_addr *addr)
{
	struct lb_backend *b;

	pthread_mutex_lock(&pool->lock);
	b = find(pool, addr);
	if (b)
		b->holders++;
	pthread_mutex_unlock(&pool->lock);
	return b;
}

/* --- for flows that come from another daemon -------------------------------------------------- */

/* Under the lock. One address may be listed twice: the name says which it was. */
static struct lb_backend *find_named(struct lb_pool *pool, const char *name,
				     const struct lb_addr *addr)
{
	struct lb_backend *found = find(pool, addr);

	for (uint32_t i = 0; i < pool->count; i++) {
		struct lb_backend *b = pool->backends[i];

		if (lb_addr_equal(&b->addr, addr) && !strcmp(b->config->addr, name))
			return b;
	}
	return found;
}

/* The listed entry of that name, or one that is in no list; held. NULL: no memory. */
static struct lb_pool_entry *hold_entry(struct lb_pool *pool, const char *name,
					const struct lb_addr *addr)
{
	struct lb_backend_config config = {
		.addr = (char *)name,
		.host = (char *)name,
		.port = lb_addr_port(addr),
		.weight = 1,
	};
	struct lb_pool_entry *found = NULL;

	pthread_mutex_lock(&pool->lock);
	lb_list_for_each (node, &pool->entries) {
		struct lb_pool_entry *e = lb_container_of(node, struct lb_pool_entry, node);

		if (!strcmp(e->config.addr, name)) {
			e->holders++;
			found = e;
			break;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return found || !lb_pool_new_entry(pool, &config, &found) ? found : NULL;
}

static struct lb_backend *make_left(struct lb_pool *pool, const struct lb_rule_config *rule,
				    const char *name, const struct lb_addr *addr)
{
	struct lb_pool_entry *entry = hold_entry(pool, name, addr);
	struct lb_backend *b = NULL;

	if (!entry)
		return NULL;
	if (!lb_pool_new_backend(entry, rule, addr, true, &b)) {
		pthread_mutex_lock(&pool->lock);
		b->out |= LB_BACKEND_LEFT;
		lb_list_append(&pool->left, &b->node);
		pthread_mutex_unlock(&pool->lock);
	}
	entry_let_go(entry);
	return b;
}

struct lb_backend *lb_pool_adopt(struct lb_pool *pool, const struct lb_rule_config *rule,
				 const char *name, const struct lb_addr *addr)
{
	struct lb_backend *b;

	pthread_mutex_lock(&pool->lock);
	b = find_named(pool, name, addr);
	if (b)
		b->holders++;
	pthread_mutex_unlock(&pool->lock);
	return b ? b : make_left(pool, rule, name, addr);
}

bool lb_pool_is_deserted(struct lb_pool *pool)
{
	bool deserted;

	pthread_mutex_lock(&pool->lock);
	deserted = !pool->count && lb_list_empty(&pool->left);
	pthread_mutex_unlock(&pool->lock);
	return deserted;
}

void lb_pool_count(struct lb_pool *pool, uint32_t *all, uint32_t *eligible)
{
	pthread_mutex_lock(&pool->lock);
	*all = pool->count;
	*eligible = 0;
	for (uint32_t i = 0; i < pool->count; i++)
		*eligible += lb_backend_is_eligible(pool->backends[i]);
	pthread_mutex_unlock(&pool->lock);
}

static void add_drain(struct lb_pool_row *row, uint64_t until_ms)
{
	row->draining++;
	if (until_ms && (!row->drain_until_ms || until_ms < row->drain_until_ms))
		row->drain_until_ms = until_ms;
}

static void add_to_row(struct lb_pool_row *rows, const struct lb_backend *b, bool in_set)
{
	struct lb_pool_row *row = b->entry->row == NO_ROW ? NULL : &rows[b->entry->row];

	if (!row)
		return;
	row->backends += in_set;
	row->eligible += in_set && lb_backend_is_eligible(b);
	if (in_set && (__atomic_load_n(&b->out, __ATOMIC_RELAXED) & LB_BACKEND_DRAINS))
		add_drain(row, __atomic_load_n(&b->drain_until_ms, __ATOMIC_RELAXED));
	row->active += b->active;
	add_counts(&row->counts, &b->counts);
}

static uint32_t count_entries(const struct lb_pool *pool)
{
	uint32_t n = 0;

	lb_list_for_each (node, &pool->entries)
		n++;
	return n;
}

static void fill_rows(struct lb_pool *pool, struct lb_pool_row *rows)
{
	uint32_t n = 0;

	lb_list_for_each (node, &pool->entries) {
		struct lb_pool_entry *e = lb_container_of(node, struct lb_pool_entry, node);

		e->holders++;
		e->row = n;
		rows[n++] = (struct lb_pool_row){.entry = e, .counts = e->gone};
	}
	for (uint32_t i = 0; i < pool->count; i++)
		add_to_row(rows, pool->backends[i], true);
	lb_list_for_each (node, &pool->left)
		add_to_row(rows, backend_of(node), false);
}

int lb_pool_rows(struct lb_pool *pool, struct lb_pool_row **ret, uint32_t *count)
{
	struct lb_pool_row *rows;

	pthread_mutex_lock(&pool->lock);
	*count = count_entries(pool);
	rows = calloc(*count + 1, sizeof(*rows));
	if (rows)
		fill_rows(pool, rows);
	pthread_mutex_unlock(&pool->lock);
	if (!rows)
		return -ENOMEM;
	*ret = rows;
	return 0;
}

void lb_pool_add_counts(struct lb_pool_entry *entry, const struct lb_backend_counts *more)
{
	pthread_mutex_lock(&entry->pool->lock);
	add_counts(&entry->gone, more);
	pthread_mutex_unlock(&entry->pool->lock);
}

void lb_pool_rows_free(struct lb_pool_row **rows, uint32_t count)
{
	for (uint32_t i = 0; *rows && i < count; i++)
		entry_let_go((*rows)[i].entry);
	free(*rows);
	*rows = NULL;
}
