/* SPDX-License-Identifier: MIT */
/* See select_maglev.h. */
#include "flow/select_maglev.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "flow/select_round_robin.h"

/* A hundred slots and more for each backend keep the shares within one percent. */
#define SLOTS_FEW  65537u
#define SLOTS_MANY 655373u
#define MANY       655u

struct lb_maglev {
	uint32_t slots;
	bool empty;
	uint32_t backend[]; /* by slot */
};

/* Where a backend wants to be, in the order of its preference. */
struct wish {
	uint64_t id;
	uint32_t index;
	uint32_t at, skip;
	uint64_t taken; /* in units of weight: turns it has had */
};

/* The next free slot of its preference: there is one. */
static uint32_t claim(struct lb_maglev *m, struct wish *w)
{
	uint32_t slot = w->at;

	while (m->backend[slot] != LB_SELECT_NONE)
		slot = (uint32_t)(((uint64_t)slot + w->skip) % m->slots);
	w->at = (uint32_t)(((uint64_t)slot + w->skip) % m->slots);
	return slot;
}

/* Who comes first in a turn gets what both wanted: that must not depend on where it is listed. */
static int by_id(const void *a, const void *b)
{
	const struct wish *x = a, *y = b;

	if (x->id != y->id)
		return x->id < y->id ? -1 : 1;
	return x->index < y->index ? -1 : 1;
}

/* Turn by turn; in each one a backend of the largest weight takes a slot, others now and then. */
static void fill(struct lb_maglev *m, struct wish *wishes, const uint32_t *weights, size_t n,
		 uint32_t heaviest)
{
	uint32_t left = m->slots;

	for (uint64_t turn = 1; left; turn++) {
		for (size_t i = 0; i < n && left; i++) {
			struct wish *w = &wishes[i];
			uint32_t weight = weights[w->index];

			if (!weight || turn * weight < (w->taken + 1) * heaviest)
				continue;
			w->taken++;
			m->backend[claim(m, w)] = w->index;
			left--;
		}
	}
}

int lb_select_maglev_new(struct lb_maglev **ret, const uint64_t *ids, const uint32_t *weights,
			 size_t n)
{
	uint32_t slots = n > MANY ? SLOTS_MANY : SLOTS_FEW, heaviest = 0;
	LB_AUTO_FREE struct wish *wishes = calloc(n + 1, sizeof(*wishes));
	LB_AUTO_FREE struct lb_maglev *m = malloc(sizeof(*m) + slots * sizeof(m->backend[0]));

	if (!wishes || !m)
		return -ENOMEM;
	m->slots = slots;
	memset(m->backend, 0xff, slots * sizeof(m->backend[0]));
	for (size_t i = 0; i < n; i++) {
		wishes[i].id = ids[i];
		wishes[i].index = (uint32_t)i;
		wishes[i].at = (uint32_t)(lb_hash_mix(ids[i]) % slots);
		wishes[i].skip = (uint32_t)(lb_hash_mix(ids[i] + 1) % (slots - 1)) + 1;
		if (weights[i] > heaviest)
			heaviest = weights[i];
	}
	qsort(wishes, n, sizeof(*wishes), by_id);
	m->empty = !heaviest;
	if (heaviest)
		fill(m, wishes, weights, n, heaviest);
	*ret = LB_TAKE_PTR(m);
	return 0;
}

void lb_select_maglev_free(struct lb_maglev **m)
{
	free(*m);
	*m = NULL;
}

uint32_t lb_select_maglev_pick(const struct lb_maglev *m, uint64_t hash)
{
	return m->empty ? LB_SELECT_NONE : m->backend[hash % m->slots];
}

uint32_t lb_select_maglev_slots(const struct lb_maglev *m)
{
	return m->slots;
}
