/* SPDX-License-Identifier: MIT */
/* See tls_tickets.h. Must never use a key that is not random, nor one beyond its time. */
#include "flow/tls_tickets.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/rand.h>

#include "base/cleanup.h"

struct lb_tls_tickets {
	uint32_t holders; /* atomic */
	pthread_mutex_t lock;
	/* Under the lock. The first one seals. */
	struct lb_tls_ticket_key keys[LB_TLS_TICKETS_KEYS];
	unsigned int count;
	uint64_t since_ms; /* when the first one was made */
};

/* One more key in front, the last one out. */
static bool add(struct lb_tls_tickets *t, uint64_t now_ms)
{
	struct lb_tls_ticket_key key;

	if (RAND_bytes(key.name, sizeof(key.name)) != 1 ||
	    RAND_priv_bytes(key.aes, sizeof(key.aes)) != 1 ||
	    RAND_priv_bytes(key.hmac, sizeof(key.hmac)) != 1)
		return false;
	memmove(&t->keys[1], &t->keys[0], sizeof(t->keys) - sizeof(t->keys[0]));
	t->keys[0] = key;
	OPENSSL_cleanse(&key, sizeof(key));
	if (t->count < LB_TLS_TICKETS_KEYS)
		t->count++;
	t->since_ms = now_ms;
	return true;
}

/* Keys whose time has passed go, also when nobody came for hours. */
static bool rotate(struct lb_tls_tickets *t, uint64_t now_ms)
{
	uint64_t periods = (now_ms - t->since_ms) / LB_TLS_TICKETS_ROTATE_MS;

	if (!periods)
		return true;
	if (periods >= LB_TLS_TICKETS_KEYS)
		t->count = 0;
	else if (t->count > LB_TLS_TICKETS_KEYS - (unsigned int)periods)
		t->count = LB_TLS_TICKETS_KEYS - (unsigned int)periods;
	return add(t, now_ms);
}

int lb_tls_tickets_new(struct lb_tls_tickets **ret, uint64_t now_ms)
{
	struct lb_tls_tickets *t = calloc(1, sizeof(*t));

	if (!t)
		return -ENOMEM;
	t->holders = 1;
	pthread_mutex_init(&t->lock, NULL);
	if (!add(t, now_ms)) {
		lb_tls_tickets_free(&t);
		return -EIO;
	}
	*ret = t;
	return 0;
}

struct lb_tls_tickets *lb_tls_tickets_hold(struct lb_tls_tickets *t)
{
	__atomic_fetch_add(&t->holders, 1, __ATOMIC_RELAXED);
	return t;
}

void lb_tls_tickets_free(struct lb_tls_tickets **pt)
{
	struct lb_tls_tickets *t = *pt;

	if (!t)
		return;
	*pt = NULL;
	if (__atomic_sub_fetch(&t->holders, 1, __ATOMIC_ACQ_REL))
		return;
	pthread_mutex_destroy(&t->lock);
	OPENSSL_cleanse(t, sizeof(*t));
	free(t);
}

bool lb_tls_tickets_seal(struct lb_tls_tickets *t, uint64_t now_ms, struct lb_tls_ticket_key *ret)
{
	bool good;

	pthread_mutex_lock(&t->lock);
	good = rotate(t, now_ms);
	if (good)
		*ret = t->keys[0];
	pthread_mutex_unlock(&t->lock);
	return good;
}

bool lb_tls_tickets_open(struct lb_tls_tickets *t, uint64_t now_ms, const uint8_t name[16],
			 struct lb_tls_ticket_key *ret, bool *fresh)
{
	bool found = false;

	pthread_mutex_lock(&t->lock);
	/* Without a new key the old ones are as good as they were. */
	(void)rotate(t, now_ms);
	for (unsigned int i = 0; i < t->count && !found; i++) {
		if (memcmp(t->keys[i].name, name, sizeof(t->keys[i].name)) != 0)
			continue;
		found = true;
		*fresh = i == 0;
		*ret = t->keys[i];
	}
	pthread_mutex_unlock(&t->lock);
	return found;
}
