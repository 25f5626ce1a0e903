/* SPDX-License-Identifier: MIT */
/*
 * Decides whether a tree fits the table, and moves it into the structs. Every complaint names the
 * place, the key, what was expected and what stood there. It must never stop at the first mistake,
 * and never pass over a key in silence: what has no row in the table is an error.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "config/schema.h"

/* "rules[4095].bandwidth_limit.backend.upload_per_sec" and room to spare. */
#define PATH_BYTES 160

/* What an excerpt of the file may take in a message. */
#define EXCERPT_BYTES 48

struct reader {
	struct lb_config_notices *notices;
	char path[PATH_BYTES]; /* of the key being read: "rules[0].tls" */
	int err;               /* -ENOMEM, once it happened */
};

static void read_block(struct reader *r, const struct lb_schema_block *block,
		       const struct lb_yaml_node *node, void *base, bool active);

static void *at(void *base, size_t offset)
{
	return (char *)base + offset;
}

/* --- messages --------------------------------------------------------------------------------- */

/* Both return what leave() needs to undo them. */
static size_t enter_key(struct reader *r, const char *name)
{
	size_t used = strlen(r->path);

	snprintf(r->path + used, sizeof(r->path) - used, "%s%s", used ? "." : "", name);
	return used;
}

static size_t enter_item(struct reader *r, size_t index)
{
	size_t used = strlen(r->path);

	snprintf(r->path + used, sizeof(r->path) - used, "[%zu]", index);
	return used;
}

static void leave(struct reader *r, size_t used)
{
	r->path[used] = '\0';
}

#define complain(r, severity, node, ...)                                            \
	lb_config_notices_add((r)->notices, severity, (node)->line, (node)->column, \
			      (r)->path[0] ? (r)->path : NULL, __VA_ARGS__)

/* YAML's three ways to write nothing. */
static bool is_null(const struct lb_yaml_node *node)
{
	return node->kind == LB_YAML_SCALAR && node->plain &&
	       (!node->text[0] || strcmp(node->text, "~") == 0 ||
		strcasecmp(node->text, "null") == 0);
}

/* The file's words, cut between characters. */
static void excerpt(const char *text, char buf[EXCERPT_BYTES])
{
	size_t n = strlen(text);
	const char *dots = "";

	if (n > EXCERPT_BYTES - 4) {
		n = EXCERPT_BYTES - 4;
		while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
			n--;
		dots = "...";
	}
	snprintf(buf, EXCERPT_BYTES, "%.*s%s", (int)n, text, dots);
}

static void complain_found(struct reader *r, const struct lb_yaml_node *node, const char *expected)
{
	char text[EXCERPT_BYTES];

	if (node->kind == LB_YAML_SEQUENCE) {
		complain(r, LB_CONFIG_ERROR, node, "expected %s, found a list", expected);
	} else if (node->kind == LB_YAML_MAPPING) {
		complain(r, LB_CONFIG_ERROR, node, "expected %s, found a mapping", expected);
	} else if (is_null(node)) {
		complain(r, LB_CONFIG_ERROR, node, "expected %s, found nothing", expected);
	} else {
		excerpt(node->text, text);
		complain(r, LB_CONFIG_ERROR, node, "expected %s, found \"%s\"", expected, text);
	}
}

static void complain_unknown(struct reader *r, const struct lb_schema_block *block,
			     const struct lb_yaml_node *key)
{
	const char *nearest = lb_schema_nearest(block, key->text);
	char name[EXCERPT_BYTES], home[PATH_BYTES];
	size_t used;

	excerpt(key->text, name);
	used = enter_key(r, name);
	if (lb_schema_locate(key->text, home, sizeof(home)))
		complain(r, LB_CONFIG_ERROR, key, "unknown key here; it belongs %s%s",
			 home[0] ? "in " : "at the top level", home);
	else if (nearest)
		complain(r, LB_CONFIG_ERROR, key, "unknown key; the nearest known key is %s",
			 nearest);
	else
		complain(r, LB_CONFIG_ERROR, key, "unknown key");
	leave(r, used);
}

/* --- keys that are not in force --------------------------------------------------------------- */

/* Would the feature do anything here, if it were there? */
static bool is_asked_for(const struct lb_schema_key *key, const void *base)
{
	const void *field = (const char *)base + key->offset;

	if (key->type == LB_SCHEMA_BLOCK && !key->list)
		return !lb_schema_is_disabled(key->block, field);
	if (!key->list && lb_schema_value_is_nothing(key, field))
		return false;
	return !lb_schema_is_default(key, base);
}

static void warn_not_yet(struct reader *r, const struct lb_schema_key *key,
			 const struct lb_yaml_node *where, const void *base)
{
	const void *field = (const char *)base + key->offset;

	if (key->status != LB_SCHEMA_IN_FORCE && is_asked_for(key, base)) {
		bool protects = key->status == LB_SCHEMA_PROTECTS;

		complain(r, protects ? LB_CONFIG_REFUSES_TO_RUN : LB_CONFIG_WARNING, where,
			 protects ? "not yet in force; layer4-lb refuses to run with it"
				  : "not yet in force");
	}
	for (const struct lb_schema_word *w = key->words; w && w->word; w++) {
		if (w->stand_in && w->value == *(const int *)field)
			complain(r, LB_CONFIG_WARNING, where,
				 "%s is not yet in force; %s is used instead", w->word,
				 w->stand_in);
	}
}

/* --- values ----------------------------------------------------------------------------------- */

static void parse_value(struct reader *r, const struct lb_schema_key *key,
			const struct lb_yaml_node *node, void *field)
{
	char expected[192];
	int err = -EINVAL;

	if (node->kind == LB_YAML_SCALAR && !is_null(node))
		err = lb_schema_value_parse(key, node->text, node->plain, field);
	if (err == -ENOMEM)
		r->err = err;
	else if (err)
		complain_found(r, node, lb_schema_value_expected(key, expected, sizeof(expected)));
}

static void set_default(struct reader *r, const struct lb_schema_key *key, void *field)
{
	if (!key->list && key->def && lb_schema_value_parse(key, key->def, true, field) == -ENOMEM)
		r->err = -ENOMEM;
}

static void read_list(struct reader *r, const struct lb_schema_key *key,
		      const struct lb_yaml_node *node, void *base, bool active)
{
	uint32_t least = active ? key->items_min : 0;
	void *items;

	if (key->nothing && node->kind == LB_YAML_SCALAR &&
	    strcasecmp(node->text, key->nothing) == 0)
		return;
	if (node->kind != LB_YAML_SEQUENCE) {
		complain_found(r, node, "a list");
		return;
	}
	if (node->count < least || node->count > key->items_max) {
		complain(r, LB_CONFIG_ERROR, node, "expected %u to %u entries, found %zu", least,
			 key->items_max, node->count);
		return;
	}
	if (!node->count)
		return;
	items = calloc(node->count, key->item_size);
	if (!items) {
		r->err = -ENOMEM;
		return;
	}
	memcpy(at(base, key->offset), &items, sizeof(items));
	*(size_t *)at(base, key->count_offset) = node->count;

	for (size_t i = 0; i < node->count && !r->err; i++) {
		void *item = lb_schema_list_item(key, base, i);
		size_t used = enter_item(r, i);

		if (key->type == LB_SCHEMA_BLOCK)
			read_block(r, key->block, node->items[i], item, active);
		else
			parse_value(r, key, node->items[i], item);
		leave(r, used);
	}
}

/* <where> names the key, <node> is its value. */
static void read_key(struct reader *r, const struct lb_schema_key *key,
		     const struct lb_yaml_node *where, const struct lb_yaml_node *node, void *base,
		     bool active)
{
	void *field = at(base, key->offset);

	if (key->list)
		read_list(r, key, node, base, active);
	else if (key->type == LB_SCHEMA_BLOCK)
		read_block(r, key->block, node, field, active);
	else if (!active && node->kind == LB_YAML_SCALAR && !node->text[0])
		set_default(r, key, field); /* a disabled block may keep an empty form to fill in */
	else
		parse_value(r, key, node, field);
	if (active && !r->err)
		warn_not_yet(r, key, where, base);
}

static void read_absent(struct reader *r, const struct lb_schema_key *key,
			const struct lb_yaml_node *block_node, void *base, bool active)
{
	char expected[192];

	if (active && key->required)
		complain(r, LB_CONFIG_ERROR, block_node, "missing; expected %s",
			 key->list ? "a list"
				   : lb_schema_value_expected(key, expected, sizeof(expected)));
	else if (key->type == LB_SCHEMA_BLOCK && !key->list)
		read_block(r, key->block, NULL, at(base, key->offset), false);
	else
		set_default(r, key, at(base, key->offset));
}

/* --- blocks ----------------------------------------------------------------------------------- */

/* A switch that is there and off. One that is missing or broken is an error of its own. */
static bool is_switched_off(const struct lb_schema_block *block, const struct lb_yaml_node *node)
{
	const struct lb_yaml_node *value = lb_yaml_get(node, "enabled");

	return lb_schema_find(block, "enabled") && value && value->kind == LB_YAML_SCALAR &&
	       value->plain && strcasecmp(value->text, "false") == 0;
}

/* A scalar where a mapping could stand: "10.0.0.1:80" for {addr: "10.0.0.1:80"}. */
static void read_shorthand(struct reader *r, const struct lb_schema_block *block,
			   const struct lb_yaml_node *node, void *base, bool active)
{
	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];

		if (strcmp(key->name, block->shorthand) == 0)
			read_key(r, key, node, node, base, active);
		else
			read_absent(r, key, node, base, false);
	}
}

/* <node> NULL: the block is not there; defaults only. */
static void read_block(struct reader *r, const struct lb_schema_block *block,
		       const struct lb_yaml_node *node, void *base, bool active)
{
	char buf[192];

	if (node && block->shorthand && node->kind == LB_YAML_SCALAR && !is_null(node)) {
		read_shorthand(r, block, node, base, active);
		return;
	}
	if (node && node->kind != LB_YAML_MAPPING) {
		complain_found(r, node, lb_schema_block_expected(block, buf, sizeof(buf)));
		return;
	}
	if (!node || is_switched_off(block, node))
		active = false;
	for (size_t i = 0; node && i < node->count; i++) {
		if (!lb_schema_find(block, node->keys[i]->text))
			complain_unknown(r, block, node->keys[i]);
	}
	for (size_t i = 0; i < block->count && !r->err; i++) {
		const struct lb_schema_key *key = &block->keys[i];
		const struct lb_yaml_node *value = lb_yaml_get(node, key->name);
		size_t used = enter_key(r, key->name);

		if (value)
			read_key(r, key, lb_yaml_get_key(node, key->name), value, base, active);
		else
			read_absent(r, key, node, base, active);
		leave(r, used);
	}
}

int lb_schema_read(const struct lb_schema_block *block, const struct lb_yaml_node *node, void *base,
		   struct lb_config_notices *notices)
{
	struct reader r = {.notices = notices};

	read_block(&r, block, node, base, true);
	return notices->out_of_memory ? -ENOMEM : r.err;
}

void lb_schema_free(const struct lb_schema_block *block, void *base)
{
	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];
		void *field = at(base, key->offset);
		void *items = NULL;

		if (!key->list && key->type == LB_SCHEMA_BLOCK)
			lb_schema_free(key->block, field);
		else if (!key->list)
			lb_schema_value_free(key, field);
		if (!key->list)
			continue;
		for (size_t j = 0; j < lb_schema_list_count(key, base); j++) {
			if (key->type == LB_SCHEMA_BLOCK)
				lb_schema_free(key->block, lb_schema_list_item(key, base, j));
			else
				lb_schema_value_free(key, lb_schema_list_item(key, base, j));
		}
		memcpy(&items, field, sizeof(items));
		free(items);
		memset(field, 0, sizeof(items));
		*(size_t *)at(base, key->count_offset) = 0;
	}
}
