/* SPDX-License-Identifier: MIT */
/* Decides where a key's row and its field are. */
#include <string.h>

#include "config/schema.h"

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
