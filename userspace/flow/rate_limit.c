/* SPDX-License-Identifier: MIT */
/* See rate_limit.h. Must never take a token for a connection that is refused. */
#include "flow/rate_limit.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/hash.h"

#define WAYS   8u
#define SETS   131072u /* a power of two */
#define GROUP  64u     /* sets that are looked at together, or not at all */
#define SECOND 1000000000ull

struct key {
	uint8_t bytes[16]; /* an IPv4 address as an IPv6 one is mapped */
};

/* The token bucket: <full_ns> is when it will be full. A token is <token_ns> long. */
struct rate {
	uint64_t token_ns; /* 0: no limit */
	uint64_t burst_ns;
};

struct client {
	struct key key;
	uint64_t full_ns;
};

struct lb_rate_limit {
	pthread_mutex_t lock;
	struct rate client_rate, rule_rate;
	struct lb_rate_limit_config config;
	/* With `cluster`: the rates are what this node may let in without asking the others. */
	struct lb_limits *limits; /* NULL: they are all of it */
	uint32_t nodes;           /* that share; 1 without */
	struct lb_share_label label;
	uint64_t rule_full_ns;
	uint64_t seed;
	uint64_t evicted;        /* atomic */
	bool used[SETS / GROUP]; /* atomic: some client has been in that group */
	/* SETS times WAYS, from the kernel: a page that no client was in costs nothing. */
	struct client *clients;
};

#define TABLE_BYTES ((size_t)SETS * WAYS * sizeof(struct client))

static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* Of one of <nodes> that have the same share. */
static struct rate rate_of(uint32_t per_second, uint32_t burst, uint32_t nodes)
{
	struct rate r = {};

	if (!per_second)
		return r;
	r.token_ns = later((SECOND * nodes + per_second / 2) / per_second, 1);
	/* Fewer tokens that take longer: the time is that of all nodes. One token there must be. */
	r.burst_ns =
		(uint64_t)((unsigned __int128)r.token_ns * (burst ? burst : per_second) / nodes);
	r.burst_ns = later(r.burst_ns, r.token_ns);
	return r;
}

/* When there is a token: now, or a time that lies ahead. */
static uint64_t next_ns(const struct rate *r, uint64_t full_ns, uint64_t now_ns)
{
	uint64_t taken = later(full_ns, now_ns) + r->token_ns;

	return taken > now_ns + r->burst_ns ? taken - r->burst_ns : now_ns;
}

static struct key key_of(const struct lb_addr *addr, uint32_t ipv6_prefix)
{
	struct key key = {{[10] = 0xff, [11] = 0xff}};
	struct lb_addr a = *addr;

	lb_addr_unmap(&a);
	if (a.sa.sa_family != AF_INET6) {
		memcpy(key.bytes + 12, &a.in4.sin_addr, 4);
		return key;
	}
	memcpy(key.bytes, &a.in6.sin6_addr, 16);
	for (uint32_t i = 0; i < 16; i++) {
		uint32_t bits = ipv6_prefix > i * 8 ? ipv6_prefix - i * 8 : 0;

		if (bits < 8)
			key.bytes[i] &= (uint8_t)(0xff00u >> bits);
	}
	return key;
}

/* With a seed that clients do not know: none can choose whom it is beside. */
static struct client *set_of(const struct lb_rate_limit *l, const struct key *key)
{
	struct {
		uint64_t seed;
		struct key key;
	} seeded = {l->seed, *key};

	return &l->clients[(lb_hash(&seeded, sizeof(seeded)) & (SETS - 1)) * WAYS];
}

/* The client's bucket, or the one in its set that is missed least. */
static struct client *find(struct lb_rate_limit *l, const struct key *key)
{
	struct client *set = set_of(l, key), *least = set;

	for (uint32_t i = 0; i < WAYS; i++) {
		if (set[i].full_ns && !memcmp(&set[i].key, key, sizeof(*key)))
			return &set[i];
		if (set[i].full_ns < least->full_ns)
			least = &set[i];
	}
	return least;
}

static void keep(struct lb_rate_limit *l, struct client *c, const struct key *key, uint64_t full_ns,
		 uint64_t now_ns)
{
	__atomic_store_n(&l->used[(size_t)(c - l->clients) / WAYS / GROUP], true, __ATOMIC_RELAXED);
	if (c->full_ns > now_ns && memcmp(&c->key, key, sizeof(*key)) != 0)
		__atomic_fetch_add(&l->evicted, 1, __ATOMIC_RELAXED);
	c->key = *key;
	__atomic_store_n(&c->full_ns, full_ns, __ATOMIC_RELAXED);
}

/* --- with other nodes ------------------------------------------------------------------------- */

static uint64_t lacks(const struct rate *r, uint64_t full_ns, uint64_t now_ns)
{
	if (full_ns <= now_ns)
		return 0;
	return (uint64_t)((unsigned __int128)(full_ns - now_ns) * LB_SHARE_TOKEN / r->token_ns);
}

static struct lb_limits_ask ask_of(uint32_t per_second, uint32_t burst, const struct rate *r,
				   uint64_t full_ns, uint64_t now_ns)
{
	return (struct lb_limits_ask){
		.share.limit = {per_second, burst ? burst : per_second},
		.share.lacks = lacks(r, full_ns, now_ns),
		.has = next_ns(r, full_ns, now_ns) == now_ns,
	};
}

static void name(struct lb_limits_ask *ask, const struct lb_share_label *label)
{
	ask->share.key = lb_share_key(label);
	ask->share.label = label;
}

/* Where more is let in than this node's own bucket has, that one is empty. */
static uint64_t spent(const struct rate *r, uint64_t full_ns, uint64_t now_ns)
{
	uint64_t full = later(full_ns, now_ns) + r->token_ns;

	return full > now_ns + r->burst_ns ? now_ns + r->burst_ns : full;
}

static enum lb_rate_limit_verdict take_shared(struct lb_rate_limit *l, const struct key *key,
					      uint64_t now_ns, uint64_t *until_ns)
{
	const struct rate *client = &l->client_rate, *rule = &l->rule_rate;
	struct client *c = find(l, key);
	uint64_t full_ns = memcmp(&c->key, key, sizeof(*key)) ? 0 : c->full_ns, until_us;
	struct lb_share_label label = l->label;
	struct lb_limits_ask asks[2];
	size_t count = 0, got;

	memcpy(label.addr, key->bytes, sizeof(label.addr));
	asks[count] =
		ask_of(l->config.requests_per_second, l->config.burst, client, full_ns, now_ns);
	name(&asks[count++], &label);
	if (rule->token_ns) {
		asks[count] = ask_of(l->config.rule_requests_per_second, l->config.rule_burst, rule,
				     l->rule_full_ns, now_ns);
		name(&asks[count++], &l->label);
	}
	got = lb_limits_take(l->limits, asks, count, now_ns / 1000, &until_us);
	if (got < count) {
		*until_ns = until_us * 1000;
		return got ? LB_RATE_LIMIT_RULE : LB_RATE_LIMIT_CLIENT;
	}
	keep(l, c, key, spent(client, full_ns, now_ns), now_ns);
	if (rule->token_ns)
		l->rule_full_ns = spent(rule, l->rule_full_ns, now_ns);
	return LB_RATE_LIMIT_TAKEN;
}

/* --- alone ------------------------------------------------------------------------------------ */

static enum lb_rate_limit_verdict take(struct lb_rate_limit *l, const struct key *key,
				       uint64_t now_ns, uint64_t *until_ns)
{
	struct client *c = find(l, key);
	uint64_t full_ns = memcmp(&c->key, key, sizeof(*key)) ? 0 : c->full_ns, next;

	if (l->client_rate.token_ns) {
		next = next_ns(&l->client_rate, full_ns, now_ns);
		if (next > now_ns) {
			*until_ns = next;
			return LB_RATE_LIMIT_CLIENT;
		}
	}
	if (l->rule_rate.token_ns) {
		next = next_ns(&l->rule_rate, l->rule_full_ns, now_ns);
		if (next > now_ns) {
			*until_ns = next;
			return LB_RATE_LIMIT_RULE;
		}
		l->rule_full_ns = later(l->rule_full_ns, now_ns) + l->rule_rate.token_ns;
	}
	if (l->client_rate.token_ns)
		keep(l, c, key, later(full_ns, now_ns) + l->client_rate.token_ns, now_ns);
	return LB_RATE_LIMIT_TAKEN;
}

/* --- rates ------------------------------------------------------------------------------------ */

/* When a bucket is full that lacks as many tokens as before, and not more than it holds. */
static uint64_t converted(uint64_t full_ns, const struct rate *from, const struct rate *to,
			  uint64_t now_ns)
{
	unsigned __int128 lacks;

	if (full_ns <= now_ns || !from->token_ns || !to->token_ns)
		return 0;
	lacks = (unsigned __int128)(full_ns - now_ns) * to->token_ns / from->token_ns;
	return now_ns + (lacks < to->burst_ns ? (uint64_t)lacks : to->burst_ns);
}

static void convert(struct lb_rate_limit *l, const struct rate *from, const struct rate *to,
		    uint64_t now_ns)
{
	for (uint32_t g = 0; g < SETS / GROUP; g++) {
		struct client *c = &l->clients[(size_t)g * GROUP * WAYS];

		for (uint32_t i = 0; l->used[g] && i < GROUP * WAYS; i++)
			__atomic_store_n(&c[i].full_ns, converted(c[i].full_ns, from, to, now_ns),
					 __ATOMIC_RELAXED);
	}
}

static void set_rates(struct lb_rate_limit *l, uint64_t now_ns)
{
	const struct lb_rate_limit_config *c = &l->config;
	struct rate client, rule;

	l->nodes = l->limits ? lb_limits_size(l->limits) : 1;
	client = rate_of(c->requests_per_second, c->burst, l->nodes);
	rule = rate_of(c->rule_requests_per_second, c->rule_burst, l->nodes);
	if (client.token_ns != l->client_rate.token_ns ||
	    client.burst_ns != l->client_rate.burst_ns)
		convert(l, &l->client_rate, &client, now_ns);
	l->rule_full_ns = converted(l->rule_full_ns, &l->rule_rate, &rule, now_ns);
	l->client_rate = client;
	l->rule_rate = rule;
}

void lb_rate_limit_set(struct lb_rate_limit *l, const struct lb_rate_limit_config *config,
		       uint64_t now_ns)
{
	pthread_mutex_lock(&l->lock);
	l->config = *config;
	set_rates(l, now_ns);
	pthread_mutex_unlock(&l->lock);
}

void lb_rate_limit_share(struct lb_rate_limit *l, struct lb_limits *limits, const char *rule,
			 uint64_t now_ns)
{
	pthread_mutex_lock(&l->lock);
	l->limits = limits;
	(void)snprintf(l->label.rule, sizeof(l->label.rule), "%s", rule);
	set_rates(l, now_ns);
	pthread_mutex_unlock(&l->lock);
}

enum lb_rate_limit_verdict lb_rate_limit_take(struct lb_rate_limit *l, const struct lb_addr *client,
					      uint64_t now_ns, uint64_t *until_ns)
{
	enum lb_rate_limit_verdict verdict;
	struct key key;

	pthread_mutex_lock(&l->lock);
	key = key_of(client, l->config.ipv6_prefix);
	if (l->limits) {
		if (lb_limits_size(l->limits) != l->nodes)
			set_rates(l, now_ns);
		verdict = take_shared(l, &key, now_ns, until_ns);
	} else {
		verdict = take(l, &key, now_ns, until_ns);
	}
	pthread_mutex_unlock(&l->lock);
	return verdict;
}

/* --- life ------------------------------------------------------------------------------------- */

int lb_rate_limit_new(struct lb_rate_limit **ret, const struct lb_rate_limit_config *config)
{
	LB_AUTO_FREE struct lb_rate_limit *l = calloc(1, sizeof(*l));
	void *table;

	if (!l)
		return -ENOMEM;
	if (getrandom(&l->seed, sizeof(l->seed), 0) != sizeof(l->seed))
		return -errno;
	table = mmap(NULL, TABLE_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (table == MAP_FAILED)
		return -errno;
	/* One client must not cost 2 MiB. Without that advice it works too. */
	(void)madvise(table, TABLE_BYTES, MADV_NOHUGEPAGE);
	l->clients = table;
	pthread_mutex_init(&l->lock, NULL);
	lb_rate_limit_set(l, config, 0);
	*ret = LB_TAKE_PTR(l);
	return 0;
}

void lb_rate_limit_free(struct lb_rate_limit **l)
{
	if (!*l)
		return;
	munmap((*l)->clients, TABLE_BYTES);
	pthread_mutex_destroy(&(*l)->lock);
	free(*l);
	*l = NULL;
}

/* Under the lock: those that are not full go to <to>, NULL: are counted. */
static size_t save(const struct lb_rate_limit *l, uint64_t now_ns, struct lb_rate_limit_record *to)
{
	size_t n = 0;

	for (uint32_t g = 0; g < SETS / GROUP; g++) {
		const struct client *c = &l->clients[(size_t)g * GROUP * WAYS];

		for (uint32_t i = 0; l->used[g] && i < GROUP * WAYS; i++) {
			if (c[i].full_ns <= now_ns)
				continue;
			if (to) {
				memcpy(to[n].key, c[i].key.bytes, sizeof(to[n].key));
				to[n].full_ns = c[i].full_ns;
			}
			n++;
		}
	}
	return n;
}

int lb_rate_limit_save(struct lb_rate_limit *l, uint64_t now_ns, struct lb_rate_limit_record **ret,
		       size_t *count)
{
	struct lb_rate_limit_record *all;
	size_t n;

	pthread_mutex_lock(&l->lock);
	n = save(l, now_ns, NULL);
	all = calloc(n + 1, sizeof(*all));
	if (all) {
		(void)save(l, now_ns, all);
		if (l->rule_full_ns > now_ns)
			all[n++].full_ns = l->rule_full_ns;
	}
	pthread_mutex_unlock(&l->lock);
	if (!all)
		return -ENOMEM;
	*ret = all;
	*count = n;
	return 0;
}

/* Nobody lacks more than there is. */
static uint64_t bounded(const struct rate *r, uint64_t full_ns, uint64_t now_ns)
{
	return full_ns > now_ns + r->burst_ns ? now_ns + r->burst_ns : full_ns;
}

void lb_rate_limit_restore(struct lb_rate_limit *l, const struct lb_rate_limit_record *record,
			   uint64_t now_ns)
{
	static const struct key all = {{0}};
	struct client *c;
	struct key key;
	uint64_t full;

	memcpy(key.bytes, record->key, sizeof(key.bytes));
	pthread_mutex_lock(&l->lock);
	if (!memcmp(&key, &all, sizeof(all))) {
		full = l->rule_rate.token_ns ? bounded(&l->rule_rate, record->full_ns, now_ns) : 0;
		l->rule_full_ns = later(l->rule_full_ns, full);
	} else if (l->client_rate.token_ns) {
		c = find(l, &key);
		full = bounded(&l->client_rate, record->full_ns, now_ns);
		if (full > now_ns && (memcmp(&c->key, &key, sizeof(key)) || full > c->full_ns))
			keep(l, c, &key, full, now_ns);
	}
	pthread_mutex_unlock(&l->lock);
}

uint32_t lb_rate_limit_clients(const struct lb_rate_limit *l, uint64_t now_ns)
{
	uint32_t n = 0;

	for (uint32_t g = 0; g < SETS / GROUP; g++) {
		const struct client *c = &l->clients[(size_t)g * GROUP * WAYS];

		if (!__atomic_load_n(&l->used[g], __ATOMIC_RELAXED))
			continue;
		for (uint32_t i = 0; i < GROUP * WAYS; i++)
			n += __atomic_load_n(&c[i].full_ns, __ATOMIC_RELAXED) > now_ns;
	}
	return n;
}

uint32_t lb_rate_limit_clients_max(void)
{
	return SETS * WAYS;
}

uint64_t lb_rate_limit_evicted(const struct lb_rate_limit *l)
{
	return __atomic_load_n(&l->evicted, __ATOMIC_RELAXED);
}
