/* SPDX-License-Identifier: MIT */
/*
 * Decides which key somebody probably meant. Must never be more than a hint: a key that is not in
 * the table is refused whatever this file thinks.
 */
#include <stdio.h>
#include <string.h>

#include "config/schema.h"

/* Longer words are no typing errors of any of our keys. */
#define WORD_MAX 40

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/*
 * Insertions, deletions, substitutions and swaps of neighbours that turn <a> into <b> (optimal
 * string alignment). Both at most WORD_MAX bytes.
 */
static size_t edit_distance(const char *a, const char *b)
{
	size_t rows[3][WORD_MAX + 1];
	size_t *before = rows[0], *above = rows[1], *row = rows[2];
	size_t a_len = strlen(a), b_len = strlen(b);

	for (size_t j = 0; j <= b_len; j++)
		above[j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		size_t *spare = before;

		row[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			row[j] = least(above[j], row[j - 1]) + 1;
			row[j] = least(row[j], above[j - 1] + (a[i - 1] != b[j - 1]));
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = least(row[j], before[j - 2] + 1);
		}
		before = above;
		above = row;
		row = spare;
	}
	return above[b_len];
}

const char *lb_schema_nearest(const struct lb_schema_block *block, const char *name)
{
	size_t length = strlen(name);
	size_t best = 1 + length / 4; /* what still counts as a slip in a word of this length */
	const char *nearest = NULL;

	if (length > WORD_MAX)
		return NULL;
	for (size_t i = 0; i < block->count; i++) {
		size_t distance = edit_distance(name, block->keys[i].name);

		if (distance < best || (distance == best && !nearest)) {
			best = distance;
			nearest = block->keys[i].name;
		}
	}
	return nearest;
}

static bool locate(const struct lb_schema_block *block, const char *name, char *path, size_t size,
		   size_t used)
{
	if (lb_schema_find(block, name))
		return true;
	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];
		size_t left = size - used;
		int n;

		if (key->type != LB_SCHEMA_BLOCK)
			continue;
		n = snprintf(path + used, left, "%s%s%s", used ? "." : "", key->name,
			     key->list ? "[]" : "");
		if (n > 0 && (size_t)n < left &&
		    locate(key->block, name, path, size, used + (size_t)n))
			return true;
	}
	path[used] = '\0';
	return false;
}

bool lb_schema_locate(const char *name, char *path, size_t size)
{
	path[0] = '\0';
	return locate(&lb_schema_root, name, path, size, 0);
}
