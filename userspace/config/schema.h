/* SPDX-License-Identifier: MIT */
/*
 * Every key of lb.yaml in one table: where it may stand, what it may hold, where it goes and
 * whether it already does something. Reading, defaults, printing, freeing and the documentation are
 * walks over this table; adding a key is adding a row (and a field to config.h).
 */
#ifndef LB_CONFIG_SCHEMA_H
#define LB_CONFIG_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "config/config_notices.h"
#include "config/yaml.h"

enum lb_schema_type {
	LB_SCHEMA_BOOL = 0, /* bool */
	LB_SCHEMA_NUMBER,   /* uint32_t */
	LB_SCHEMA_PORT,     /* uint16_t */
	LB_SCHEMA_MS,       /* uint64_t, milliseconds */
	LB_SCHEMA_BYTES,    /* uint64_t */
	LB_SCHEMA_WORD,     /* an enum: one of <words> */
	LB_SCHEMA_STRING,   /* char *, printable */
	LB_SCHEMA_TEXT,     /* char *, anything but NUL */
	LB_SCHEMA_ENDPOINT, /* char *, "host:port" */
	LB_SCHEMA_BACKEND,  /* struct lb_backend_config: addr, host and port of it */
	LB_SCHEMA_ADDRESS,  /* struct lb_addr */
	LB_SCHEMA_PREFIX,   /* struct lb_prefix */
	LB_SCHEMA_STATUS,   /* struct lb_status_range */
	LB_SCHEMA_BLOCK,    /* a mapping with keys of its own: <block> */
};

enum lb_schema_status {
	LB_SCHEMA_IN_FORCE = 0,
	LB_SCHEMA_NOT_YET,  /* read, checked and printed; does nothing yet */
	LB_SCHEMA_PROTECTS, /* the same, but somebody relies on it: the daemon must not run */
};

struct lb_schema_word {
	const char *word; /* the first word of a value is the canonical one */
	int value;
	const char *stand_in; /* not in force yet: what is done instead. NULL: in force */
};

struct lb_schema_key {
	const char *name;
	enum lb_schema_type type;
	enum lb_schema_status status; /* of this key and everything below it */
	bool list;                    /* a sequence of <type> */
	bool required;                /* must be there, unless its block is disabled */
	size_t offset;       /* of the field (list: of the pointer) in the block's struct */
	size_t count_offset; /* list: of the size_t */
	size_t item_size;    /* list: of one item */
	uint64_t min, max;   /* of a number; of a string's length in bytes */
	uint32_t items_min, items_max;
	const char *def; /* default as it would be written; NULL: zero, none, empty */
	const char
		*otherwise;  /* for people: what a missing value means, when <def> cannot say it */
	const char *nothing; /* the word for the zero value of a string, an address or a list */
	const struct lb_schema_word *words; /* ends with a NULL word */
	const struct lb_schema_block *block;
	const char *help;
};

struct lb_schema_block {
	const struct lb_schema_key *keys;
	size_t count;
	/* The key that a scalar in place of the mapping stands for; NULL: there is none. */
	const char *shorthand;
};

/* The whole file. Fields are relative to struct lb_config. */
extern const struct lb_schema_block lb_schema_root;

/* NULL when the block has no such key. */
const struct lb_schema_key *lb_schema_find(const struct lb_schema_block *block, const char *name);
/* The key of the block that somebody who wrote <name> may have meant, or NULL. */
const char *lb_schema_nearest(const struct lb_schema_block *block, const char *name);
/*
 * Is <name> a key of some block? Then <path> names the block: "rules[].timeouts", "" for the top
 * level. Otherwise <path> is "".
 */
bool lb_schema_locate(const char *name, char *path, size_t size);

/* Of a key and of what it is in: that of the two which promises less. */
static inline enum lb_schema_status lb_schema_stricter(enum lb_schema_status a,
						       enum lb_schema_status b)
{
	return a > b ? a : b;
}

/*
 * Every block of the table with its path ("rules[].tls"; the root's is empty) and how far it is in
 * force: what it is in comes before it.
 */
typedef void (*lb_schema_block_fn)(const struct lb_schema_block *block, const char *path,
				   enum lb_schema_status status, FILE *out);
void lb_schema_each_block(lb_schema_block_fn fn, FILE *out);

/* Has the block a switch, and is it off? <base> is its struct. */
bool lb_schema_is_disabled(const struct lb_schema_block *block, const void *base);
/* Of a list: how many items it has, and the <i>th. <base> is the struct the list is in. */
size_t lb_schema_list_count(const struct lb_schema_key *key, const void *base);
void *lb_schema_list_item(const struct lb_schema_key *key, const void *base, size_t i);

/* --- schema_value.c: one scalar --------------------------------------------------------------- */

/*
 * Of a key that is no block: <field> is what the key's type names, in the block's struct or in its
 * list. <plain>: written without quotes. 0; -EINVAL when <text> does not fit the key; -ENOMEM. The
 * field must be zero and stays so on failure.
 */
int lb_schema_value_parse(const struct lb_schema_key *key, const char *text, bool plain,
			  void *field);
/* Written with quotes, which make it text, although the key wants something else. */
bool lb_schema_value_is_text(const struct lb_schema_key *key, const struct lb_yaml_node *node);
/* What the key accepts: "a number from 1 to 256". Returns <buf>. */
const char *lb_schema_value_expected(const struct lb_schema_key *key, char *buf, size_t size);
const char *lb_schema_block_expected(const struct lb_schema_block *block, char *buf, size_t size);
/* As it stands in the canonical form. */
void lb_schema_value_print(const struct lb_schema_key *key, const void *field, FILE *out);
bool lb_schema_value_equal(const struct lb_schema_key *key, const void *a, const void *b);
/* Releases what the field holds and makes it zero. */
void lb_schema_value_free(const struct lb_schema_key *key, void *field);
/* A string or address that was not given, or is "off". */
bool lb_schema_value_is_nothing(const struct lb_schema_key *key, const void *field);

/* --- schema_read.c: a tree -> structs --------------------------------------------------------- */

/*
 * Fills the zeroed struct at <base> from <node>, defaults included. Everything that is wrong or not
 * in force goes to <notices>; go on only if no error is among them. 0 or -ENOMEM. Whatever it
 * returns, release what hangs off <base> with lb_schema_free().
 */
int lb_schema_read(const struct lb_schema_block *block, const struct lb_yaml_node *node, void *base,
		   struct lb_config_notices *notices);

/* Everything the table owns below <base>, not <base> itself. */
void lb_schema_free(const struct lb_schema_block *block, void *base);

/* --- schema_equal.c: do two structs say the same? --------------------------------------------- */

bool lb_schema_is_equal(const struct lb_schema_block *block, const void *a, const void *b);
/* The same for one key; <a> and <b> are the structs of its block. */
bool lb_schema_is_key_equal(const struct lb_schema_key *key, const void *a, const void *b);

/* --- schema_print.c, schema_markdown.c, schema_man.c, schema_json.c --------------------------- */

/* Does the key, or everything below it, hold its default? <base> is the struct of its block. */
bool lb_schema_is_default(const struct lb_schema_key *key, const void *base);
/* The canonical form. */
void lb_schema_print(const struct lb_schema_block *block, const void *base, FILE *out);

/* docs/configuration.md. */
void lb_schema_print_markdown(FILE *out);
/* docs/lb.yaml.5. */
void lb_schema_print_man(FILE *out);
/* docs/lb.schema.json. 0 or -ENOMEM. */
int lb_schema_print_json(FILE *out);

#endif
