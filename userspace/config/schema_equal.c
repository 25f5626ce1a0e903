/* SPDX-License-Identifier: MIT */
/* Decides whether two structs of one block say the same, key by key. */
#include "config/schema.h"

static const void *field_of(const struct lb_schema_key *key, const void *base)
{
	return (const char *)base + key->offset;
}

static bool is_item_equal(const struct lb_schema_key *key, const void *a, const void *b)
{
	if (key->type == LB_SCHEMA_BLOCK)
		return lb_schema_is_equal(key->block, a, b);
	return lb_schema_value_equal(key, a, b);
}

bool lb_schema_is_key_equal(const struct lb_schema_key *key, const void *a, const void *b)
{
	size_t count;

	if (!key->list)
		return is_item_equal(key, field_of(key, a), field_of(key, b));
	count = lb_schema_list_count(key, a);
	if (count != lb_schema_list_count(key, b))
		return false;
	for (size_t i = 0; i < count; i++)
		if (!is_item_equal(key, lb_schema_list_item(key, a, i),
				   lb_schema_list_item(key, b, i)))
			return false;
	return true;
}

bool lb_schema_is_equal(const struct lb_schema_block *block, const void *a, const void *b)
{
	for (size_t i = 0; i < block->count; i++)
		if (!lb_schema_is_key_equal(&block->keys[i], a, b))
			return false;
	return true;
}
