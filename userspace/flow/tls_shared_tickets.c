/* SPDX-License-Identifier: MIT */
/* See tls_shared_tickets.h. Must never give a key of another context, nor one beyond its time. */
#include "flow/tls_shared_tickets.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "base/cleanup.h"

/* Keys of so many hours before this one open. */
#define OLDER (LB_TLS_TICKETS_KEYS - 1)

struct secret {
	uint8_t id[LB_TLS_TICKET_ID]; /* stands in every ticket; says nothing of the secret */
	uint8_t bytes[LB_TLS_SECRET_BYTES];
};

struct lb_tls_secrets {
	pthread_mutex_t lock; /* of what follows */
	struct secret all[LB_TLS_SECRETS_MAX];
	uint32_t count;
};

int lb_tls_secrets_new(struct lb_tls_secrets **ret)
{
	struct lb_tls_secrets *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	pthread_mutex_init(&s->lock, NULL);
	*ret = s;
	return 0;
}

void lb_tls_secrets_free(struct lb_tls_secrets **ps)
{
	struct lb_tls_secrets *s = *ps;

	if (!s)
		return;
	*ps = NULL;
	pthread_mutex_destroy(&s->lock);
	OPENSSL_cleanse(s, sizeof(*s));
	free(s);
}

static bool derive(const uint8_t secret[LB_TLS_SECRET_BYTES], const char what[4], uint32_t hour,
		   const uint8_t *context, uint8_t ret[32])
{
	uint8_t text[8 + LB_TLS_CONTEXT_BYTES] = {};
	uint32_t big = htobe32(hour);

	memcpy(text, what, 4);
	memcpy(&text[4], &big, sizeof(big));
	if (context)
		memcpy(&text[8], context, LB_TLS_CONTEXT_BYTES);
	return HMAC(EVP_sha256(), secret, LB_TLS_SECRET_BYTES, text, sizeof(text), ret, NULL);
}

int lb_tls_secrets_set(struct lb_tls_secrets *s, const uint8_t (*secrets)[LB_TLS_SECRET_BYTES],
		       uint32_t count)
{
	struct secret fresh[LB_TLS_SECRETS_MAX] = {};
	uint8_t mac[32];

	for (uint32_t i = 0; i < count; i++) {
		if (!derive(secrets[i], "nid", 0, NULL, mac))
			return -EIO;
		memcpy(fresh[i].id, mac, sizeof(fresh[i].id));
		memcpy(fresh[i].bytes, secrets[i], LB_TLS_SECRET_BYTES);
	}
	pthread_mutex_lock(&s->lock);
	memcpy(s->all, fresh, sizeof(fresh));
	s->count = count;
	pthread_mutex_unlock(&s->lock);
	OPENSSL_cleanse(fresh, sizeof(fresh));
	return 0;
}

/* The <index>th one at this moment. */
static bool look(struct lb_tls_secrets *s, uint32_t index, struct secret *ret)
{
	bool there;

	pthread_mutex_lock(&s->lock);
	there = index < s->count;
	if (there)
		*ret = s->all[index];
	pthread_mutex_unlock(&s->lock);
	return there;
}

static bool make(const struct secret *secret, uint32_t hour, const uint8_t *context,
		 struct lb_tls_ticket_key *ret)
{
	uint32_t big = htobe32(hour);
	uint8_t mac[32];

	if (!derive(secret->bytes, "nam", hour, context, mac) ||
	    !derive(secret->bytes, "aes", hour, context, ret->aes) ||
	    !derive(secret->bytes, "mac", hour, context, ret->hmac))
		return false;
	memcpy(ret->name, secret->id, 4);
	memcpy(&ret->name[4], &big, 4);
	memcpy(&ret->name[8], mac, 8);
	return true;
}

static uint32_t hour_of(uint64_t wall_s)
{
	return (uint32_t)(wall_s / LB_TLS_TICKET_HOUR_S);
}

bool lb_tls_secrets_seal(struct lb_tls_secrets *s, uint64_t wall_s,
			 const uint8_t context[LB_TLS_CONTEXT_BYTES], struct lb_tls_ticket_key *ret)
{
	struct secret first;
	bool good = look(s, 0, &first) && make(&first, hour_of(wall_s), context, ret);

	OPENSSL_cleanse(&first, sizeof(first));
	return good;
}

/* Which one made <name>: its index, or LB_TLS_SECRETS_MAX. */
static uint32_t find(struct lb_tls_secrets *s, const uint8_t name[16], struct secret *ret)
{
	uint32_t i = 0;

	while (look(s, i, ret) && memcmp(ret->id, name, sizeof(ret->id)) != 0)
		i++;
	return memcmp(ret->id, name, sizeof(ret->id)) != 0 ? LB_TLS_SECRETS_MAX : i;
}

bool lb_tls_secrets_open(struct lb_tls_secrets *s, uint64_t wall_s,
			 const uint8_t context[LB_TLS_CONTEXT_BYTES], const uint8_t name[16],
			 struct lb_tls_ticket_key *ret, bool *fresh)
{
	struct lb_tls_ticket_key key;
	uint32_t now = hour_of(wall_s), hour;
	struct secret secret = {};
	uint32_t index = find(s, name, &secret);
	bool good;

	memcpy(&hour, &name[4], sizeof(hour));
	hour = be32toh(hour);
	good = index < LB_TLS_SECRETS_MAX && hour + OLDER >= now && hour <= now + 1 &&
	       make(&secret, hour, context, &key) &&
	       !CRYPTO_memcmp(key.name, name, sizeof(key.name));
	if (good) {
		*fresh = !index && hour == now;
		*ret = key;
	}
	OPENSSL_cleanse(&secret, sizeof(secret));
	OPENSSL_cleanse(&key, sizeof(key));
	return good;
}
