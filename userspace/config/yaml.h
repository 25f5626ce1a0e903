/* SPDX-License-Identifier: MIT */
/*
 * A YAML document as a tree that knows where everything stood. Knows nothing of load balancing.
 *
 * Invariants of a tree that was returned:
 *  I1  At most LB_YAML_DEPTH_MAX levels and LB_YAML_NODES_MAX nodes, aliases counted as if they had
 *      been written out: walking it recursively is cheap whatever the file said.
 *  I2  Keys are non-empty scalars, unique within their mapping, at most LB_YAML_KEYS_MAX of them.
 *  I3  No text contains a NUL; all text is valid UTF-8.
 */
#ifndef LB_CONFIG_YAML_H
#define LB_CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LB_YAML_BYTES_MAX   (8u * 1024 * 1024)
#define LB_YAML_NODES_MAX   262144u
#define LB_YAML_DEPTH_MAX   32u
#define LB_YAML_KEYS_MAX    256u
#define LB_YAML_ANCHORS_MAX 256u

enum lb_yaml_kind {
	LB_YAML_SCALAR = 0,
	LB_YAML_SEQUENCE,
	LB_YAML_MAPPING,
};

struct lb_yaml_node {
	enum lb_yaml_kind kind;
	uint32_t line;   /* from 1 */
	uint32_t column; /* from 1, in characters */
	bool plain;      /* scalar: written without quotes */
	char *text;      /* scalar: its value, never NULL */
	/* sequence: items[]; mapping: items[i] is the value of keys[i]. Shared by aliases. */
	struct lb_yaml_node **items;
	struct lb_yaml_node **keys;
	size_t count;

	/* Owned by yaml.c: size of the written-out subtree (I1), and the list of all nodes. */
	uint32_t weight;
	uint32_t height;
	struct lb_yaml_node *next;
};

struct lb_yaml {
	struct lb_yaml_node *root; /* never NULL */
	struct lb_yaml_node *all;  /* every node once, for freeing */
};

struct lb_yaml_error {
	uint32_t line; /* 0: about the file as a whole */
	uint32_t column;
	char text[256];
};

/*
 * Exactly one document with a value. 0; -EINVAL with *error filled in; -ENOMEM. *ret is untouched
 * on failure. Free with lb_yaml_free(). <data> is not kept. Any thread.
 */
int lb_yaml_parse(struct lb_yaml **ret, const char *data, size_t size, struct lb_yaml_error *error);

/* NULL inside is fine. *doc becomes NULL. */
void lb_yaml_free(struct lb_yaml **doc);

/* The value of <key> in a mapping; NULL when it is not there or <map> is NULL or no mapping. */
const struct lb_yaml_node *lb_yaml_get(const struct lb_yaml_node *map, const char *key);
/* Where <key> itself stands; NULL as above. */
const struct lb_yaml_node *lb_yaml_get_key(const struct lb_yaml_node *map, const char *key);
/* The item of a sequence; NULL when there is none. */
const struct lb_yaml_node *lb_yaml_at(const struct lb_yaml_node *sequence, size_t index);

#endif
