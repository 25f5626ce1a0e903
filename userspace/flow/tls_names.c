/* SPDX-License-Identifier: MIT */
/* See tls_names.h. A wildcard stands for exactly one label (RFC 6125, 6.4.3). */
#include "flow/tls_names.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

int lb_tls_names_add(struct lb_tls_names *n, const char *name, uint32_t certificate)
{
	const char *from = name[0] == '*' && name[1] == '.' ? name + 1 : name;
	struct lb_tls_name *items;
	char *text;

	/* What has a star elsewhere matches nobody. */
	if (!*from || strchr(from, '*'))
		return -EINVAL;
	items = realloc(n->items, (n->count + 1) * sizeof(*items));
	if (!items)
		return -ENOMEM;
	n->items = items;
	text = strdup(from);
	if (!text)
		return -ENOMEM;
	for (char *c = text; *c; c++)
		*c = (char)tolower((unsigned char)*c);
	n->items[n->count++] = (struct lb_tls_name){.text = text, .certificate = certificate};
	return 0;
}

static int compare(const void *left, const void *right)
{
	const struct lb_tls_name *a = left, *b = right;
	int order = strcmp(a->text, b->text);

	if (order)
		return order;
	return a->certificate < b->certificate ? -1 : a->certificate > b->certificate;
}

void lb_tls_names_sort(struct lb_tls_names *n)
{
	size_t kept = 0;

	if (n->count)
		qsort(n->items, n->count, sizeof(*n->items), compare);
	for (size_t i = 0; i < n->count; i++) {
		/* The first certificate of a name stays. */
		if (kept && !strcmp(n->items[kept - 1].text, n->items[i].text))
			free(n->items[i].text);
		else
			n->items[kept++] = n->items[i];
	}
	n->count = kept;
}

static int compare_name(const void *key, const void *item)
{
	return strcasecmp(key, ((const struct lb_tls_name *)item)->text);
}

static const struct lb_tls_name *look(const struct lb_tls_names *n, const char *text)
{
	return n->count ? bsearch(text, n->items, n->count, sizeof(*n->items), compare_name) : NULL;
}

uint32_t lb_tls_names_find(const struct lb_tls_names *n, const char *name, uint32_t otherwise)
{
	const struct lb_tls_name *found = *name == '.' ? NULL : look(n, name);
	const char *parent = strchr(name, '.');

	if (!found && parent && parent != name)
		found = look(n, parent);
	return found ? found->certificate : otherwise;
}

void lb_tls_names_fini(struct lb_tls_names *n)
{
	for (size_t i = 0; i < n->count; i++)
		free(n->items[i].text);
	free(n->items);
	*n = (struct lb_tls_names){0};
}
