/* SPDX-License-Identifier: MIT */
/*
 * Decides what one scalar of lb.yaml may look like, by the type and range of its key: text -> field
 * of a struct, and back in the canonical form. It must never accept half of a text, and what it
 * prints must read back as the same value.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "config/config.h"
#include "config/schema.h"
#include "config/units.h"

#define HOST_BYTES 254

struct type {
	int (*parse)(const struct lb_schema_key *key, const char *text, void *field);
	void (*print)(const struct lb_schema_key *key, const void *field, FILE *out);
	size_t size;    /* of the field, as far as comparing goes */
	bool on_heap;   /* the field is a char * of our own */
	bool bare_only; /* in quotes it would be text, not one of these */
};

/* --- text -> field ---------------------------------------------------------------------------- */

static bool in_range(const struct lb_schema_key *key, uint64_t n)
{
	return n >= key->min && n <= key->max;
}

static int parse_bool(const struct lb_schema_key *key, const char *text, void *field)
{
	if (strcasecmp(text, "true") != 0 && strcasecmp(text, "false") != 0)
		return -EINVAL;
	*(bool *)field = strcasecmp(text, "true") == 0;
	return 0;
}

static int parse_number(const struct lb_schema_key *key, const char *text, void *field)
{
	uint64_t n;

	if (lb_units_parse_number(text, &n) || !in_range(key, n) || n > UINT32_MAX)
		return -EINVAL;
	*(uint32_t *)field = (uint32_t)n;
	return 0;
}

static int parse_port(const struct lb_schema_key *key, const char *text, void *field)
{
	uint64_t n;

	if (lb_units_parse_number(text, &n) || !in_range(key, n) || n > UINT16_MAX)
		return -EINVAL;
	*(uint16_t *)field = (uint16_t)n;
	return 0;
}

static int parse_ms(const struct lb_schema_key *key, const char *text, void *field)
{
	uint64_t n;

	if (lb_units_parse_ms(text, &n) || !in_range(key, n))
		return -EINVAL;
	*(uint64_t *)field = n;
	return 0;
}

static int parse_bytes(const struct lb_schema_key *key, const char *text, void *field)
{
	uint64_t n;

	if (lb_units_parse_bytes(text, &n) || !in_range(key, n))
		return -EINVAL;
	*(uint64_t *)field = n;
	return 0;
}

static int parse_word(const struct lb_schema_key *key, const char *text, void *field)
{
	for (const struct lb_schema_word *w = key->words; w->word; w++) {
		if (strcasecmp(w->word, text) == 0) {
			*(int *)field = w->value;
			return 0;
		}
	}
	return -EINVAL;
}

static int store(const char *text, char **field)
{
	char *copy = strdup(text);

	if (!copy)
		return -ENOMEM;
	*field = copy;
	return 0;
}

static int parse_text(const struct lb_schema_key *key, const char *text, void *field)
{
	return in_range(key, strlen(text)) ? store(text, field) : -EINVAL;
}

/* C0, DEL and, in UTF-8, C1: these could forge lines of a log or steer a terminal. */
static bool has_control(const char *text)
{
	for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
		if (*p < 0x20 || *p == 0x7f || (p[0] == 0xc2 && p[1] < 0xa0))
			return true;
	}
	return false;
}

static int parse_string(const struct lb_schema_key *key, const char *text, void *field)
{
	return has_control(text) ? -EINVAL : parse_text(key, text, field);
}

/*
 * A host that is written like an address must be one: "300.1.1.1" or "[::g]" would otherwise be
 * looked up as a name, and fail when the first client comes.
 */
static bool host_is_sound(const char *text, const char *host)
{
	struct lb_addr addr;

	if (!host[0])
		return false;
	if (text[0] == '[' || host[strspn(host, "0123456789.")] == '\0')
		return lb_addr_parse(text, &addr) == 0;
	for (const char *p = host; *p; p++) {
		bool alnum = (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') ||
			     (*p >= 'A' && *p <= 'Z');

		if (!alnum && !strchr("-._", *p))
			return false;
	}
	return host[0] != '-' && host[0] != '.';
}

static int parse_endpoint(const struct lb_schema_key *key, const char *text, void *field)
{
	char host[HOST_BYTES];
	uint16_t port;

	if (lb_addr_split(text, host, sizeof(host), &port) || !host_is_sound(text, host))
		return -EINVAL;
	return store(text, field);
}

static int parse_backend(const struct lb_schema_key *key, const char *text, void *field)
{
	struct lb_backend_config *backend = field;
	char host[HOST_BYTES];
	uint16_t port;
	int r;

	if (lb_addr_split(text, host, sizeof(host), &port) || !host_is_sound(text, host))
		return -EINVAL;
	r = store(text, &backend->addr);
	if (r)
		return r;
	r = store(host, &backend->host);
	if (r) {
		free(LB_TAKE_PTR(backend->addr));
		return r;
	}
	backend->port = port;
	return 0;
}

static int parse_address(const struct lb_schema_key *key, const char *text, void *field)
{
	struct lb_addr addr;

	if (lb_addr_parse(text, &addr))
		return -EINVAL;
	/* Our IPv6 listeners take no IPv4 clients, so a mapped address can only mean IPv4. */
	lb_addr_unmap(&addr);
	*(struct lb_addr *)field = addr;
	return 0;
}

static int parse_prefix(const struct lb_schema_key *key, const char *text, void *field)
{
	return lb_prefix_parse(text, field);
}

static bool is_status(uint64_t n)
{
	return n >= 100 && n <= 599;
}

static int parse_status(const struct lb_schema_key *key, const char *text, void *field)
{
	char first[4] = "";
	size_t length = strcspn(text, "-");
	uint64_t from, to;

	if (length >= sizeof(first))
		return -EINVAL;
	memcpy(first, text, length);
	if (lb_units_parse_number(first, &from))
		return -EINVAL;
	to = from;
	if (text[length] && lb_units_parse_number(text + length + 1, &to))
		return -EINVAL;
	if (!is_status(from) || !is_status(to) || from > to)
		return -EINVAL;
	*(struct lb_status_range *)field = (struct lb_status_range){(uint16_t)from, (uint16_t)to};
	return 0;
}

/* --- field -> text ---------------------------------------------------------------------------- */

/* Decodes one character of valid UTF-8. */
static uint32_t next_char(const unsigned char **p)
{
	const unsigned char *s = *p;
	unsigned extra = *s < 0x80 ? 0 : *s < 0xe0 ? 1 : *s < 0xf0 ? 2 : 3;
	uint32_t c = extra ? *s & (0x3fu >> extra) : *s;

	for (s++; extra && (*s & 0xc0) == 0x80; extra--)
		c = c << 6 | (*s++ & 0x3f);
	*p = s;
	return c;
}

/* What a YAML reader would not take, or would not give back unchanged, from within quotes. */
static bool needs_escape(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == '"' || c == '\\' || c == 0x2028 ||
	       c == 0x2029 || c == 0xfeff || c == 0xfffe || c == 0xffff;
}

static void print_quoted(const char *text, FILE *out)
{
	const unsigned char *p = (const unsigned char *)text;

	fputc('"', out);
	while (*p) {
		const unsigned char *start = p;
		uint32_t c = next_char(&p);

		if (!needs_escape(c))
			fwrite(start, 1, (size_t)(p - start), out);
		else if (c == '"' || c == '\\')
			fprintf(out, "\\%c", (char)c);
		else if (c < 0x100)
			fprintf(out, "\\x%02x", c);
		else
			fprintf(out, "\\u%04x", c);
	}
	fputc('"', out);
}

static void print_bool(const struct lb_schema_key *key, const void *field, FILE *out)
{
	fputs(*(const bool *)field ? "true" : "false", out);
}

static void print_number(const struct lb_schema_key *key, const void *field, FILE *out)
{
	fprintf(out, "%" PRIu32, *(const uint32_t *)field);
}

static void print_port(const struct lb_schema_key *key, const void *field, FILE *out)
{
	fprintf(out, "%u", *(const uint16_t *)field);
}

static void print_long(const struct lb_schema_key *key, const void *field, FILE *out)
{
	fprintf(out, "%" PRIu64, *(const uint64_t *)field);
}

static void print_word(const struct lb_schema_key *key, const void *field, FILE *out)
{
	const struct lb_schema_word *w = key->words;

	while (w->word && w->value != *(const int *)field)
		w++;
	if (w->word)
		fputs(w->word, out);
}

static void print_string(const struct lb_schema_key *key, const void *field, FILE *out)
{
	print_quoted(*(char *const *)field, out);
}

static void print_address(const struct lb_schema_key *key, const void *field, FILE *out)
{
	char text[LB_ADDR_STR_MAX];

	print_quoted(lb_addr_format(field, text), out);
}

static void print_prefix(const struct lb_schema_key *key, const void *field, FILE *out)
{
	char text[LB_PREFIX_STR_MAX];

	print_quoted(lb_prefix_format(field, text), out);
}

static void print_status(const struct lb_schema_key *key, const void *field, FILE *out)
{
	const struct lb_status_range *range = field;

	if (range->from == range->to)
		fprintf(out, "%u", range->from);
	else
		fprintf(out, "%u-%u", range->from, range->to);
}

/* --- the types -------------------------------------------------------------------------------- */

static const struct type types[] = {
	[LB_SCHEMA_BOOL] = {parse_bool, print_bool, sizeof(bool), .bare_only = true},
	[LB_SCHEMA_NUMBER] = {parse_number, print_number, sizeof(uint32_t), .bare_only = true},
	[LB_SCHEMA_PORT] = {parse_port, print_port, sizeof(uint16_t), .bare_only = true},
	[LB_SCHEMA_MS] = {parse_ms, print_long, sizeof(uint64_t)},
	[LB_SCHEMA_BYTES] = {parse_bytes, print_long, sizeof(uint64_t)},
	[LB_SCHEMA_WORD] = {parse_word, print_word, sizeof(int)},
	[LB_SCHEMA_STRING] = {parse_string, print_string, sizeof(char *), .on_heap = true},
	[LB_SCHEMA_TEXT] = {parse_text, print_string, sizeof(char *), .on_heap = true},
	[LB_SCHEMA_ENDPOINT] = {parse_endpoint, print_string, sizeof(char *), .on_heap = true},
	[LB_SCHEMA_BACKEND] = {parse_backend, print_string, sizeof(char *), .on_heap = true},
	[LB_SCHEMA_ADDRESS] = {parse_address, print_address, sizeof(struct lb_addr)},
	[LB_SCHEMA_PREFIX] = {parse_prefix, print_prefix, sizeof(struct lb_prefix)},
	[LB_SCHEMA_STATUS] = {parse_status, print_status, sizeof(struct lb_status_range)},
};

/* LB_SCHEMA_BACKEND takes the struct for its field, and compares and prints its first member. */
_Static_assert(offsetof(struct lb_backend_config, addr) == 0, "addr comes first");

int lb_schema_value_parse(const struct lb_schema_key *key, const char *text, bool plain,
			  void *field)
{
	if (!plain && types[key->type].bare_only)
		return -EINVAL;
	/* `off` is also what people spell "false" elsewhere; no file or host is called that. */
	if (key->nothing && !key->list &&
	    (strcasecmp(text, key->nothing) == 0 || (plain && strcasecmp(text, "false") == 0)))
		return 0;
	return types[key->type].parse(key, text, field);
}

bool lb_schema_value_is_text(const struct lb_schema_key *key, const struct lb_yaml_node *node)
{
	return node->kind == LB_YAML_SCALAR && !node->plain && types[key->type].bare_only;
}

void lb_schema_value_print(const struct lb_schema_key *key, const void *field, FILE *out)
{
	if (key->nothing && !key->list && lb_schema_value_is_nothing(key, field))
		fputs(key->nothing, out);
	else
		types[key->type].print(key, field, out);
}

bool lb_schema_value_is_nothing(const struct lb_schema_key *key, const void *field)
{
	if (types[key->type].on_heap)
		return !*(char *const *)field;
	if (key->type == LB_SCHEMA_ADDRESS)
		return ((const struct lb_addr *)field)->sa.sa_family == AF_UNSPEC;
	return false;
}

bool lb_schema_value_equal(const struct lb_schema_key *key, const void *a, const void *b)
{
	const char *left, *right;

	if (!types[key->type].on_heap)
		return memcmp(a, b, types[key->type].size) == 0;
	left = *(char *const *)a;
	right = *(char *const *)b;
	return left && right ? strcmp(left, right) == 0 : left == right;
}

void lb_schema_value_free(const struct lb_schema_key *key, void *field)
{
	if (key->type == LB_SCHEMA_BACKEND)
		free(LB_TAKE_PTR(((struct lb_backend_config *)field)->host));
	if (types[key->type].on_heap)
		free(LB_TAKE_PTR(*(char **)field));
	else
		memset(field, 0, types[key->type].size);
}
