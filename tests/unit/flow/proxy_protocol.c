/* SPDX-License-Identifier: MIT */
#include "flow/proxy_protocol.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define SIGNATURE  "\r\n\r\n\0\r\nQUIT\n"
#define LITERAL(s) (s), sizeof(s) - 1

/* What the whole of <data> means; no shorter beginning may mean anything but "more" or the same. */
static int read_all(const void *data, size_t len, struct lb_proxy_header *ret)
{
	int answer = 0, before = 0;

	for (size_t n = 0; n <= len; n++) {
		/* At the very end of what may be read, for the sanitizer to watch. */
		uint8_t *copy = malloc(n ? n : 1);

		memcpy(copy, data, n);
		answer = lb_proxy_protocol_read(copy, n, ret);
		free(copy);
		if (before)
			assert_int_equal(answer, before);
		before = answer;
	}
	return answer;
}

static void assert_says(const void *data, size_t len, int size, const char *source,
			const char *destination)
{
	char buf[LB_ADDR_STR_MAX];
	struct lb_proxy_header h;

	assert_int_equal(read_all(data, len, &h), size);
	assert_string_equal(lb_addr_format(&h.source, buf), source);
	assert_string_equal(lb_addr_format(&h.destination, buf), destination);
}

static void assert_refused(const void *data, size_t len)
{
	struct lb_proxy_header h = {.source.sa.sa_family = 77};

	assert_int_equal(read_all(data, len, &h), -EPROTO);
	assert_int_equal(h.source.sa.sa_family, 77);
}

static void a_line_names_client_and_destination(void **state)
{
	static const struct {
		const char *line, *source, *destination;
	} rows[] = {
		{"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "192.0.2.1:56324",
		 "198.51.100.2:443"},
		{"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
		 "255.255.255.255:65535", "255.255.255.255:65535"},
		{"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n", "[2001:db8::1]:1",
		 "[2001:db8::2]:2"},
		{"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
		 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
		{"PROXY TCP6 ::ffff:192.0.2.1 ::1 5 6\r\n", "192.0.2.1:5", "[::1]:6"},
		{"PROXY TCP4 192.0.2.1 192.0.2.2 0 0\r\n", "192.0.2.1:0", "192.0.2.2:0"},
		{"PROXY UNKNOWN\r\n", "-", "-"},
		{"PROXY UNKNOWN whatever it says, up to the end\r\n", "-", "-"},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(rows); i++) {
		char text[256];
		int size = (int)strlen(rows[i].line);

		snprintf(text, sizeof(text), "%sPROXY TCP4 payload\r\n", rows[i].line);
		assert_says(text, strlen(text), size, rows[i].source, rows[i].destination);
	}
}

static void a_line_that_is_not_to_the_letter_is_refused(void **state)
{
	static const char *const lines[] = {
		"GET / HTTP/1.1\r\n",
		"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"PROXY\r\n",
		"PROXY \r\n",
		"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r \n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 +2\r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 99999999999999999999\r\n",
		"PROXY TCP4 192.0.2.1 192.0.2.2  \r\n",
		"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
		"PROXY TCP4 2001:db8::1 192.0.2.2 1 2\r\n",
		"PROXY TCP6 192.0.2.1 2001:db8::2 1 2\r\n",
		"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
		"PROXY TCP6 [2001:db8::1] 2001:db8::2 1 2\r\n",
		"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"PROXY UNKNOWNS\r\n",
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(lines); i++)
		assert_refused(lines[i], strlen(lines[i]));
	assert_refused(LITERAL("PROXY UNKNOWN \0\r\n"));
	assert_refused(LITERAL("PROXY TCP4 192.0.2.1\0 192.0.2.2 1 2\r\n"));
}

static void a_line_ends_within_107_bytes(void **state)
{
	char text[200] = "PROXY UNKNOWN ";
	struct lb_proxy_header h;

	memset(text + 14, 'x', sizeof(text) - 14);
	memcpy(text + 105, "\r\n", 2);
	assert_says(text, sizeof(text), 107, "-", "-");
	memset(text + 14, 'x', sizeof(text) - 14);
	memcpy(text + 106, "\r\n", 2);
	assert_refused(text, sizeof(text));
	assert_int_equal(lb_proxy_protocol_read((const uint8_t *)text, 106, &h), 0);
	assert_int_equal(lb_proxy_protocol_read((const uint8_t *)text, 107, &h), -EPROTO);
}

static void a_binary_header_names_client_and_destination(void **state)
{
	static const char ip4[] = SIGNATURE "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02"
					    "\xdc\x04\x01\xbb";
	static const char ip6[] = SIGNATURE "\x21\x21\x00\x24"
					    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01"
					    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02"
					    "\x00\x01\x00\x02payload";
	static const char mapped[] = SIGNATURE "\x21\x21\x00\x24"
					       "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x01"
					       "\0\0\0\0\0\0\0\0\0\0\xff\xff\xc0\x00\x02\x02"
					       "\x00\x01\x00\x02";

	assert_says(LITERAL(ip4), 28, "192.0.2.1:56324", "198.51.100.2:443");
	assert_says(LITERAL(ip6), 52, "[2001:db8::1]:1", "[2001:db8::2]:2");
	assert_says(LITERAL(mapped), 52, "192.0.2.1:1", "192.0.2.2:2");
}

static void unknown_type_length_values_are_skipped(void **state)
{
	static const char with[] = SIGNATURE "\x21\x11\x00\x17\xc0\x00\x02\x01\xc6\x33\x64\x02"
					     "\xdc\x04\x01\xbb"
					     "\xee\x00\x02xy\x04\x00\x03\0\0\0payload";
	static const char cut[] = SIGNATURE "\x21\x11\x00\x0e\xc0\x00\x02\x01\xc6\x33\x64\x02"
					    "\xdc\x04\x01\xbb\xee\x00";
	static const char beyond[] = SIGNATURE "\x21\x11\x00\x10\xc0\x00\x02\x01\xc6\x33\x64\x02"
					       "\xdc\x04\x01\xbb\xee\x00\x02xy";

	assert_says(LITERAL(with), 39, "192.0.2.1:56324", "198.51.100.2:443");
	assert_refused(LITERAL(cut));
	assert_refused(LITERAL(beyond));
}

static void a_sender_that_speaks_for_nobody_names_nobody(void **state)
{
	/* LOCAL, whatever else it holds; UNSPEC; UDP; a UNIX socket. */
	static const char local[] = SIGNATURE "\x20\x11\x00\x04junkpayload";
	static const char unspec[] = SIGNATURE "\x21\x00\x00\x00";
	static const char udp[] = SIGNATURE "\x21\x12\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02"
					    "\xdc\x04\x01\xbb";
	char unix_[16 + 216] = SIGNATURE "\x21\x31\x00\xd8/a";

	assert_says(LITERAL(local), 20, "-", "-");
	assert_says(LITERAL(unspec), 16, "-", "-");
	assert_says(LITERAL(udp), 28, "-", "-");
	assert_says(unix_, sizeof(unix_), (int)sizeof(unix_), "-", "-");
}

static void a_binary_header_that_is_not_to_the_letter_is_refused(void **state)
{
	assert_refused(LITERAL("\r\n\r\n\0\r\nQUIT\r"));
	assert_refused(LITERAL(SIGNATURE "\x11\x11\x00\x0c")); /* version 1 */
	assert_refused(LITERAL(SIGNATURE "\x22\x11\x00\x0c")); /* no such command */
	assert_refused(LITERAL(SIGNATURE "\x21\x11\x00\x0b\xc0\x00\x02\x01\xc6\x33\x64\x02"
					 "\xdc\x04\x01"));
	assert_refused(LITERAL(SIGNATURE "\x21\x31\x00\x02/a"));
	assert_refused(LITERAL(SIGNATURE "\x21\x41\x00\x00")); /* no such family */
	assert_refused(LITERAL(SIGNATURE "\x21\x13\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02"
					 "\xdc\x04\x01\xbb")); /* no such transport */
}

static void a_binary_header_is_bounded(void **state)
{
	uint8_t *data = calloc(1, LB_PROXY_PROTOCOL_IN_MAX + 16);
	struct lb_proxy_header h;

	memcpy(data, SIGNATURE "\x21\x00", 14);
	data[14] = (LB_PROXY_PROTOCOL_IN_MAX - 16) >> 8;
	data[15] = (LB_PROXY_PROTOCOL_IN_MAX - 16) & 0xff;
	data[16] = 0xee;
	data[17] = (LB_PROXY_PROTOCOL_IN_MAX - 19) >> 8;
	data[18] = (LB_PROXY_PROTOCOL_IN_MAX - 19) & 0xff;
	assert_int_equal(lb_proxy_protocol_read(data, LB_PROXY_PROTOCOL_IN_MAX - 1, &h), 0);
	assert_int_equal(lb_proxy_protocol_read(data, LB_PROXY_PROTOCOL_IN_MAX, &h),
			 LB_PROXY_PROTOCOL_IN_MAX);
	data[15]++;
	assert_int_equal(lb_proxy_protocol_read(data, 16, &h), -EPROTO);
	free(data);
}

static struct lb_addr addr(const char *text)
{
	struct lb_addr a = {0};

	if (text)
		assert_int_equal(lb_addr_parse(text, &a), 0);
	return a;
}

static void what_is_written_is_read_again(void **state)
{
	static const struct {
		const char *source, *destination, *line, *read_source, *read_destination;
	} rows[] = {
		{"192.0.2.1:56324", "198.51.100.2:443",
		 "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", "192.0.2.1:56324",
		 "198.51.100.2:443"},
		{"[2001:db8::1]:1", "[2001:db8::2]:2", "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n",
		 "[2001:db8::1]:1", "[2001:db8::2]:2"},
		{"192.0.2.1:1", "[2001:db8::2]:2",
		 "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 2\r\n", "192.0.2.1:1",
		 "[2001:db8::2]:2"},
		{"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535",
		 "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
		 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
		 "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe]:65535"},
		{"192.0.2.1:1", NULL, "PROXY UNKNOWN\r\n", "-", "-"},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(rows); i++) {
		const struct lb_proxy_header h = {addr(rows[i].source), addr(rows[i].destination),
						  NULL};
		uint8_t buf[LB_PROXY_PROTOCOL_OUT_MAX];
		size_t len;

		len = lb_proxy_protocol_write(LB_PROXY_PROTOCOL_V1, &h, buf);
		assert_int_equal(len, strlen(rows[i].line));
		assert_memory_equal(buf, rows[i].line, len);
		assert_says(buf, len, (int)len, rows[i].read_source, rows[i].read_destination);
		len = lb_proxy_protocol_write(LB_PROXY_PROTOCOL_V2, &h, buf);
		assert_says(buf, len, (int)len, rows[i].read_source, rows[i].read_destination);
	}
}

static void what_is_known_of_tls_goes_into_version_2(void **state)
{
	static const char want[] =
		SIGNATURE "\x21\x11\x00\x45\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb"
			  "\x01\x00\x02h2"
			  "\x02\x00\x0b"
			  "app.example"
			  "\x20\x00\x23\x07\0\0\0\0"
			  "\x21\x00\x07TLSv1.3"
			  "\x22\x00\x05"
			  "alice"
			  "\x23\x00\x09"
			  "TLS_SUITE";
	char text[1000];
	struct lb_proxy_tls tls = {"TLSv1.3", "TLS_SUITE",           "app.example",
				   "alice",   (const uint8_t *)"h2", 2};
	const struct lb_proxy_header h = {addr("192.0.2.1:56324"), addr("198.51.100.2:443"), &tls};
	uint8_t buf[LB_PROXY_PROTOCOL_OUT_MAX];
	struct lb_proxy_header again;
	size_t len = lb_proxy_protocol_write(LB_PROXY_PROTOCOL_V2, &h, buf);

	assert_int_equal(len, sizeof(want) - 1);
	assert_memory_equal(buf, want, len);
	assert_says(buf, len, (int)len, "192.0.2.1:56324", "198.51.100.2:443");
	/* Nobody was verified. */
	tls.name = NULL;
	len = lb_proxy_protocol_write(LB_PROXY_PROTOCOL_V2, &h, buf);
	assert_memory_equal(buf + 47, "\x20\x00\x1b\x01\0\0\0\x01", 8);
	assert_int_equal(read_all(buf, len, &again), len);
	/* Texts that are too long are cut, and all of it fits. */
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	tls = (struct lb_proxy_tls){text, text, text, text, (const uint8_t *)text, 255};
	len = lb_proxy_protocol_write(LB_PROXY_PROTOCOL_V2, &h, buf);
	assert_int_equal(read_all(buf, len, &again), len);
	/* Version 1 has no room for it. */
	len = lb_proxy_protocol_write(LB_PROXY_PROTOCOL_V1, &h, buf);
	assert_int_equal(len, strlen("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_line_names_client_and_destination),
		cmocka_unit_test(a_line_that_is_not_to_the_letter_is_refused),
		cmocka_unit_test(a_line_ends_within_107_bytes),
		cmocka_unit_test(a_binary_header_names_client_and_destination),
		cmocka_unit_test(unknown_type_length_values_are_skipped),
		cmocka_unit_test(a_sender_that_speaks_for_nobody_names_nobody),
		cmocka_unit_test(a_binary_header_that_is_not_to_the_letter_is_refused),
		cmocka_unit_test(a_binary_header_is_bounded),
		cmocka_unit_test(what_is_written_is_read_again),
		cmocka_unit_test(what_is_known_of_tls_goes_into_version_2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
