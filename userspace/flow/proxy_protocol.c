/* SPDX-License-Identifier: MIT */
/*
 * See proxy_protocol.h. Decides what counts as a header, by the letter of the specification: what
 * is read here decides who somebody is. Must never read beyond what it was given.
 */
#include "flow/proxy_protocol.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"

/* --- version 1: a line of text ---------------------------------------------------------------- */

#define V1_PREFIX "PROXY "
#define V1_MAX    107u /* with CRLF */
#define V1_WORDS  5    /* protocol, source, destination, their ports */

/* A port as the specification wants it: no sign, no leading zero. */
static int parse_port(const char *text, uint16_t *ret)
{
	uint32_t value = 0;
	size_t len = strlen(text);

	if (!len || len > 5 || (*text == '0' && len > 1))
		return -EPROTO;
	for (size_t i = 0; i < len; i++) {
		if (text[i] < '0' || text[i] > '9')
			return -EPROTO;
		value = value * 10 + (uint32_t)(text[i] - '0');
	}
	if (value > UINT16_MAX)
		return -EPROTO;
	*ret = (uint16_t)value;
	return 0;
}

static int parse_v1_addr(int family, const char *host, const char *port, struct lb_addr *ret)
{
	uint16_t number;

	if (parse_port(port, &number) || lb_addr_parse_host(family, host, ret))
		return -EPROTO;
	lb_addr_set_port(ret, number);
	return 0;
}

/* Cuts <line> at single spaces into exactly V1_WORDS words. */
static int split_v1(char *line, char *words[V1_WORDS])
{
	for (int i = 0; i < V1_WORDS; i++) {
		char *space = strchr(line, ' ');

		/* The last word ends with the line, the others with a space. */
		if (!space != (i == V1_WORDS - 1))
			return -EPROTO;
		words[i] = line;
		if (space) {
			*space = '\0';
			line = space + 1;
		}
	}
	return 0;
}

/* The line behind "PROXY ", without CRLF. */
static int parse_v1(char *line, struct lb_proxy_header *ret)
{
	char *words[V1_WORDS];
	int family;

	if (!strcmp(line, "UNKNOWN") || !strncmp(line, "UNKNOWN ", sizeof("UNKNOWN ") - 1))
		return 0;
	if (split_v1(line, words))
		return -EPROTO;
	if (!strcmp(words[0], "TCP4"))
		family = AF_INET;
	else if (!strcmp(words[0], "TCP6"))
		family = AF_INET6;
	else
		return -EPROTO;
	if (parse_v1_addr(family, words[1], words[3], &ret->source) ||
	    parse_v1_addr(family, words[2], words[4], &ret->destination))
		return -EPROTO;
	return 0;
}

static int read_v1(const uint8_t *data, size_t len, struct lb_proxy_header *ret)
{
	const size_t prefix = sizeof(V1_PREFIX) - 1;
	size_t most = len < V1_MAX ? len : V1_MAX, size;
	char line[V1_MAX + 1];
	const uint8_t *end;

	if (memcmp(data, V1_PREFIX, len < prefix ? len : prefix) != 0)
		return -EPROTO;
	end = memchr(data, '\n', most);
	if (!end)
		return len < V1_MAX ? 0 : -EPROTO;
	size = (size_t)(end - data) + 1;
	if (size < prefix + 2 || end[-1] != '\r')
		return -EPROTO;
	memcpy(line, data, size - 2);
	line[size - 2] = '\0';
	if (strlen(line) != size - 2 || parse_v1(line + prefix, ret))
		return -EPROTO;
	return (int)size;
}

/* --- version 2: binary ------------------------------------------------------------------------ */

static const uint8_t v2_signature[12] = "\r\n\r\n\0\r\nQUIT\n";

#define V2_LOCAL 0x20
#define V2_PROXY 0x21
#define V2_TCP4  0x11
#define V2_TCP6  0x21
#define V2_HEAD  16u
#define V2_IP4   12u /* two addresses, two ports */
#define V2_IP6   36u

#define TLV_ALPN         0x01
#define TLV_AUTHORITY    0x02
#define TLV_SSL          0x20
#define TLV_SSL_VERSION  0x21
#define TLV_SSL_CN       0x22
#define TLV_SSL_CIPHER   0x23
#define CLIENT_SSL       0x01
#define CLIENT_CERT_CONN 0x02 /* shown in this connection, */
#define CLIENT_CERT_SESS 0x04 /* or in the one that began its session */
#define TEXT_MAX         255u

/* ALPN, authority, the block, its three texts. */
_Static_assert(V2_HEAD + V2_IP6 + 3 + 255 + 3 + TEXT_MAX + 3 + 5 + 3 * (3 + TEXT_MAX) <=
		       LB_PROXY_PROTOCOL_OUT_MAX,
	       "everything at once fits");

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static void put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static struct lb_addr ip4_addr(const uint8_t *ip, const uint8_t *port)
{
	struct lb_addr a = {.in4.sin_family = AF_INET};

	memcpy(&a.in4.sin_addr, ip, 4);
	lb_addr_set_port(&a, get16(port));
	return a;
}

static struct lb_addr ip6_addr(const uint8_t *ip, const uint8_t *port)
{
	struct lb_addr a = {.in6.sin6_family = AF_INET6};

	memcpy(&a.in6.sin6_addr, ip, 16);
	lb_addr_set_port(&a, get16(port));
	return a;
}

/* Whether <len> bytes are a row of whole type-length-values. What they say is skipped. */
static bool are_tlvs(const uint8_t *p, size_t len)
{
	while (len) {
		size_t size;

		if (len < 3)
			return false;
		size = 3u + get16(p + 1);
		if (size > len)
			return false;
		p += size;
		len -= size;
	}
	return true;
}

/* Bytes of addresses that a family takes, or -1 when there is no such family. */
static int address_bytes(uint8_t family)
{
	static const int bytes[] = {0, V2_IP4, V2_IP6, 216};

	/* The lower half is the transport: unspecified, stream, datagram. */
	if ((family >> 4) >= (int)LB_ARRAY_SIZE(bytes) || (family & 0xf) > 2)
		return -1;
	return bytes[family >> 4];
}

/* A family that is not TCP's says nothing about who the client is: it is whom we see. */
static int parse_v2(uint8_t family, const uint8_t *body, size_t len, struct lb_proxy_header *ret)
{
	int skip = address_bytes(family);

	if (skip < 0 || len < (size_t)skip || !are_tlvs(body + skip, len - (size_t)skip))
		return -EPROTO;
	if (family == V2_TCP4) {
		ret->source = ip4_addr(body, body + 8);
		ret->destination = ip4_addr(body + 4, body + 10);
	} else if (family == V2_TCP6) {
		ret->source = ip6_addr(body, body + 32);
		ret->destination = ip6_addr(body + 16, body + 34);
	}
	return 0;
}

static int read_v2(const uint8_t *data, size_t len, struct lb_proxy_header *ret)
{
	const size_t signature = sizeof(v2_signature);
	size_t size;

	if (memcmp(data, v2_signature, len < signature ? len : signature) != 0)
		return -EPROTO;
	if (len > signature && data[12] != V2_LOCAL && data[12] != V2_PROXY)
		return -EPROTO;
	if (len < V2_HEAD)
		return 0;
	size = V2_HEAD + get16(data + 14);
	if (size > LB_PROXY_PROTOCOL_IN_MAX)
		return -EPROTO;
	if (len < size)
		return 0;
	/* LOCAL: whatever else it holds is to be discarded. */
	if (data[12] == V2_PROXY && parse_v2(data[13], data + V2_HEAD, size - V2_HEAD, ret))
		return -EPROTO;
	return (int)size;
}

/* --- for everybody ---------------------------------------------------------------------------- */

int lb_proxy_protocol_read(const uint8_t *data, size_t len, struct lb_proxy_header *ret)
{
	struct lb_proxy_header h = {0};
	int size;

	if (!len)
		return 0;
	size = data[0] == 'P' ? read_v1(data, len, &h) : read_v2(data, len, &h);
	if (size <= 0)
		return size;
	lb_addr_unmap(&h.source);
	lb_addr_unmap(&h.destination);
	*ret = h;
	return size;
}

static size_t write_v1(const struct lb_proxy_header *h, uint8_t *buf)
{
	char source[LB_ADDR_STR_MAX], destination[LB_ADDR_STR_MAX];
	/* Its NUL is not sent. */
	char line[V1_MAX + 1];
	int n;

	if (!h->source.sa.sa_family)
		n = snprintf(line, sizeof(line), V1_PREFIX "UNKNOWN\r\n");
	else
		n = snprintf(line, sizeof(line), V1_PREFIX "TCP%c %s %s %u %u\r\n",
			     h->source.sa.sa_family == AF_INET6 ? '6' : '4',
			     lb_addr_format_host(&h->source, source),
			     lb_addr_format_host(&h->destination, destination),
			     lb_addr_port(&h->source), lb_addr_port(&h->destination));
	memcpy(buf, line, (size_t)n);
	return (size_t)n;
}

/* Behind <at>; the next place. */
static uint8_t *put_tlv(uint8_t *at, uint8_t type, const void *data, size_t len)
{
	*at = type;
	put16(at + 1, (uint16_t)len);
	memcpy(at + 3, data, len);
	return at + 3 + len;
}

static uint8_t *put_text(uint8_t *at, uint8_t type, const char *text)
{
	return text ? put_tlv(at, type, text, strnlen(text, TEXT_MAX)) : at;
}

static uint8_t *put_tls(uint8_t *at, const struct lb_proxy_tls *tls)
{
	uint8_t *ssl, *body;

	if (tls->alpn_len)
		at = put_tlv(at, TLV_ALPN, tls->alpn, tls->alpn_len);
	ssl = put_text(at, TLV_AUTHORITY, tls->authority);
	/* Flags, four bytes that are 0 when a certificate was verified, the rest in TLVs. */
	body = ssl + 3;
	body[0] = CLIENT_SSL | (tls->name ? CLIENT_CERT_CONN | CLIENT_CERT_SESS : 0);
	memset(body + 1, 0, 4);
	body[4] = !tls->name;
	at = put_text(body + 5, TLV_SSL_VERSION, tls->version);
	at = put_text(at, TLV_SSL_CN, tls->name);
	at = put_text(at, TLV_SSL_CIPHER, tls->cipher);
	*ssl = TLV_SSL;
	put16(ssl + 1, (uint16_t)(at - body));
	return at;
}

static size_t write_v2(const struct lb_proxy_header *h, uint8_t *buf)
{
	size_t size = 0;
	uint8_t *body = buf + V2_HEAD;

	memcpy(buf, v2_signature, sizeof(v2_signature));
	buf[12] = V2_PROXY;
	buf[13] = 0;
	if (h->source.sa.sa_family == AF_INET) {
		buf[13] = V2_TCP4;
		size = V2_IP4;
		memcpy(body, &h->source.in4.sin_addr, 4);
		memcpy(body + 4, &h->destination.in4.sin_addr, 4);
	} else if (h->source.sa.sa_family == AF_INET6) {
		buf[13] = V2_TCP6;
		size = V2_IP6;
		memcpy(body, &h->source.in6.sin6_addr, 16);
		memcpy(body + 16, &h->destination.in6.sin6_addr, 16);
	}
	if (size) {
		put16(body + size - 4, lb_addr_port(&h->source));
		put16(body + size - 2, lb_addr_port(&h->destination));
	}
	if (h->tls)
		size = (size_t)(put_tls(body + size, h->tls) - body);
	put16(buf + 14, (uint16_t)size);
	return V2_HEAD + size;
}

size_t lb_proxy_protocol_write(enum lb_proxy_protocol version, const struct lb_proxy_header *h,
			       uint8_t buf[LB_PROXY_PROTOCOL_OUT_MAX])
{
	struct lb_proxy_header both = *h;

	if (both.source.sa.sa_family != both.destination.sa.sa_family) {
		lb_addr_map(&both.source);
		lb_addr_map(&both.destination);
	}
	/* One that is missing makes the other one worth nothing. */
	if (both.source.sa.sa_family != both.destination.sa.sa_family)
		both = (struct lb_proxy_header){.tls = h->tls};
	return version == LB_PROXY_PROTOCOL_V1 ? write_v1(&both, buf) : write_v2(&both, buf);
}
