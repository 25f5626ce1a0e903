/* SPDX-License-Identifier: MIT */
#include "flow/client_hello.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define ROOM (512u * 1024u)

/* --- making hellos ---------------------------------------------------------------------------- */

struct bytes {
	uint8_t at[ROOM];
	size_t len;
};

static void put(struct bytes *b, const void *data, size_t len)
{
	assert_true(b->len + len <= ROOM);
	if (len)
		memcpy(b->at + b->len, data, len);
	b->len += len;
}

static void put_number(struct bytes *b, size_t bytes, size_t value)
{
	for (size_t i = bytes; i-- > 0;) {
		uint8_t digit = (uint8_t)(value >> 8 * i);

		put(b, &digit, 1);
	}
}

static void put_vector(struct bytes *b, size_t bytes_of_length, const void *data, size_t len)
{
	put_number(b, bytes_of_length, len);
	put(b, data, len);
}

/* What a hello is made of; NULL: left out. */
struct parts {
	const void *extensions; /* with their types and lengths */
	size_t extensions_len;
	size_t session_len, suites_len, methods_len;
	uint16_t version;
};

static const struct parts usual = {
	.session_len = 32, .suites_len = 4, .methods_len = 1, .version = 0x0303};

/* The message without a record. */
static void put_message(struct bytes *b, const struct parts *p)
{
	static const uint8_t zeros[256];
	struct bytes *body = calloc(1, sizeof(*body));

	assert_non_null(body);
	put_number(body, 2, p->version);
	put(body, zeros, 32);
	put_vector(body, 1, zeros, p->session_len);
	put_vector(body, 2, zeros, p->suites_len);
	put_vector(body, 1, zeros, p->methods_len);
	if (p->extensions)
		put_vector(body, 2, p->extensions, p->extensions_len);
	put_number(b, 1, 1);
	put_vector(b, 3, body->at, body->len);
	free(body);
}

/* <message> in records of at most <size> bytes. */
static void put_records(struct bytes *b, const struct bytes *message, size_t size)
{
	for (size_t at = 0; at < message->len; at += size) {
		size_t left = message->len - at;

		put(b, "\x16\x03\x01", 3);
		put_vector(b, 2, message->at + at, left < size ? left : size);
	}
}

#define NAME_A                     \
	"\0\0\0\x12\0\x10\0\0\x0d" \
	"a.example.org"
#define ALPN_H2                  \
	"\0\x10\0\x0e\0\x0c\x02" \
	"h2"                     \
	"\x08"                   \
	"http/1.1"
#define UNKNOWN "\xfa\xfa\0\x03xyz"
#define ALL(s)  (s), sizeof(s) - 1

/* Whole, in records of <size> bytes; to be freed. */
static struct bytes *hello_of(const struct parts *p, size_t size)
{
	struct bytes *message = calloc(1, sizeof(*message)), *b = calloc(1, sizeof(*b));

	assert_non_null(message);
	assert_non_null(b);
	put_message(message, p);
	put_records(b, message, size);
	free(message);
	return b;
}

static struct bytes *hello_with(const void *extensions, size_t len)
{
	struct parts p = usual;

	p.extensions = extensions;
	p.extensions_len = len;
	return hello_of(&p, 16384);
}

/* --- reading them ----------------------------------------------------------------------------- */

/*
 * The answer to the first <len> bytes; in memory of exactly that size, for the sanitizer to watch.
 * What is said of the hello is copied into <name> and <alpn_len>.
 */
static int read_first(const struct bytes *b, size_t len, char *name, size_t *alpn_len, size_t *need)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct lb_client_hello hello;
	int r;

	assert_non_null(copy);
	memcpy(copy, b->at, len);
	r = lb_client_hello_read(copy, len, &hello, need);
	if (!r) {
		strcpy(name, hello.name);
		*alpn_len = hello.alpn_len;
	}
	free(copy);
	return r;
}

/* Every beginning of <b>: "more" until it is decided, and what it needs is never too much. */
static int read_all(const struct bytes *b, char *name, size_t *alpn_len)
{
	int answer = -EAGAIN;
	size_t asked = 0;

	for (size_t n = 0; n <= b->len; n++) {
		size_t need = 0;
		int now = read_first(b, n, name, alpn_len, &need);

		if (answer != -EAGAIN)
			assert_int_equal(now, answer);
		else if (now == -EAGAIN)
			assert_true(need > n);
		else if (!now)
			/* Whoever slept until then has not missed it. */
			assert_true(asked <= n);
		if (now == -EAGAIN)
			asked = need > asked ? need : asked;
		answer = now;
	}
	return answer;
}

static void free_bytes(struct bytes **b)
{
	free(*b);
}

static void assert_reads(struct bytes *b, const char *name, size_t alpn_len)
{
	LB_AUTO(free_bytes) struct bytes *owned = b;
	char found[LB_CLIENT_HELLO_NAME_MAX + 1] = "?";
	size_t len = 99;

	assert_int_equal(read_all(owned, found, &len), 0);
	assert_string_equal(found, name);
	assert_int_equal(len, alpn_len);
}

static void assert_refused(struct bytes *b, int why)
{
	LB_AUTO(free_bytes) struct bytes *owned = b;
	char name[LB_CLIENT_HELLO_NAME_MAX + 1];
	size_t len;

	assert_int_equal(read_all(owned, name, &len), why);
}

/* --- claims ----------------------------------------------------------------------------------- */

static void name_and_protocols_are_read_however_it_is_cut(void **state)
{
	static const char both[] = UNKNOWN NAME_A ALPN_H2;
	struct parts p = usual;

	p.extensions = both;
	p.extensions_len = sizeof(both) - 1;
	for (size_t size = 1; size < 200; size++)
		assert_reads(hello_of(&p, size), "a.example.org", 12);
	assert_reads(hello_with(ALL(ALPN_H2)), "", 12);
	assert_reads(hello_with(ALL(NAME_A)), "a.example.org", 0);
	assert_reads(hello_with(ALL(UNKNOWN)), "", 0);
	assert_reads(hello_with(ALL("")), "", 0);
	assert_reads(hello_of(&usual, 16384), "", 0);
}

static void names_are_in_lower_case_and_without_the_roots_dot(void **state)
{
	assert_reads(hello_with(ALL("\0\0\0\x0a\0\x08\0\0\x05"
				    "A.Org")),
		     "a.org", 0);
	assert_reads(hello_with(ALL("\0\0\0\x0b\0\x09\0\0\x06"
				    "a.org.")),
		     "a.org", 0);
	/* Of other kinds of names nothing is known but how long they are. */
	assert_reads(hello_with(ALL("\0\0\0\x0e\0\x0c\x07\0\x01"
				    "x"
				    "\0\0\x05"
				    "a.org")),
		     "a.org", 0);
}

static void what_contradicts_itself_is_refused(void **state)
{
	static const struct {
		const char *what, *extensions;
		size_t len;
	} rows[] = {
		{"half a type", ALL("\0")},
		{"a type alone", ALL("\0\0")},
		{"half a length", ALL("\0\0\0")},
		{"longer than what is there", ALL("\0\0\0\x01")},
		{"an empty server_name", ALL("\0\0\0\0")},
		{"a list of no names", ALL("\0\0\0\x02\0\0")},
		{"a list beyond its extension", ALL("\0\0\0\x0a\0\x09\0\0\x05"
						    "a.org")},
		{"something behind the list", ALL("\0\0\0\x0b\0\x08\0\0\x05"
						  "a.orgx")},
		{"a name beyond its list", ALL("\0\0\0\x0a\0\x08\0\0\x06"
					       "a.org")},
		{"half a name's length", ALL("\0\0\0\x04\0\x02\0\0")},
		{"an empty name", ALL("\0\0\0\x05\0\x03\0\0\0")},
		{"a dot alone", ALL("\0\0\0\x06\0\x04\0\0\x01.")},
		{"a NUL in a name", ALL("\0\0\0\x0a\0\x08\0\0\x05"
					"a\0org")},
		{"a space in a name", ALL("\0\0\0\x0a\0\x08\0\0\x05"
					  "a org")},
		{"a control in a name", ALL("\0\0\0\x0a\0\x08\0\0\x05"
					    "a\x1borg")},
		{"no ASCII in a name", ALL("\0\0\0\x0a\0\x08\0\0\x05"
					   "a\xc3\xa9xy")},
		{"two names", ALL("\0\0\0\x0a\0\x08\0\0\x01"
				  "a"
				  "\0\0\x01"
				  "b")},
		{"two server_names", ALL(NAME_A NAME_A)},
		{"an empty ALPN", ALL("\0\x10\0\0")},
		{"a list of no protocols", ALL("\0\x10\0\x02\0\0")},
		{"an empty protocol", ALL("\0\x10\0\x03\0\x01\0")},
		{"a protocol beyond its list", ALL("\0\x10\0\x05\0\x03\x03"
						   "h2")},
		{"something behind the protocols", ALL("\0\x10\0\x06\0\x03\x02"
						       "h2x")},
		{"two ALPNs", ALL(ALPN_H2 ALPN_H2)},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(rows); i++) {
		LB_AUTO(free_bytes) struct bytes *b = hello_with(rows[i].extensions, rows[i].len);
		char name[LB_CLIENT_HELLO_NAME_MAX + 1];
		size_t len;

		if (read_all(b, name, &len) != -EBADMSG)
			fail_msg("%s", rows[i].what);
	}
}

static void so_is_a_body_that_is_none(void **state)
{
	struct parts p = usual;

	p.version = 0x0203;
	assert_refused(hello_of(&p, 16384), -EBADMSG);
	p = usual;
	p.session_len = 33;
	assert_refused(hello_of(&p, 16384), -EBADMSG);
	p = usual;
	p.suites_len = 0;
	assert_refused(hello_of(&p, 16384), -EBADMSG);
	p.suites_len = 3;
	assert_refused(hello_of(&p, 16384), -EBADMSG);
	p = usual;
	p.methods_len = 0;
	assert_refused(hello_of(&p, 16384), -EBADMSG);
}

/* Every length of the message cut: each is a whole message that says less than its parts need. */
static void a_body_that_ends_early_is_refused(void **state)
{
	LB_AUTO(free_bytes) struct bytes *whole = hello_with(ALL(UNKNOWN NAME_A ALPN_H2));
	size_t body = whole->len - 9;

	for (size_t n = 0; n < body; n++) {
		struct bytes *b = calloc(1, sizeof(*b));
		/* Old clients may end behind the compression methods. */
		bool fine = n == 2 + 32 + 33 + 6 + 2;

		assert_non_null(b);
		put(b, "\x16\x03\x01", 3);
		put_number(b, 2, n + 4);
		put_number(b, 1, 1);
		put_vector(b, 3, whole->at + 9, n);
		if (fine)
			assert_reads(b, "", 0);
		else
			assert_refused(b, -EBADMSG);
	}
}

static void what_is_no_tls_is_known_by_its_first_bytes(void **state)
{
	static const struct {
		const char *data;
		size_t len, known; /* by so many bytes */
	} rows[] = {
		{ALL("GET / HTTP/1.1\r\n\r\n"), 1},
		{ALL("\x80\x2e\x01\0\x02\0\x15\0\0\0\x10"), 1}, /* SSLv2 */
		{ALL("\0\0\0\x08\x04\xd2\x16\x2f"), 1},         /* PostgreSQL asks for TLS first */
		{ALL("SSH-2.0-OpenSSH_9.2\r\n"), 1},
		{ALL("\x15\x03\x01\0\x02\x01\0"), 1},     /* an alert */
		{ALL("\x17\x03\x03\0\x05hello"), 1},      /* application data */
		{ALL("\x16\xfe\xfd\0\0\0\0\0\0\0\0"), 2}, /* DTLS */
		{ALL("\x16\x03\x01\0\x04\x02\0\0\0"), 6}, /* a ServerHello */
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(rows); i++) {
		struct bytes *b = calloc(1, sizeof(*b));
		char name[LB_CLIENT_HELLO_NAME_MAX + 1];
		size_t len, need;

		assert_non_null(b);
		put(b, rows[i].data, rows[i].len);
		for (size_t n = 0; n <= rows[i].len; n++)
			assert_int_equal(read_first(b, n, name, &len, &need),
					 n < rows[i].known ? -EAGAIN : -EPROTO);
		free(b);
	}
}

static void records_must_be_records(void **state)
{
	static const struct {
		const char *data;
		size_t len;
	} rows[] = {
		{ALL("\x16\x03\x01\0\0")},                       /* empty */
		{ALL("\x16\x03\x01\x40\x01")},                   /* 16385 bytes */
		{ALL("\x16\x03\x01\0\x02\x01\0\x17\x03\x01\0")}, /* another kind in between */
		{ALL("\x16\x03\x01\0\x02\x01\0\x16\x02\x01\0")}, /* another version in between */
		{ALL("\x16\x03\x01\0\x02\x01\0\x16\x03\x01\0\0")},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(rows); i++) {
		struct bytes *b = calloc(1, sizeof(*b));

		assert_non_null(b);
		put(b, rows[i].data, rows[i].len);
		assert_refused(b, -EBADMSG);
	}
}

/* An extension of <len> zeros and then a name, to make large hellos. */
static struct bytes *large(size_t len, size_t record)
{
	struct bytes *extensions = calloc(1, sizeof(*extensions)), *b;
	struct parts p = usual;

	assert_non_null(extensions);
	put_number(extensions, 2, 21);
	put_number(extensions, 2, len);
	extensions->len += len;
	put(extensions, ALL(NAME_A));
	p.extensions = extensions->at;
	p.extensions_len = extensions->len;
	b = hello_of(&p, record);
	free(extensions);
	return b;
}

static void large_ones_are_read_up_to_a_bound(void **state)
{
	static const size_t lengths[] = {1500, 16384, 40000, 65000};
	char name[LB_CLIENT_HELLO_NAME_MAX + 1];
	size_t alpn_len, need;

	for (size_t i = 0; i < LB_ARRAY_SIZE(lengths); i++) {
		struct bytes *b = large(lengths[i], i % 2 ? 16384 : 1000);

		assert_int_equal(read_first(b, b->len, name, &alpn_len, &need), 0);
		assert_string_equal(name, "a.example.org");
		assert_int_equal(read_first(b, b->len - 1, name, &alpn_len, &need), -EAGAIN);
		assert_int_equal(need, b->len);
		free(b);
	}
}

static void what_is_too_long_is_refused_as_soon_as_it_is_known(void **state)
{
	static const char announced[] = "\x16\x03\x01\x40\0\x01\x01\0\0";
	struct bytes *b = calloc(1, sizeof(*b));
	char name[LB_CLIENT_HELLO_NAME_MAX + 1];
	size_t alpn_len, need = 0;

	/* The message says so .. */
	assert_non_null(b);
	put(b, ALL(announced));
	assert_int_equal(read_first(b, b->len, name, &alpn_len, &need), -EMSGSIZE);
	free(b);
	/* .. or the records' heads make it so. */
	b = large(60000, 1);
	assert_int_equal(read_first(b, LB_CLIENT_HELLO_WIRE_MAX - 6, name, &alpn_len, &need),
			 -EAGAIN);
	assert_true(need <= LB_CLIENT_HELLO_WIRE_MAX);
	assert_int_equal(read_first(b, LB_CLIENT_HELLO_WIRE_MAX, name, &alpn_len, &need),
			 -EMSGSIZE);
	assert_int_equal(read_first(b, b->len, name, &alpn_len, &need), -EMSGSIZE);
	free(b);
}

static void what_comes_behind_it_does_not_matter(void **state)
{
	struct bytes *b = hello_with(ALL(NAME_A));

	put(b, "whatever", 8);
	assert_reads(b, "a.example.org", 0);
}

static void protocols_are_compared_whole(void **state)
{
	LB_AUTO(free_bytes) struct bytes *b = hello_with(ALL(ALPN_H2));
	struct lb_client_hello hello;
	size_t need;

	assert_int_equal(lb_client_hello_read(b->at, b->len, &hello, &need), 0);
	assert_true(lb_client_hello_offers(&hello, "h2"));
	assert_true(lb_client_hello_offers(&hello, "http/1.1"));
	assert_false(lb_client_hello_offers(&hello, "h"));
	assert_false(lb_client_hello_offers(&hello, "http/1.10"));
	assert_false(lb_client_hello_offers(&hello, ""));
	hello.alpn_len = 0;
	assert_false(lb_client_hello_offers(&hello, "h2"));
}

static void nothing_is_said_when_it_fails(void **state)
{
	struct lb_client_hello hello = {.alpn_len = 77};
	uint8_t garbage[] = "garbage";
	size_t need = 55;

	assert_int_equal(lb_client_hello_read(garbage, 7, &hello, &need), -EPROTO);
	assert_int_equal(hello.alpn_len, 77);
	assert_int_equal(need, 55);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_and_protocols_are_read_however_it_is_cut),
		cmocka_unit_test(names_are_in_lower_case_and_without_the_roots_dot),
		cmocka_unit_test(what_contradicts_itself_is_refused),
		cmocka_unit_test(so_is_a_body_that_is_none),
		cmocka_unit_test(a_body_that_ends_early_is_refused),
		cmocka_unit_test(what_is_no_tls_is_known_by_its_first_bytes),
		cmocka_unit_test(records_must_be_records),
		cmocka_unit_test(large_ones_are_read_up_to_a_bound),
		cmocka_unit_test(what_is_too_long_is_refused_as_soon_as_it_is_known),
		cmocka_unit_test(what_comes_behind_it_does_not_matter),
		cmocka_unit_test(protocols_are_compared_whole),
		cmocka_unit_test(nothing_is_said_when_it_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
