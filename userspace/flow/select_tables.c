/* SPDX-License-Identifier: MIT */
/* See select_tables.h. Decides which tier of backends is in service. */
#include "flow/select_tables.h"

#include <errno.h>
#include <stdlib.h>

#include "base/cleanup.h"

void lb_select_tables_fini(struct lb_select_tables *t)
{
	lb_select_round_robin_free(&t->round_robin);
	lb_select_maglev_free(&t->maglev);
	free(t->least);
	t->least = NULL;
}

static int build_maglev(struct lb_select_set set, const uint32_t *weights, struct lb_maglev **ret)
{
	LB_AUTO_FREE uint64_t *places = calloc(set.count + 1, sizeof(*places));

	if (!places)
		return -ENOMEM;
	for (uint32_t i = 0; i < set.count; i++)
		places[i] = set.at[i]->place;
	return lb_select_maglev_new(ret, places, weights, set.count);
}

static int build_least(struct lb_select_set set, const uint32_t *weights,
		       struct lb_select_tables *t)
{
	t->least = calloc(set.count + 1, sizeof(struct lb_backend *));
	if (!t->least)
		return -ENOMEM;
	for (uint32_t i = 0; i < set.count; i++)
		if (weights[i])
			t->least[t->least_count++] = set.at[i];
	return 0;
}

/* Whether <b> would be picked, being in the set. */
static bool would_do(const struct lb_backend *b)
{
	uint8_t out = __atomic_load_n(&b->out, __ATOMIC_RELAXED);

	return !(out & ~(uint8_t)LB_BACKEND_LEFT) && b->weight;
}

int lb_select_tables_init(struct lb_select_tables *t, struct lb_select_set set,
			  enum lb_balance balance)
{
	LB_AUTO_FREE uint32_t *weights = calloc(set.count + 1, sizeof(*weights));
	int err;

	*t = (struct lb_select_tables){.backup = true};
	if (!weights)
		return -ENOMEM;
	for (uint32_t i = 0; i < set.count; i++)
		if (would_do(set.at[i]) && !set.at[i]->backup)
			t->backup = false;
	for (uint32_t i = 0; i < set.count; i++)
		if (would_do(set.at[i]) && set.at[i]->backup == t->backup)
			weights[i] = set.at[i]->weight;
	if (balance == LB_BALANCE_SOURCE_HASH)
		err = build_maglev(set, weights, &t->maglev);
	else if (balance == LB_BALANCE_LEAST_CONNECTIONS)
		err = build_least(set, weights, t);
	else
		err = lb_select_round_robin_new(&t->round_robin, weights, set.count);
	if (err)
		lb_select_tables_fini(t);
	return err;
}
