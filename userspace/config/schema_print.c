/* SPDX-License-Identifier: MIT */
/*
 * Decides how the canonical form looks: rows in the table's order, every value in effect written
 * out, text in quotes, numbers in base units. What it prints must load again and print the same.
 */
#include <string.h>

#include "config/schema.h"

/* As large as the largest scalar field. */
union any_value {
	char *string;
	uint64_t number;
	unsigned char bytes[64];
};

static const void *field_of(const struct lb_schema_key *key, const void *base)
{
	return (const char *)base + key->offset;
}

bool lb_schema_is_default(const struct lb_schema_key *key, const void *base)
{
	union any_value def = {.bytes = {0}};
	bool equal;

	if (key->list)
		return lb_schema_list_count(key, base) == 0;
	if (key->type == LB_SCHEMA_BLOCK) {
		for (size_t i = 0; i < key->block->count; i++) {
			if (!lb_schema_is_default(&key->block->keys[i], field_of(key, base)))
				return false;
		}
		return true;
	}
	if (key->def && lb_schema_value_parse(key, key->def, true, &def))
		return false;
	equal = lb_schema_value_equal(key, field_of(key, base), &def);
	lb_schema_value_free(key, &def);
	return equal;
}

/*
 * In a disabled block only what somebody wrote is worth a line. In an enabled one everything is,
 * except a value that was not given and has no way to be written.
 */
static bool is_printed(const struct lb_schema_key *key, const void *base, bool active)
{
	if (strcmp(key->name, "enabled") == 0)
		return true;
	if (!active)
		return !lb_schema_is_default(key, base);
	if (key->list || key->type == LB_SCHEMA_BLOCK || key->nothing)
		return true;
	return !lb_schema_value_is_nothing(key, field_of(key, base));
}

/* <after_dash>: the first key continues the line of a list's "- ". */
static void print_block(const struct lb_schema_block *block, const void *base, FILE *out,
			int indent, bool after_dash, bool active);

static void print_list(const struct lb_schema_key *key, const void *base, FILE *out, int indent,
		       bool active)
{
	size_t count = lb_schema_list_count(key, base);

	if (!count)
		fprintf(out, " %s", key->nothing ? key->nothing : "[]");
	fputc('\n', out);
	for (size_t i = 0; i < count; i++) {
		const void *item = lb_schema_list_item(key, base, i);

		fprintf(out, "%*s- ", indent + 2, "");
		if (key->type == LB_SCHEMA_BLOCK) {
			print_block(key->block, item, out, indent + 4, true, active);
		} else {
			lb_schema_value_print(key, item, out);
			fputc('\n', out);
		}
	}
}

static void print_block(const struct lb_schema_block *block, const void *base, FILE *out,
			int indent, bool after_dash, bool active)
{
	bool first = true;

	if (lb_schema_is_disabled(block, base))
		active = false;
	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];

		if (!is_printed(key, base, active))
			continue;
		fprintf(out, "%*s%s:", first && after_dash ? 0 : indent, "", key->name);
		first = false;
		if (key->list) {
			print_list(key, base, out, indent, active);
		} else if (key->type == LB_SCHEMA_BLOCK) {
			fputc('\n', out);
			print_block(key->block, field_of(key, base), out, indent + 2, false,
				    active);
		} else {
			fputc(' ', out);
			lb_schema_value_print(key, field_of(key, base), out);
			fputc('\n', out);
		}
	}
	if (first && after_dash)
		fputs("{}\n", out);
}

void lb_schema_print(const struct lb_schema_block *block, const void *base, FILE *out)
{
	print_block(block, base, out, 0, false, true);
}
