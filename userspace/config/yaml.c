/* SPDX-License-Identifier: MIT */
/*
 * Decides what is a YAML document for us: libyaml's events become a tree, within bounds that no
 * input can exceed. The only file that knows libyaml; it must never trust the size, the depth or
 * the bytes of what it reads.
 */
#include "config/yaml.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "base/cleanup.h"

struct anchor {
	char *name;
	struct lb_yaml_node *node;
};

struct parser {
	yaml_parser_t yaml;
	const char *data;
	size_t size;
	struct lb_yaml_node *all;
	uint32_t total; /* nodes, aliases written out */
	struct anchor anchors[LB_YAML_ANCHORS_MAX];
	size_t anchors_count;
	struct lb_yaml_error *error;
};

static int parse_node(struct parser *p, yaml_event_t *event, uint32_t depth,
		      struct lb_yaml_node **ret);

static void set_error(struct parser *p, yaml_mark_t mark, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static void set_error(struct parser *p, yaml_mark_t mark, const char *fmt, ...)
{
	va_list ap;

	p->error->line = (uint32_t)mark.line + 1;
	p->error->column = (uint32_t)mark.column + 1;
	va_start(ap, fmt);
	vsnprintf(p->error->text, sizeof(p->error->text), fmt, ap);
	va_end(ap);
}

/* To be returned. */
#define fail(p, mark, ...) (set_error(p, mark, __VA_ARGS__), -EINVAL)

/* libyaml reports a byte it cannot decode by offset only. */
static yaml_mark_t mark_of_offset(const struct parser *p, size_t offset)
{
	yaml_mark_t mark = {.index = offset};

	for (size_t i = 0; i < offset && i < p->size; i++) {
		if (p->data[i] == '\n') {
			mark.line++;
			mark.column = 0;
		} else if (((unsigned char)p->data[i] & 0xc0) != 0x80) {
			mark.column++;
		}
	}
	return mark;
}

static int fail_in_libyaml(struct parser *p)
{
	const yaml_parser_t *y = &p->yaml;

	switch (y->error) {
	case YAML_MEMORY_ERROR:
		return -ENOMEM;
	case YAML_READER_ERROR:
		return fail(p, mark_of_offset(p, y->problem_offset), "not text: %s",
			    y->problem ? y->problem : "unreadable byte");
	default:
		if (!y->context)
			return fail(p, y->problem_mark, "not YAML: %s", y->problem);
		return fail(p, y->problem_mark, "not YAML: %s %s (begun in line %zu)", y->problem,
			    y->context, y->context_mark.line + 1);
	}
}

static int next_event(struct parser *p, yaml_event_t *event)
{
	return yaml_parser_parse(&p->yaml, event) ? 0 : fail_in_libyaml(p);
}

/* Counts <weight> more nodes at <mark> against I1. */
static int charge(struct parser *p, yaml_mark_t mark, uint32_t weight)
{
	if (weight > LB_YAML_NODES_MAX - p->total)
		return fail(p, mark, "too large: more than %u values", LB_YAML_NODES_MAX);
	p->total += weight;
	return 0;
}

static int new_node(struct parser *p, yaml_mark_t mark, enum lb_yaml_kind kind,
		    struct lb_yaml_node **ret)
{
	struct lb_yaml_node *node;
	int r;

	r = charge(p, mark, 1);
	if (r)
		return r;
	node = calloc(1, sizeof(*node));
	if (!node)
		return -ENOMEM;
	node->kind = kind;
	node->line = (uint32_t)mark.line + 1;
	node->column = (uint32_t)mark.column + 1;
	node->weight = 1;
	node->height = 1;
	node->next = p->all;
	p->all = node;
	*ret = node;
	return 0;
}

/* A node can be named once it is complete: an alias inside its own anchor finds nothing. */
static int remember_anchor(struct parser *p, yaml_mark_t mark, const char *name,
			   struct lb_yaml_node *node)
{
	struct anchor *a = &p->anchors[p->anchors_count];

	if (p->anchors_count == LB_YAML_ANCHORS_MAX)
		return fail(p, mark, "too many anchors: more than %u", LB_YAML_ANCHORS_MAX);
	a->name = strdup(name);
	if (!a->name)
		return -ENOMEM;
	a->node = node;
	p->anchors_count++;
	return 0;
}

/*
 * An alias shares the node of its anchor, but is charged for all of it: a file whose aliases would
 * write out to billions of values runs into the same bound as a file that has them.
 */
static int resolve_alias(struct parser *p, const yaml_event_t *event, uint32_t depth,
			 struct lb_yaml_node **ret)
{
	const char *name = (const char *)event->data.alias.anchor;
	struct lb_yaml_node *node = NULL;
	int r;

	for (size_t i = p->anchors_count; i-- > 0 && !node;) {
		if (strcmp(p->anchors[i].name, name) == 0)
			node = p->anchors[i].node;
	}
	if (!node)
		return fail(p, event->start_mark, "alias *%.40s names no anchor before it", name);
	if (depth + node->height > LB_YAML_DEPTH_MAX)
		return fail(p, event->start_mark, "nested more than %u levels deep",
			    LB_YAML_DEPTH_MAX);
	r = charge(p, event->start_mark, node->weight);
	if (r)
		return r;
	*ret = node;
	return 0;
}

static int parse_scalar(struct parser *p, const yaml_event_t *event, struct lb_yaml_node **ret)
{
	const char *value = (const char *)event->data.scalar.value;
	struct lb_yaml_node *node;
	int r;

	if (memchr(value, 0, event->data.scalar.length))
		return fail(p, event->start_mark, "a NUL character (\\0) is not allowed");
	r = new_node(p, event->start_mark, LB_YAML_SCALAR, &node);
	if (r)
		return r;
	node->text = strdup(value);
	if (!node->text)
		return -ENOMEM;
	node->plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	*ret = node;
	return 0;
}

static int append(struct lb_yaml_node ***items, size_t count, struct lb_yaml_node *item)
{
	struct lb_yaml_node **grown = *items;

	/* Full at every power of two. */
	if ((count & (count - 1)) == 0) {
		grown = realloc(grown, (count ? count * 2 : 1) * sizeof(*grown));
		if (!grown)
			return -ENOMEM;
		*items = grown;
	}
	grown[count] = item;
	return 0;
}

static int append_child(struct lb_yaml_node *node, struct lb_yaml_node *child)
{
	int r;

	r = append(&node->items, node->count, child);
	if (r)
		return r;
	node->count++;
	node->weight += child->weight; /* cannot overflow: charge() bounds the sum */
	if (node->height <= child->height)
		node->height = child->height + 1;
	return 0;
}

static int parse_sequence(struct parser *p, struct lb_yaml_node *node, uint32_t depth)
{
	for (;;) {
		struct lb_yaml_node *child;
		yaml_event_t event;
		int r;

		r = next_event(p, &event);
		if (r)
			return r;
		if (event.type == YAML_SEQUENCE_END_EVENT) {
			yaml_event_delete(&event);
			return 0;
		}
		r = parse_node(p, &event, depth + 1, &child);
		if (!r)
			r = append_child(node, child);
		if (r)
			return r;
	}
}

/* I2, for the next key of <node>. */
static int check_key(struct parser *p, yaml_mark_t mark, const struct lb_yaml_node *node,
		     const struct lb_yaml_node *key)
{
	if (key->kind != LB_YAML_SCALAR)
		return fail(p, mark, "a key must be a word, not a list or a mapping");
	if (!key->text[0])
		return fail(p, mark, "a key is empty");
	for (size_t i = 0; i < node->count; i++) {
		if (strcmp(node->keys[i]->text, key->text) == 0)
			return fail(p, mark, "duplicate key \"%.80s\", first given in line %u",
				    key->text, node->keys[i]->line);
	}
	if (node->count == LB_YAML_KEYS_MAX)
		return fail(p, mark, "more than %u keys in one mapping", LB_YAML_KEYS_MAX);
	return 0;
}

static int parse_mapping(struct parser *p, struct lb_yaml_node *node, uint32_t depth)
{
	for (;;) {
		struct lb_yaml_node *key, *value;
		yaml_event_t event;
		yaml_mark_t mark;
		int r;

		r = next_event(p, &event);
		if (r)
			return r;
		if (event.type == YAML_MAPPING_END_EVENT) {
			yaml_event_delete(&event);
			return 0;
		}
		mark = event.start_mark;
		r = parse_node(p, &event, depth + 1, &key);
		if (!r)
			r = check_key(p, mark, node, key);
		if (!r)
			r = next_event(p, &event);
		if (!r)
			r = parse_node(p, &event, depth + 1, &value);
		if (!r)
			r = append(&node->keys, node->count, key);
		if (!r)
			r = append_child(node, value);
		if (r)
			return r;
	}
}

/* Anchor and tag of a node's first event; NULL when there is none. */
static void get_properties(const yaml_event_t *event, const char **anchor, const char **tag)
{
	*anchor = *tag = NULL;
	if (event->type == YAML_SCALAR_EVENT) {
		*anchor = (const char *)event->data.scalar.anchor;
		*tag = (const char *)event->data.scalar.tag;
	} else if (event->type == YAML_SEQUENCE_START_EVENT) {
		*anchor = (const char *)event->data.sequence_start.anchor;
		*tag = (const char *)event->data.sequence_start.tag;
	} else if (event->type == YAML_MAPPING_START_EVENT) {
		*anchor = (const char *)event->data.mapping_start.anchor;
		*tag = (const char *)event->data.mapping_start.tag;
	}
}

static int parse_collection(struct parser *p, const yaml_event_t *event, uint32_t depth,
			    struct lb_yaml_node **ret)
{
	bool mapping = event->type == YAML_MAPPING_START_EVENT;
	struct lb_yaml_node *node;
	int r;

	r = new_node(p, event->start_mark, mapping ? LB_YAML_MAPPING : LB_YAML_SEQUENCE, &node);
	if (!r)
		r = mapping ? parse_mapping(p, node, depth) : parse_sequence(p, node, depth);
	if (r)
		return r;
	*ret = node;
	return 0;
}

/* Reads the node that starts with <event>, which it consumes. */
static int parse_node(struct parser *p, yaml_event_t *event, uint32_t depth,
		      struct lb_yaml_node **ret)
{
	struct lb_yaml_node *node = NULL;
	const char *anchor, *tag;
	int r;

	get_properties(event, &anchor, &tag);
	if (depth >= LB_YAML_DEPTH_MAX)
		r = fail(p, event->start_mark, "nested more than %u levels deep",
			 LB_YAML_DEPTH_MAX);
	else if (tag)
		r = fail(p, event->start_mark, "tags (%.40s) are not supported", tag);
	else if (event->type == YAML_ALIAS_EVENT)
		r = resolve_alias(p, event, depth, &node);
	else if (event->type == YAML_SCALAR_EVENT)
		r = parse_scalar(p, event, &node);
	else
		r = parse_collection(p, event, depth, &node);
	if (!r && anchor)
		r = remember_anchor(p, event->start_mark, anchor, node);
	yaml_event_delete(event);
	if (r)
		return r;
	*ret = node;
	return 0;
}

/* Takes the next event, which must be of <type>. */
static int expect_event(struct parser *p, yaml_event_type_t type, const char *problem)
{
	yaml_event_t event;
	int r;

	r = next_event(p, &event);
	if (r)
		return r;
	if (event.type != type)
		r = fail(p, event.start_mark, "%s", problem);
	yaml_event_delete(&event);
	return r;
}

static int parse_stream(struct parser *p, struct lb_yaml_node **ret)
{
	struct lb_yaml_node *root;
	yaml_event_t event;
	int r;

	r = expect_event(p, YAML_STREAM_START_EVENT, "not a YAML stream");
	if (!r)
		r = expect_event(p, YAML_DOCUMENT_START_EVENT, "the file is empty");
	if (!r)
		r = next_event(p, &event);
	if (!r)
		r = parse_node(p, &event, 0, &root);
	if (!r)
		r = expect_event(p, YAML_DOCUMENT_END_EVENT, "expected the end of the document");
	if (!r)
		r = expect_event(p, YAML_STREAM_END_EVENT,
				 "a second document: the file must hold exactly one");
	if (r)
		return r;
	*ret = root;
	return 0;
}

static void free_nodes(struct lb_yaml_node *node)
{
	while (node) {
		struct lb_yaml_node *next = node->next;

		free(node->text);
		free(node->items);
		free(node->keys);
		free(node);
		node = next;
	}
}

static int parse(struct parser *p, struct lb_yaml **ret)
{
	struct lb_yaml_node *root;
	struct lb_yaml *doc;
	const char *nul = memchr(p->data, 0, p->size);
	int r;

	if (p->size > LB_YAML_BYTES_MAX)
		return fail(p, (yaml_mark_t){0}, "too large: more than %u bytes",
			    LB_YAML_BYTES_MAX);
	/* libyaml would guess at UTF-16 here; no text we want has a NUL in any encoding. */
	if (nul)
		return fail(p, mark_of_offset(p, (size_t)(nul - p->data)), "not text: a NUL byte");
	yaml_parser_set_input_string(&p->yaml, (const unsigned char *)p->data, p->size);
	r = parse_stream(p, &root);
	if (r)
		return r;
	doc = malloc(sizeof(*doc));
	if (!doc)
		return -ENOMEM;
	doc->root = root;
	doc->all = LB_TAKE_PTR(p->all);
	*ret = doc;
	return 0;
}

int lb_yaml_parse(struct lb_yaml **ret, const char *data, size_t size, struct lb_yaml_error *error)
{
	struct parser *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return -ENOMEM;
	if (!yaml_parser_initialize(&p->yaml)) {
		free(p);
		return -ENOMEM;
	}
	p->data = size ? data : "";
	p->size = size;
	p->error = error;
	r = parse(p, ret);
	yaml_parser_delete(&p->yaml);
	for (size_t i = 0; i < p->anchors_count; i++)
		free(p->anchors[i].name);
	free_nodes(p->all);
	free(p);
	return r;
}

void lb_yaml_free(struct lb_yaml **doc)
{
	if (!*doc)
		return;
	free_nodes((*doc)->all);
	free(*doc);
	*doc = NULL;
}

/* Its position in the mapping; <count> of the mapping when it is not there. */
static size_t find(const struct lb_yaml_node *map, const char *key)
{
	size_t i = 0;

	while (i < map->count && strcmp(map->keys[i]->text, key) != 0)
		i++;
	return i;
}

const struct lb_yaml_node *lb_yaml_get(const struct lb_yaml_node *map, const char *key)
{
	size_t i;

	if (!map || map->kind != LB_YAML_MAPPING)
		return NULL;
	i = find(map, key);
	return i < map->count ? map->items[i] : NULL;
}

const struct lb_yaml_node *lb_yaml_get_key(const struct lb_yaml_node *map, const char *key)
{
	size_t i;

	if (!map || map->kind != LB_YAML_MAPPING)
		return NULL;
	i = find(map, key);
	return i < map->count ? map->keys[i] : NULL;
}

const struct lb_yaml_node *lb_yaml_at(const struct lb_yaml_node *sequence, size_t index)
{
	if (!sequence || sequence->kind != LB_YAML_SEQUENCE || index >= sequence->count)
		return NULL;
	return sequence->items[index];
}
