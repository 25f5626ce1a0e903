/* SPDX-License-Identifier: MIT */
/* Decides where a key's row and its field are, and in which order blocks come. */
#include <string.h>

#include "config/schema.h"

#define PATH_BYTES 160

const struct lb_schema_key *lb_schema_find(const struct lb_schema_block *block, const char *name)
{
	for (size_t i = 0; i < block->count; i++) {
		if (strcmp(block->keys[i].name, name) == 0)
			return &block->keys[i];
	}
	return NULL;
}

bool lb_schema_is_disabled(const struct lb_schema_block *block, const void *base)
{
	const struct lb_schema_key *key = lb_schema_find(block, "enabled");

	return key && !*(const bool *)((const char *)base + key->offset);
}

size_t lb_schema_list_count(const struct lb_schema_key *key, const void *base)
{
	return *(const size_t *)(const void *)((const char *)base + key->count_offset);
}

void *lb_schema_list_item(const struct lb_schema_key *key, const void *base, size_t i)
{
	char *items;

	/* The field is a pointer to something else; only its bytes may be read as a char *. */
	memcpy(&items, (const char *)base + key->offset, sizeof(items));
	return items + i * key->item_size;
}

static void walk(const struct lb_schema_block *block, const char *path,
		 enum lb_schema_status status, lb_schema_block_fn fn, FILE *out)
{
	fn(block, path, status, out);
	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];
		char below[PATH_BYTES];

		if (key->type != LB_SCHEMA_BLOCK)
			continue;
		snprintf(below, sizeof(below), "%s%s%s%s", path, path[0] ? "." : "", key->name,
			 key->list ? "[]" : "");
		walk(key->block, below, lb_schema_stricter(status, key->status), fn, out);
	}
}

void lb_schema_each_block(lb_schema_block_fn fn, FILE *out)
{
	walk(&lb_schema_root, "", LB_SCHEMA_IN_FORCE, fn, out);
}
