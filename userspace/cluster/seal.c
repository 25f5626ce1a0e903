/* SPDX-License-Identifier: MIT */
/* See seal.h. Must never use a counter of a session twice, nor open one twice. */
#include "cluster/seal.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include "base/cleanup.h"
#include "base/hash.h"

#define MAGIC         0xb4
#define FORMAT        1
#define SESSION_BYTES 12u
#define BLOCK         16u
#define NONCE_BYTES   12u
#define COUNTER_MAX   (1ull << 32)
#define WORDS         (LB_SEAL_WINDOW / 64)
#define NONE          UINT32_MAX

struct head {
	uint8_t key_id[LB_SEAL_ID_BYTES];
	uint8_t session[SESSION_BYTES];
	uint64_t counter;
	uint64_t time_ms;
};

struct session {
	uint8_t name[SESSION_BYTES];
	uint8_t key_id[LB_SEAL_ID_BYTES];
	uint8_t key[LB_SEAL_KEY_BYTES]; /* derived */
	bool has_key;
	uint32_t next;        /* of the same chain */
	uint64_t highest;     /* counter */
	uint64_t newest_ms;   /* by the sender's clock */
	uint64_t seen[WORDS]; /* counters up to <highest>, a ring */
};

/* A key of the file, ready to derive from. */
struct master {
	EVP_CIPHER_CTX *ctx;   /* AES-256, a block at a time */
	uint8_t subkey[BLOCK]; /* CMAC's K1 */
};

struct lb_seal {
	struct lb_seal_keys keys;
	struct master masters[LB_SEAL_KEYS_MAX];
	EVP_CIPHER *cipher;
	EVP_CIPHER_CTX *ctx;
	/* This node's own. */
	uint8_t name[SESSION_BYTES];
	uint8_t key[LB_SEAL_KEY_BYTES];
	uint64_t counter;
	/* The others'. */
	struct session *sessions;
	uint32_t *chains;
	uint32_t count, max;
	uint32_t chains_count; /* a power of two */
	uint64_t start_ms;     /* by the clock that is never set */
	uint64_t forgotten_ms; /* nothing as old as that is admitted */
	uint64_t look_ms;      /* next time a wrong clock is looked into */
	uint64_t counts[LB_SEAL_VERDICTS];
};

static void put(uint8_t *at, uint64_t v, unsigned int n)
{
	for (unsigned int i = 0; i < n; i++)
		at[i] = (uint8_t)(v >> 8 * (n - 1 - i));
}

static uint64_t get(const uint8_t *at, unsigned int n)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < n; i++)
		v = v << 8 | at[i];
	return v;
}

static void write_head(uint8_t *at, const struct head *h)
{
	at[0] = MAGIC;
	at[1] = FORMAT;
	memcpy(at + 2, h->key_id, sizeof(h->key_id));
	memcpy(at + 6, h->session, sizeof(h->session));
	put(at + 18, h->counter, 8);
	put(at + 26, h->time_ms, 6);
}

static bool read_head(const uint8_t *at, size_t len, struct head *h)
{
	if (len < LB_SEAL_HEAD + LB_SEAL_TAG || len > LB_WIRE_BYTES_MAX || at[0] != MAGIC ||
	    at[1] != FORMAT)
		return false;
	memcpy(h->key_id, at + 2, sizeof(h->key_id));
	memcpy(h->session, at + 6, sizeof(h->session));
	h->counter = get(at + 18, 8);
	h->time_ms = get(at + 26, 6);
	return h->counter && h->counter <= COUNTER_MAX;
}

/* --- the cipher ------------------------------------------------------------------------------- */

static void master_fini(struct master *m)
{
	EVP_CIPHER_CTX_free(m->ctx);
	OPENSSL_cleanse(m, sizeof(*m));
}

/* The subkey is AES(0) doubled in GF(2^128) (SP 800-38B). */
static bool master_init(struct master *m, const struct lb_seal_key *key)
{
	uint8_t l[BLOCK] = {}, carry;
	int n;

	m->ctx = EVP_CIPHER_CTX_new();
	if (!m->ctx || EVP_EncryptInit_ex(m->ctx, EVP_aes_256_ecb(), NULL, key->bytes, NULL) != 1 ||
	    EVP_CIPHER_CTX_set_padding(m->ctx, 0) != 1 ||
	    EVP_EncryptUpdate(m->ctx, l, &n, l, BLOCK) != 1) {
		master_fini(m);
		return false;
	}
	carry = l[0] >> 7;
	for (unsigned int i = 0; i < BLOCK; i++)
		m->subkey[i] = (uint8_t)(l[i] << 1 | (i + 1 < BLOCK ? l[i + 1] >> 7 : 0));
	m->subkey[BLOCK - 1] ^= (uint8_t)(carry * 0x87);
	OPENSSL_cleanse(l, sizeof(l));
	return true;
}

/* SP 800-108 in counter mode with CMAC, label 'X': two messages of one block each. */
static bool derive(const struct master *m, const uint8_t session[SESSION_BYTES],
		   uint8_t ret[LB_SEAL_KEY_BYTES])
{
	uint8_t blocks[2 * BLOCK] = {0, 1, 'X', 0, [BLOCK] = 0, 2, 'X', 0};
	int n;

	memcpy(blocks + BLOCK - SESSION_BYTES, session, SESSION_BYTES);
	memcpy(blocks + 2 * BLOCK - SESSION_BYTES, session, SESSION_BYTES);
	for (unsigned int i = 0; i < sizeof(blocks); i++)
		blocks[i] ^= m->subkey[i % BLOCK];
	return EVP_EncryptUpdate(m->ctx, ret, &n, blocks, sizeof(blocks)) == 1;
}

static void nonce_of(uint64_t counter, uint8_t nonce[NONCE_BYTES])
{
	memset(nonce, 0, NONCE_BYTES);
	put(nonce + 4, counter, 8);
}

/* out: the head stands there already. */
static bool encrypt(struct lb_seal *s, uint64_t counter, const uint8_t *bytes, size_t len,
		    uint8_t *out)
{
	uint8_t nonce[NONCE_BYTES];
	int n;

	nonce_of(counter, nonce);
	return EVP_EncryptInit_ex(s->ctx, s->cipher, NULL, s->key, nonce) == 1 &&
	       EVP_EncryptUpdate(s->ctx, NULL, &n, out, LB_SEAL_HEAD) == 1 &&
	       EVP_EncryptUpdate(s->ctx, out + LB_SEAL_HEAD, &n, bytes, (int)len) == 1 &&
	       EVP_EncryptFinal_ex(s->ctx, out + LB_SEAL_HEAD + len, &n) == 1 &&
	       EVP_CIPHER_CTX_ctrl(s->ctx, EVP_CTRL_AEAD_GET_TAG, LB_SEAL_TAG,
				   out + LB_SEAL_HEAD + len) == 1;
}

static bool decrypt(struct lb_seal *s, const uint8_t key[LB_SEAL_KEY_BYTES], uint64_t counter,
		    const uint8_t *bytes, size_t len, uint8_t *out)
{
	size_t sealed = len - LB_SEAL_HEAD - LB_SEAL_TAG;
	uint8_t nonce[NONCE_BYTES], tag[LB_SEAL_TAG];
	int n;

	nonce_of(counter, nonce);
	memcpy(tag, bytes + len - LB_SEAL_TAG, sizeof(tag));
	return EVP_DecryptInit_ex(s->ctx, s->cipher, NULL, key, nonce) == 1 &&
	       EVP_DecryptUpdate(s->ctx, NULL, &n, bytes, LB_SEAL_HEAD) == 1 &&
	       EVP_DecryptUpdate(s->ctx, out, &n, bytes + LB_SEAL_HEAD, (int)sealed) == 1 &&
	       EVP_CIPHER_CTX_ctrl(s->ctx, EVP_CTRL_AEAD_SET_TAG, LB_SEAL_TAG, tag) == 1 &&
	       EVP_DecryptFinal_ex(s->ctx, out + sealed, &n) == 1;
}

/* --- sessions --------------------------------------------------------------------------------- */

static const struct master *master_of(const struct lb_seal *s, const uint8_t id[LB_SEAL_ID_BYTES])
{
	for (uint32_t i = 0; i < s->keys.count; i++)
		if (!memcmp(s->keys.keys[i].id, id, LB_SEAL_ID_BYTES))
			return &s->masters[i];
	return NULL;
}

/* Only who has the key adds sessions, so chains are as long as chance has it. */
static uint32_t *chain_of(const struct lb_seal *s, const uint8_t name[SESSION_BYTES])
{
	return &s->chains[lb_hash(name, SESSION_BYTES) & (s->chains_count - 1)];
}

static struct session *find(const struct lb_seal *s, const struct head *h)
{
	uint32_t i = *chain_of(s, h->session);

	while (i != NONE && memcmp(s->sessions[i].name, h->session, SESSION_BYTES) != 0)
		i = s->sessions[i].next;
	return i == NONE ? NULL : &s->sessions[i];
}

static void unlink_session(struct lb_seal *s, struct session *old)
{
	uint32_t *at = chain_of(s, old->name);

	while (&s->sessions[*at] != old)
		at = &s->sessions[*at].next;
	*at = old->next;
}

/* A free place, or that of the session nothing has come of for longest; NULL when all are new. */
static struct session *place(struct lb_seal *s, uint64_t wall_ms)
{
	struct session *oldest = s->sessions;

	if (s->count < s->max)
		return &s->sessions[s->count++];
	for (uint32_t i = 1; i < s->count; i++)
		if (s->sessions[i].newest_ms < oldest->newest_ms)
			oldest = &s->sessions[i];
	if (oldest->newest_ms + LB_SEAL_SKEW_MS >= wall_ms)
		return NULL;
	if (oldest->newest_ms > s->forgotten_ms)
		s->forgotten_ms = oldest->newest_ms;
	unlink_session(s, oldest);
	return oldest;
}

static struct session *admit(struct lb_seal *s, const struct head *h,
			     const uint8_t key[LB_SEAL_KEY_BYTES], uint64_t wall_ms)
{
	struct session *new = place(s, wall_ms);
	uint32_t *chain = chain_of(s, h->session);

	if (!new)
		return NULL;
	*new = (struct session){.has_key = true, .next = *chain};
	memcpy(new->name, h->session, sizeof(new->name));
	memcpy(new->key_id, h->key_id, sizeof(new->key_id));
	memcpy(new->key, key, sizeof(new->key));
	*chain = (uint32_t)(new - s->sessions);
	return new;
}

static bool seen(const struct session *c, uint64_t counter)
{
	if (counter > c->highest)
		return false;
	if (c->highest - counter >= LB_SEAL_WINDOW)
		return true;
	return c->seen[counter / 64 % WORDS] >> counter % 64 & 1;
}

/* The ring must not remember what it held a turn ago. */
static void note(struct session *c, const struct head *h)
{
	uint64_t ahead = h->counter > c->highest ? h->counter - c->highest : 0;

	if (ahead >= LB_SEAL_WINDOW)
		memset(c->seen, 0, sizeof(c->seen));
	for (uint64_t i = 1; ahead < LB_SEAL_WINDOW && i <= ahead; i++) {
		uint64_t bit = c->highest + i;

		c->seen[bit / 64 % WORDS] &= ~(1ull << bit % 64);
	}
	if (ahead)
		c->highest = h->counter;
	if (h->time_ms > c->newest_ms)
		c->newest_ms = h->time_ms;
	c->seen[h->counter / 64 % WORDS] |= 1ull << h->counter % 64;
}

/* --- opening ---------------------------------------------------------------------------------- */

static enum lb_seal_verdict open_known(struct lb_seal *s, struct session *c,
				       const struct master *key, const struct head *h,
				       const uint8_t *bytes, size_t len, uint8_t *out)
{
	if (seen(c, h->counter))
		return LB_SEAL_REPLAYED;
	/* The key file had another key meanwhile. */
	if (!c->has_key)
		c->has_key = derive(key, c->name, c->key);
	if (memcmp(c->key_id, h->key_id, sizeof(c->key_id)) != 0 || !c->has_key ||
	    !decrypt(s, c->key, h->counter, bytes, len, out))
		return LB_SEAL_FORGED;
	note(c, h);
	return LB_SEAL_OPENED;
}

static bool recent(const struct lb_seal *s, const struct head *h, struct lb_seal_time now)
{
	/* By the wall clock as it is now, which may have been set since. */
	uint64_t start_ms = now.wall_ms - (now.now_ms - s->start_ms);

	return h->time_ms + LB_SEAL_SKEW_MS >= now.wall_ms &&
	       h->time_ms <= now.wall_ms + LB_SEAL_SKEW_MS && h->time_ms >= start_ms &&
	       h->time_ms > s->forgotten_ms;
}

static enum lb_seal_verdict open_new(struct lb_seal *s, const struct master *key,
				     const struct head *h, struct lb_seal_time now,
				     const uint8_t *bytes, size_t len, uint8_t *out,
				     int64_t *ret_skew)
{
	uint8_t derived[LB_SEAL_KEY_BYTES];
	bool is_recent = recent(s, h, now);
	enum lb_seal_verdict verdict = LB_SEAL_OPENED;
	struct session *c;

	*ret_skew = 0;
	if (!is_recent && now.now_ms < s->look_ms)
		return LB_SEAL_CLOCK;
	if (!derive(key, h->session, derived) ||
	    !decrypt(s, derived, h->counter, bytes, len, out)) {
		verdict = LB_SEAL_FORGED;
	} else if (!is_recent) {
		s->look_ms = now.now_ms + 1000;
		*ret_skew = (int64_t)(h->time_ms - now.wall_ms);
		verdict = LB_SEAL_CLOCK;
	} else {
		c = admit(s, h, derived, now.wall_ms);
		if (c)
			note(c, h);
		else
			verdict = LB_SEAL_FULL;
	}
	OPENSSL_cleanse(derived, sizeof(derived));
	return verdict;
}

enum lb_seal_verdict lb_seal_open(struct lb_seal *s, struct lb_seal_time now, const uint8_t *bytes,
				  size_t len, uint8_t out[LB_WIRE_PLAIN_MAX], size_t *ret_len,
				  int64_t *ret_skew)
{
	/* What is not authentic never gets out of here. */
	uint8_t opened[LB_WIRE_PLAIN_MAX + LB_SEAL_TAG];
	enum lb_seal_verdict verdict = LB_SEAL_MALFORMED;
	const struct master *key;
	struct session *c;
	struct head h;

	if (read_head(bytes, len, &h)) {
		key = master_of(s, h.key_id);
		c = key ? find(s, &h) : NULL;
		if (!key)
			verdict = LB_SEAL_NO_KEY;
		else if (c)
			verdict = open_known(s, c, key, &h, bytes, len, opened);
		else
			verdict = open_new(s, key, &h, now, bytes, len, opened, ret_skew);
	}
	s->counts[verdict]++;
	if (verdict == LB_SEAL_OPENED) {
		*ret_len = len - LB_SEAL_HEAD - LB_SEAL_TAG;
		memcpy(out, opened, *ret_len);
	}
	return verdict;
}

/* --- sealing ---------------------------------------------------------------------------------- */

static bool new_session(struct lb_seal *s, const struct master *key)
{
	uint8_t name[SESSION_BYTES], derived[LB_SEAL_KEY_BYTES];
	bool good = RAND_bytes(name, sizeof(name)) == 1 && derive(key, name, derived);

	if (good) {
		memcpy(s->name, name, sizeof(name));
		memcpy(s->key, derived, sizeof(derived));
		s->counter = 0;
	}
	OPENSSL_cleanse(derived, sizeof(derived));
	return good;
}

int lb_seal_close(struct lb_seal *s, struct lb_seal_time now, const uint8_t *bytes, size_t len,
		  uint8_t out[LB_WIRE_BYTES_MAX])
{
	struct head h;

	if (len > LB_WIRE_PLAIN_MAX)
		return -EMSGSIZE;
	if (s->counter >= COUNTER_MAX && !new_session(s, &s->masters[0]))
		return -EIO;
	h.counter = ++s->counter;
	h.time_ms = now.wall_ms;
	memcpy(h.key_id, s->keys.keys[0].id, sizeof(h.key_id));
	memcpy(h.session, s->name, sizeof(h.session));
	write_head(out, &h);
	if (!encrypt(s, h.counter, bytes, len, out))
		return -EIO;
	return (int)(len + LB_SEAL_HEAD + LB_SEAL_TAG);
}

static bool init_masters(struct master masters[LB_SEAL_KEYS_MAX], const struct lb_seal_keys *keys)
{
	for (uint32_t i = 0; i < keys->count; i++)
		if (!master_init(&masters[i], &keys->keys[i]))
			return false;
	return true;
}

static void fini_masters(struct master masters[LB_SEAL_KEYS_MAX])
{
	for (uint32_t i = 0; i < LB_SEAL_KEYS_MAX; i++)
		master_fini(&masters[i]);
}

int lb_seal_set_keys(struct lb_seal *s, const struct lb_seal_keys *keys)
{
	struct master masters[LB_SEAL_KEYS_MAX] = {};

	if (!keys->count || keys->count > LB_SEAL_KEYS_MAX)
		return -EINVAL;
	if (!init_masters(masters, keys) || !new_session(s, &masters[0])) {
		fini_masters(masters);
		return -EIO;
	}
	fini_masters(s->masters);
	memcpy(s->masters, masters, sizeof(masters));
	OPENSSL_cleanse(masters, sizeof(masters));
	s->keys = *keys;
	/* What a session has had opened stays known, should its key come back. */
	for (uint32_t i = 0; i < s->count; i++) {
		struct session *c = &s->sessions[i];

		if (master_of(s, c->key_id))
			continue;
		OPENSSL_cleanse(c->key, sizeof(c->key));
		c->has_key = false;
	}
	return 0;
}

/* --- life ------------------------------------------------------------------------------------- */

int lb_seal_new(struct lb_seal **ret, const struct lb_seal_keys *keys, uint32_t sessions_max,
		struct lb_seal_time now)
{
	LB_AUTO(lb_seal_free) struct lb_seal *s = NULL;
	int err;

	if (!sessions_max || sessions_max > 1u << 24)
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	s->max = sessions_max;
	s->start_ms = now.now_ms;
	for (s->chains_count = 1; s->chains_count < sessions_max;)
		s->chains_count *= 2;
	s->sessions = calloc(sessions_max, sizeof(*s->sessions));
	s->chains = malloc(s->chains_count * sizeof(*s->chains));
	s->ctx = EVP_CIPHER_CTX_new();
	s->cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	if (!s->sessions || !s->chains || !s->ctx)
		return -ENOMEM;
	if (!s->cipher)
		return -EIO;
	memset(s->chains, 0xff, s->chains_count * sizeof(*s->chains));
	err = lb_seal_set_keys(s, keys);
	if (err)
		return err;
	*ret = LB_TAKE_PTR(s);
	return 0;
}

void lb_seal_free(struct lb_seal **ps)
{
	struct lb_seal *s = *ps;

	if (!s)
		return;
	*ps = NULL;
	fini_masters(s->masters);
	EVP_CIPHER_CTX_free(s->ctx);
	EVP_CIPHER_free(s->cipher);
	if (s->sessions)
		OPENSSL_cleanse(s->sessions, s->count * sizeof(*s->sessions));
	free(s->sessions);
	free(s->chains);
	OPENSSL_cleanse(s, sizeof(*s));
	free(s);
}

uint64_t lb_seal_count(const struct lb_seal *s, enum lb_seal_verdict verdict)
{
	return s->counts[verdict];
}

const char *lb_seal_verdict_name(enum lb_seal_verdict verdict)
{
	static const char *const names[LB_SEAL_VERDICTS] = {
		"opened", "malformed", "no_key", "forged", "replayed", "clock", "full",
	};

	return names[verdict];
}
