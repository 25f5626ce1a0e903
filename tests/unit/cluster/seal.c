/* SPDX-License-Identifier: MIT */
#include "cluster/seal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/hash.h"

#define WALL 1700000000000ull
#define KEY1 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"
#define KEY2 "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\n"

struct datagram {
	uint8_t bytes[LB_WIRE_BYTES_MAX];
	size_t len;
};

/* So many ms after both clocks stood at the beginning. */
static struct lb_seal_time at(int64_t ms)
{
	return (struct lb_seal_time){WALL + (uint64_t)ms, 5000 + (uint64_t)ms};
}

static struct lb_seal_keys keys(const char *text)
{
	struct lb_seal_keys k;
	char why[128];

	assert_int_equal(lb_seal_keys_parse(text, strlen(text), &k, why, sizeof(why)), 0);
	return k;
}

static struct lb_seal *node(const char *text, uint32_t sessions, int64_t ms)
{
	struct lb_seal_keys k = keys(text);
	struct lb_seal *s = NULL;

	assert_int_equal(lb_seal_new(&s, &k, sessions, at(ms)), 0);
	return s;
}

static struct datagram sealed(struct lb_seal *s, const char *text, int64_t ms)
{
	struct datagram d;
	int n = lb_seal_close(s, at(ms), (const uint8_t *)text, strlen(text), d.bytes);

	assert_int_equal(n, strlen(text) + LB_SEAL_HEAD + LB_SEAL_TAG);
	d.len = (size_t)n;
	return d;
}

static enum lb_seal_verdict opened(struct lb_seal *s, const struct datagram *d, int64_t ms)
{
	uint8_t out[LB_WIRE_PLAIN_MAX];
	int64_t skew;
	size_t len;

	return lb_seal_open(s, at(ms), d->bytes, d->len, out, &len, &skew);
}

static void what_is_sealed_is_opened_once(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	struct datagram d = sealed(a, "hello", 1);
	uint8_t out[LB_WIRE_PLAIN_MAX] = {};
	size_t len = 0;
	int64_t skew;

	assert_null(memmem(d.bytes, d.len, "hello", 5));
	assert_int_equal(lb_seal_open(b, at(2), d.bytes, d.len, out, &len, &skew), LB_SEAL_OPENED);
	assert_int_equal(len, 5);
	assert_memory_equal(out, "hello", 5);
	assert_int_equal(opened(b, &d, 2), LB_SEAL_REPLAYED);
	assert_int_equal(lb_seal_count(b, LB_SEAL_OPENED), 1);
	assert_int_equal(lb_seal_count(b, LB_SEAL_REPLAYED), 1);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void every_bit_counts(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	struct datagram first = sealed(a, "first", 0), d = sealed(a, "second", 0);

	assert_int_equal(opened(b, &first, 0), LB_SEAL_OPENED);
	for (size_t bit = 0; bit < 8 * d.len; bit++) {
		struct datagram bad = d;

		bad.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		if (opened(b, &bad, 0) == LB_SEAL_OPENED)
			fail_msg("bit %zu does not count", bit);
	}
	for (size_t len = 0; len < d.len; len++) {
		struct datagram bad = d;

		bad.len = len;
		assert_int_not_equal(opened(b, &bad, 0), LB_SEAL_OPENED);
	}
	/* None of that has used up what it was made of. */
	assert_int_equal(opened(b, &d, 0), LB_SEAL_OPENED);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void another_key_opens_nothing(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY2, 4, 0);
	struct datagram d = sealed(a, "hello", 0);
	struct lb_seal_keys k = keys(KEY2);

	assert_int_equal(opened(b, &d, 0), LB_SEAL_NO_KEY);
	/* Also when it says that it was our key. */
	memcpy(d.bytes + 2, k.keys[0].id, LB_SEAL_ID_BYTES);
	assert_int_equal(opened(b, &d, 0), LB_SEAL_FORGED);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void order_does_not_matter_within_the_window(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	struct datagram *d = calloc(3 * LB_SEAL_WINDOW, sizeof(*d));

	assert_non_null(d);
	for (uint32_t i = 0; i < 3 * LB_SEAL_WINDOW; i++)
		d[i] = sealed(a, "x", 0);
	/* Each pair the wrong way round, every third one lost. */
	for (uint32_t i = 0; i < 2 * LB_SEAL_WINDOW; i++)
		if (i % 3)
			assert_int_equal(opened(b, &d[i ^ 1], 0), LB_SEAL_OPENED);
	for (uint32_t i = 0; i < 2 * LB_SEAL_WINDOW; i++) {
		bool lost = (i ^ 1) % 3 == 0, old = i < LB_SEAL_WINDOW;

		assert_int_equal(opened(b, &d[i], 0),
				 lost && !old ? LB_SEAL_OPENED : LB_SEAL_REPLAYED);
	}
	/* A leap over the whole window forgets nothing. */
	assert_int_equal(opened(b, &d[3 * LB_SEAL_WINDOW - 1], 0), LB_SEAL_OPENED);
	for (uint32_t i = 0; i < 2 * LB_SEAL_WINDOW; i++)
		assert_int_equal(opened(b, &d[i], 0), LB_SEAL_REPLAYED);
	assert_int_equal(opened(b, &d[2 * LB_SEAL_WINDOW], 0), LB_SEAL_OPENED);
	free(d);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void clocks_may_differ_when_nodes_meet(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, -100000);
	struct datagram slow = sealed(a, "x", -(int64_t)LB_SEAL_SKEW_MS);
	struct lb_seal *c = node(KEY1, 4, 0);
	struct datagram fast = sealed(c, "x", LB_SEAL_SKEW_MS);

	assert_int_equal(opened(b, &slow, 0), LB_SEAL_OPENED);
	assert_int_equal(opened(b, &fast, 0), LB_SEAL_OPENED);
	/* Once they know each other, clocks may be set. */
	slow = sealed(a, "x", -3600000);
	assert_int_equal(opened(b, &slow, 0), LB_SEAL_OPENED);
	fast = sealed(a, "x", 3600000);
	assert_int_equal(opened(b, &fast, 0), LB_SEAL_OPENED);
	lb_seal_free(&a);
	lb_seal_free(&b);
	lb_seal_free(&c);
}

static void clocks_that_differ_too_much_are_told(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, -100000);
	struct datagram d = sealed(a, "x", -(int64_t)LB_SEAL_SKEW_MS - 1);
	uint8_t out[LB_WIRE_PLAIN_MAX];
	int64_t skew = 7;
	size_t len;

	assert_int_equal(lb_seal_open(b, at(0), d.bytes, d.len, out, &len, &skew), LB_SEAL_CLOCK);
	assert_int_equal(skew, -(int64_t)LB_SEAL_SKEW_MS - 1);
	/* Once a second; and what others make up is not believed. */
	assert_int_equal(lb_seal_open(b, at(1), d.bytes, d.len, out, &len, &skew), LB_SEAL_CLOCK);
	assert_int_equal(skew, 0);
	d.bytes[d.len - 1] ^= 1;
	assert_int_equal(lb_seal_open(b, at(2000), d.bytes, d.len, out, &len, &skew),
			 LB_SEAL_FORGED);
	d = sealed(a, "x", 100000);
	assert_int_equal(lb_seal_open(b, at(2001), d.bytes, d.len, out, &len, &skew),
			 LB_SEAL_CLOCK);
	assert_int_equal(skew, 100000 - 2001);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void a_record_is_of_no_use_against_a_restarted_node(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	struct datagram before = sealed(a, "x", 999), after;

	assert_int_equal(opened(b, &before, 999), LB_SEAL_OPENED);
	lb_seal_free(&b);
	b = node(KEY1, 4, 1000);
	assert_int_equal(opened(b, &before, 1001), LB_SEAL_CLOCK);
	after = sealed(a, "x", 1001);
	assert_int_equal(opened(b, &after, 1001), LB_SEAL_OPENED);
	/* Its clock is not asked any more now; but what has been forgotten is just one life. */
	assert_int_equal(opened(b, &after, 1001), LB_SEAL_REPLAYED);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void a_clock_that_is_set_back_after_the_start_shuts_nobody_out(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	struct datagram d;
	uint8_t out[LB_WIRE_PLAIN_MAX];
	size_t len;
	int64_t skew;

	/* A second after its start, b's clock turns out to be an hour ahead. */
	d = sealed(a, "x", 1000 - 3600000);
	assert_int_equal(lb_seal_open(b, (struct lb_seal_time){WALL + 1000 - 3600000, 6000},
				      d.bytes, d.len, out, &len, &skew),
			 LB_SEAL_OPENED);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void two_lives_share_no_key_and_no_session(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	struct datagram one = sealed(a, "same", 0), other = sealed(b, "same", 0);

	assert_memory_not_equal(one.bytes + 6, other.bytes + 6, 12);
	assert_memory_not_equal(one.bytes + LB_SEAL_HEAD, other.bytes + LB_SEAL_HEAD, 4);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

/* CMAC as OpenSSL has it, over what the standard says; and GCM over the rest. */
static void the_cipher_is_xaes_256_gcm(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0);
	struct datagram d = sealed(a, "hello", 0);
	struct lb_seal_keys k = keys(KEY1);
	uint8_t derived[32], nonce[12] = {}, out[16];
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;

	for (uint8_t i = 0; i < 2; i++) {
		uint8_t message[16] = {0, i + 1, 'X', 0};
		size_t len;

		memcpy(message + 4, d.bytes + 6, 12);
		assert_non_null(EVP_Q_mac(NULL, "CMAC", NULL, "AES-256-CBC", NULL, k.keys[0].bytes,
					  32, message, 16, derived + 16 * (size_t)i, 16, &len));
	}
	memcpy(nonce + 4, d.bytes + 18, 8);
	assert_int_equal(EVP_DecryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, derived, nonce), 1);
	assert_int_equal(EVP_DecryptUpdate(ctx, NULL, &n, d.bytes, LB_SEAL_HEAD), 1);
	assert_int_equal(EVP_DecryptUpdate(ctx, out, &n, d.bytes + LB_SEAL_HEAD, 5), 1);
	assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, 16, d.bytes + d.len - 16),
			 1);
	assert_int_equal(EVP_DecryptFinal_ex(ctx, out, &n), 1);
	assert_memory_equal(out, "hello", 5);
	EVP_CIPHER_CTX_free(ctx);
	lb_seal_free(&a);
}

static void keys_are_changed_without_a_gap(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1 KEY2, 4, 0);
	struct datagram old = sealed(a, "old", 0), new;
	struct lb_seal_keys k = keys(KEY2 KEY1);

	assert_int_equal(opened(b, &old, 0), LB_SEAL_OPENED);
	assert_int_equal(lb_seal_set_keys(a, &k), 0);
	new = sealed(a, "new", 0);
	assert_int_equal(opened(b, &new, 0), LB_SEAL_OPENED);
	/* Without the old key nothing of it is heard; with it again nothing a second time. */
	k = keys(KEY2);
	assert_int_equal(lb_seal_set_keys(b, &k), 0);
	assert_int_equal(opened(b, &old, 0), LB_SEAL_NO_KEY);
	k = keys(KEY2 KEY1);
	assert_int_equal(lb_seal_set_keys(b, &k), 0);
	assert_int_equal(opened(b, &old, 0), LB_SEAL_REPLAYED);
	k.count = 0;
	assert_int_equal(lb_seal_set_keys(b, &k), -EINVAL);
	new = sealed(b, "still", 0);
	assert_int_equal(opened(a, &new, 0), LB_SEAL_OPENED);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

static void sessions_have_bounded_room(void **state)
{
	struct lb_seal *b = node(KEY1, 2, 0), *a[4];
	struct datagram d[4], late;

	for (int i = 0; i < 4; i++) {
		a[i] = node(KEY1, 2, 0);
		d[i] = sealed(a[i], "x", i);
	}
	assert_int_equal(opened(b, &d[0], 0), LB_SEAL_OPENED);
	assert_int_equal(opened(b, &d[1], 0), LB_SEAL_OPENED);
	assert_int_equal(opened(b, &d[2], 0), LB_SEAL_FULL);
	/* The first two are silent for so long that nothing of them would be admitted. */
	late = sealed(a[3], "x", LB_SEAL_SKEW_MS + 10);
	assert_int_equal(opened(b, &late, LB_SEAL_SKEW_MS + 10), LB_SEAL_OPENED);
	assert_int_equal(opened(b, &d[0], LB_SEAL_SKEW_MS + 10), LB_SEAL_CLOCK);
	assert_int_equal(opened(b, &d[1], LB_SEAL_SKEW_MS + 10), LB_SEAL_REPLAYED);
	/* Nor if the clock goes back. */
	assert_int_equal(opened(b, &d[0], 1), LB_SEAL_CLOCK);
	for (int i = 0; i < 4; i++)
		lb_seal_free(&a[i]);
	lb_seal_free(&b);
}

static void what_is_too_long_is_not_sealed(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	static const uint8_t much[LB_WIRE_PLAIN_MAX + 1];
	struct datagram d;

	assert_int_equal(lb_seal_close(a, at(0), much, LB_WIRE_PLAIN_MAX + 1, d.bytes), -EMSGSIZE);
	d.len = (size_t)lb_seal_close(a, at(0), much, LB_WIRE_PLAIN_MAX, d.bytes);
	assert_int_equal(d.len, LB_WIRE_BYTES_MAX);
	assert_int_equal(opened(b, &d, 0), LB_SEAL_OPENED);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

/* What is thrown at a node costs it this; the figure is told, not judged. */
static void rubbish_is_counted(void **state)
{
	struct lb_seal *a = node(KEY1, 4, 0), *b = node(KEY1, 4, 0);
	struct datagram good = sealed(a, "first", 0), forged = sealed(a, "second", 0), noise;
	uint64_t random = 88172645463325252ull, start, noise_ns, forged_ns;
	const uint32_t count = 20000;

	assert_int_equal(opened(b, &good, 0), LB_SEAL_OPENED);
	start = lb_clock_ns();
	for (uint32_t i = 0; i < count; i++) {
		noise.len = lb_random_next(&random) % LB_WIRE_BYTES_MAX;
		for (size_t at = 0; at + 8 <= sizeof(noise.bytes); at += 256)
			memcpy(noise.bytes + at, &(uint64_t){lb_random_next(&random)}, 8);
		assert_int_not_equal(opened(b, &noise, 0), LB_SEAL_OPENED);
	}
	noise_ns = (lb_clock_ns() - start) / count;
	start = lb_clock_ns();
	for (uint32_t i = 0; i < count; i++) {
		/* The dearest: our key's id, now, and a session nobody knows. */
		memcpy(forged.bytes + 6, &(uint64_t){lb_random_next(&random)}, 8);
		assert_int_equal(opened(b, &forged, 0), LB_SEAL_FORGED);
	}
	forged_ns = (lb_clock_ns() - start) / count;
	assert_int_equal(lb_seal_count(b, LB_SEAL_FORGED), count);
	assert_int_equal(lb_seal_count(b, LB_SEAL_OPENED), 1);
	print_message("noise costs %llu ns a datagram, a forged session %llu ns\n",
		      (unsigned long long)noise_ns, (unsigned long long)forged_ns);
	lb_seal_free(&a);
	lb_seal_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_sealed_is_opened_once),
		cmocka_unit_test(every_bit_counts),
		cmocka_unit_test(another_key_opens_nothing),
		cmocka_unit_test(order_does_not_matter_within_the_window),
		cmocka_unit_test(clocks_may_differ_when_nodes_meet),
		cmocka_unit_test(clocks_that_differ_too_much_are_told),
		cmocka_unit_test(a_record_is_of_no_use_against_a_restarted_node),
		cmocka_unit_test(a_clock_that_is_set_back_after_the_start_shuts_nobody_out),
		cmocka_unit_test(two_lives_share_no_key_and_no_session),
		cmocka_unit_test(the_cipher_is_xaes_256_gcm),
		cmocka_unit_test(keys_are_changed_without_a_gap),
		cmocka_unit_test(sessions_have_bounded_room),
		cmocka_unit_test(what_is_too_long_is_not_sealed),
		cmocka_unit_test(rubbish_is_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
