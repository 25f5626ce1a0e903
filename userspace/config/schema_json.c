/* SPDX-License-Identifier: MIT */
/*
 * Decides how the table looks as a JSON schema (draft 7, which editors of YAML read). It must never
 * refuse what the program accepts, save words in other case; the program refuses more: what joins
 * several keys, and ranges of numbers with a unit.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "config/schema.h"

#define PORT   "[1-9][0-9]{0,4}"
#define NUMBER "(0|[1-9][0-9]*)"
#define IPV6   "\\[[0-9A-Fa-f:.]+\\]"
#define SIZES  "(B|[KMGT]iB|[kMGT]B)"
#define TIMES  "(ms|s|min|h|d)"
#define STATUS "[1-5][0-9][0-9]"

/* Types that are written as text of a certain form. */
static const char *const patterns[] = {
	[LB_SCHEMA_MS] = "^" NUMBER "( ?" TIMES ")?$",
	[LB_SCHEMA_BYTES] = "^" NUMBER "( ?" SIZES ")?$",
	[LB_SCHEMA_ENDPOINT] = "^(" IPV6 "|[0-9A-Za-z_][0-9A-Za-z._-]*):" PORT "$",
	[LB_SCHEMA_BACKEND] = "^(" IPV6 "|[0-9A-Za-z_][0-9A-Za-z._-]*):" PORT "$",
	[LB_SCHEMA_ADDRESS] = "^(" IPV6 "|[0-9.]*):" PORT "$",
	[LB_SCHEMA_PREFIX] = "^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$",
	[LB_SCHEMA_STATUS] = "^" STATUS "(-" STATUS ")?$",
};

static json_t *of_block(const struct lb_schema_block *block, enum lb_schema_status status);

static json_t *of_range(uint64_t min, uint64_t max)
{
	return json_pack("{s:s, s:I, s:I}", "type", "integer", "minimum", (json_int_t)min,
			 "maximum", (json_int_t)max);
}

static json_t *of_pattern(enum lb_schema_type type)
{
	return json_pack("{s:s, s:s}", "type", "string", "pattern", patterns[type]);
}

static json_t *either(json_t *a, json_t *b)
{
	return json_pack("{s:[o, o]}", "anyOf", a, b);
}

/* A word as YAML reads it without quotes: some are no strings to it. */
static json_t *of_plain(const char *word)
{
	char *end;
	double number = strtod(word, &end);

	if (strcmp(word, "true") == 0 || strcmp(word, "false") == 0)
		return json_boolean(word[0] == 't');
	return *word && !*end ? json_real(number) : NULL;
}

static json_t *of_words(const struct lb_schema_word *words)
{
	json_t *list = json_array();

	for (const struct lb_schema_word *w = words; w->word; w++) {
		json_t *plain = of_plain(w->word);

		json_array_append_new(list, json_string(w->word));
		if (plain)
			json_array_append_new(list, plain);
	}
	return json_pack("{s:o}", "enum", list);
}

/* What has no other form is text for the program, `name: 7` too. */
static json_t *of_text(const struct lb_schema_key *key)
{
	return json_pack("{s:[s, s, s], s:I, s:I}", "type", "string", "number", "boolean",
			 "minLength", (json_int_t)key->min, "maxLength", (json_int_t)key->max);
}

/* One value, or one item of a list. */
static json_t *of_value(const struct lb_schema_key *key, enum lb_schema_status status)
{
	switch (key->type) {
	case LB_SCHEMA_BOOL:
		return json_pack("{s:s}", "type", "boolean");
	case LB_SCHEMA_NUMBER:
	case LB_SCHEMA_PORT:
		return of_range(key->min, key->max);
	case LB_SCHEMA_MS:
	case LB_SCHEMA_BYTES:
		return either(of_range(key->min, key->max), of_pattern(key->type));
	case LB_SCHEMA_STATUS:
		return either(of_range(100, 599), of_pattern(key->type));
	case LB_SCHEMA_WORD:
		return of_words(key->words);
	case LB_SCHEMA_STRING:
	case LB_SCHEMA_TEXT:
		return of_text(key);
	case LB_SCHEMA_BLOCK:
		return of_block(key->block, status);
	default:
		return of_pattern(key->type);
	}
}

static json_t *of_list(json_t *item, const struct lb_schema_key *key)
{
	return json_pack("{s:s, s:o, s:I, s:I}", "type", "array", "items", item, "minItems",
			 (json_int_t)key->items_min, "maxItems", (json_int_t)key->items_max);
}

static json_t *of_default(const struct lb_schema_key *key)
{
	switch (key->type) {
	case LB_SCHEMA_BOOL:
		return json_boolean(strcmp(key->def, "true") == 0);
	case LB_SCHEMA_NUMBER:
	case LB_SCHEMA_PORT:
		return json_integer(strtoll(key->def, NULL, 10));
	default:
		return json_string(key->def);
	}
}

static json_t *description(const struct lb_schema_key *key, enum lb_schema_status status)
{
	const char *more = status == LB_SCHEMA_NOT_YET    ? " Not yet in force."
			   : status == LB_SCHEMA_PROTECTS ? " The daemon refuses to run with it."
							  : "";

	return json_sprintf("%s%s", key->help, more);
}

static json_t *of_key(const struct lb_schema_key *key, enum lb_schema_status status)
{
	json_t *value = of_value(key, status);

	if (key->list)
		value = of_list(value, key);
	if (key->nothing)
		value = either(json_pack("{s:s}", "const", key->nothing), value);
	if (key->def)
		json_object_set_new(value, "default", of_default(key));
	json_object_set_new(value, "description", description(key, status));
	return value;
}

static json_t *required_keys(const struct lb_schema_block *block)
{
	json_t *names = json_array();

	for (size_t i = 0; i < block->count; i++) {
		if (block->keys[i].required)
			json_array_append_new(names, json_string(block->keys[i].name));
	}
	return names;
}

/*
 * Of a block with a switch, all keys are needed and must have their values only when it is on; off,
 * it may keep an empty form.
 */
static json_t *of_switched(json_t *properties, json_t *required)
{
	json_t *names = json_object(), *key;
	const char *name;

	json_object_foreach(properties, name, key)
	{
		json_object_set_new(names, name, json_true());
	}
	return json_pack("{s:s, s:o, s:b, s:[s], s:{s:{s:{s:b}}}, s:{s:o, s:o}}", "type", "object",
			 "properties", names, "additionalProperties", 0, "required", "enabled",
			 "if", "properties", "enabled", "const", 1, "then", "properties",
			 properties, "required", required);
}

static json_t *of_mapping(const struct lb_schema_block *block, enum lb_schema_status status)
{
	json_t *properties = json_object();

	for (size_t i = 0; i < block->count; i++) {
		const struct lb_schema_key *key = &block->keys[i];
		enum lb_schema_status both = lb_schema_stricter(status, key->status);

		json_object_set_new(properties, key->name, of_key(key, both));
	}
	if (lb_schema_find(block, "enabled"))
		return of_switched(properties, required_keys(block));
	return json_pack("{s:s, s:o, s:b, s:o}", "type", "object", "properties", properties,
			 "additionalProperties", 0, "required", required_keys(block));
}

static json_t *of_block(const struct lb_schema_block *block, enum lb_schema_status status)
{
	json_t *mapping = of_mapping(block, status);

	if (!block->shorthand)
		return mapping;
	return either(of_value(lb_schema_find(block, block->shorthand), status), mapping);
}

int lb_schema_print_json(FILE *out)
{
	json_t *root = of_block(&lb_schema_root, LB_SCHEMA_IN_FORCE);
	int r;

	json_object_set_new(root, "$schema",
			    json_string("http://json-schema.org/draft-07/schema#"));
	json_object_set_new(root, "title", json_string("lb.yaml, the configuration of layer4-lb"));
	r = root ? json_dumpf(root, out, JSON_INDENT(1)) : -1;
	json_decref(root);
	fputc('\n', out);
	return r ? -ENOMEM : 0;
}
