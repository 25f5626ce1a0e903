/* SPDX-License-Identifier: MIT */
/*
 * Decides how the messages and the documentation name what a key accepts. Must agree with
 * schema_value.c, which does the accepting.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "config/schema.h"
#include "config/units.h"

static void describe_words(const struct lb_schema_key *key, char *buf, size_t size)
{
	size_t used = 0;

	for (const struct lb_schema_word *w = key->words; w->word && used < size; w++) {
		const char *before = w == key->words ? "" : w[1].word ? ", " : " or ";

		used += (size_t)snprintf(buf + used, size - used, "%s%s", before, w->word);
	}
}

static void describe_ms(const struct lb_schema_key *key, char *buf, size_t size)
{
	char lo[LB_UNITS_STR_MAX], hi[LB_UNITS_STR_MAX];

	snprintf(buf, size, "a time from %s to %s", lb_units_format_ms(key->min, lo),
		 lb_units_format_ms(key->max, hi));
}

static void describe_bytes(const struct lb_schema_key *key, char *buf, size_t size)
{
	char lo[LB_UNITS_STR_MAX], hi[LB_UNITS_STR_MAX];

	snprintf(buf, size, "a size from %s to %s", lb_units_format_bytes(key->min, lo),
		 lb_units_format_bytes(key->max, hi));
}

static void describe(const struct lb_schema_key *key, char *buf, size_t size);

const char *lb_schema_block_expected(const struct lb_schema_block *block, char *buf, size_t size)
{
	size_t used = 0;

	if (block->shorthand) {
		describe(lb_schema_find(block, block->shorthand), buf, size);
		used = strlen(buf);
	}
	snprintf(buf + used, size - used, "%sa mapping", used ? "; or " : "");
	return buf;
}

static void describe(const struct lb_schema_key *key, char *buf, size_t size)
{
	switch (key->type) {
	case LB_SCHEMA_BOOL:
		snprintf(buf, size, "true or false");
		break;
	case LB_SCHEMA_NUMBER:
		snprintf(buf, size, "a number from %" PRIu64 " to %" PRIu64, key->min, key->max);
		break;
	case LB_SCHEMA_PORT:
		snprintf(buf, size, "a port from %" PRIu64 " to %" PRIu64, key->min, key->max);
		break;
	case LB_SCHEMA_MS:
		describe_ms(key, buf, size);
		break;
	case LB_SCHEMA_BYTES:
		describe_bytes(key, buf, size);
		break;
	case LB_SCHEMA_WORD:
		describe_words(key, buf, size);
		break;
	case LB_SCHEMA_STRING:
		snprintf(buf, size, "printable text of %" PRIu64 " to %" PRIu64 " bytes", key->min,
			 key->max);
		break;
	case LB_SCHEMA_TEXT:
		snprintf(buf, size, "text of %" PRIu64 " to %" PRIu64 " bytes", key->min, key->max);
		break;
	case LB_SCHEMA_ENDPOINT:
	case LB_SCHEMA_BACKEND:
		snprintf(buf, size, "host:port or [IPv6]:port, with a port from 1 to 65535");
		break;
	case LB_SCHEMA_ADDRESS:
		snprintf(buf, size, "IPv4:port or [IPv6]:port, with a port from 1 to 65535");
		break;
	case LB_SCHEMA_PREFIX:
		snprintf(buf, size, "an IP address or a prefix like 10.0.0.0/8");
		break;
	case LB_SCHEMA_STATUS:
		snprintf(buf, size, "a status or a range like 200-299");
		break;
	case LB_SCHEMA_BLOCK:
		lb_schema_block_expected(key->block, buf, size);
		break;
	}
}

const char *lb_schema_value_expected(const struct lb_schema_key *key, char *buf, size_t size)
{
	size_t used;

	describe(key, buf, size);
	used = strlen(buf);
	if (key->nothing)
		snprintf(buf + used, size - used, ", or %s", key->nothing);
	return buf;
}
