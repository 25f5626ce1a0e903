/* SPDX-License-Identifier: MIT */
/* See admin_collect.h. Its visitor runs in the workers: it must never wait, nor allocate often. */
#include "control/admin_collect.h"

#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "flow/session.h"
#include "flow/survey.h"

#define CHUNK_FLOWS 256u

struct chunk {
	struct chunk *next;
	uint32_t count;
	struct lb_flow_snapshot flows[CHUNK_FLOWS];
};

/* One worker's. */
struct share {
	struct chunk *last;
	void *names; /* tsearch(3): what the flows are called, by content */
	uint64_t missing;
};

struct lb_collection {
	struct lb_admin_job *job;
	const struct lb_admin_request *request;
	bool legs;
	struct lb_survey *survey;
	struct lb_flow_snapshot **sorted;
	uint32_t room; /* atomic: flows that may still be collected */
	uint32_t shares_count;
	struct share shares[];
};

static int compare_names(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* A copy that lives as long as the collection; NULL without memory. */
static const char *keep_name(struct share *share, const char *name)
{
	char **found = tfind(name, &share->names, compare_names);
	char *copy;

	if (found)
		return *found;
	copy = strdup(name);
	if (copy && tsearch(copy, &share->names, compare_names))
		return copy;
	free(copy);
	return NULL;
}

/* --- in the workers --------------------------------------------------------------------------- */

static bool is_from(const struct lb_admin_request *r, const struct lb_addr *client)
{
	struct lb_prefix one = {.family = client->sa.sa_family};

	if (r->client_port && r->client_port != lb_addr_port(client))
		return false;
	if (one.family == AF_INET) {
		one.in4 = client->in4.sin_addr;
		one.bits = 32;
	} else {
		one.in6 = client->in6.sin6_addr;
		one.bits = 128;
	}
	return lb_prefix_contains(&r->client, &one);
}

static bool is_named(const struct lb_admin_request *r, const struct lb_flow_snapshot *f)
{
	if (r->rule && strcmp(r->rule, f->rule) != 0 && (!f->of || strcmp(r->rule, f->of) != 0))
		return false;
	if (r->backend && (!f->backend || strcmp(r->backend, f->backend) != 0))
		return false;
	if (r->by_carrier && (!f->carrier || f->carrier->id != r->carrier))
		return false;
	return !r->by_client || is_from(r, &f->client);
}

static struct lb_flow_snapshot *next_place(struct lb_collection *c, struct share *share)
{
	struct chunk *chunk = share->last;

	if (!chunk || chunk->count == CHUNK_FLOWS) {
		uint32_t room = __atomic_load_n(&c->room, __ATOMIC_RELAXED);

		do
			if (room < CHUNK_FLOWS)
				return NULL;
		while (!__atomic_compare_exchange_n(&c->room, &room, room - CHUNK_FLOWS, false,
						    __ATOMIC_RELAXED, __ATOMIC_RELAXED));
		chunk = malloc(sizeof(*chunk));
		if (!chunk)
			return NULL;
		chunk->next = share->last;
		chunk->count = 0;
		share->last = chunk;
	}
	return &chunk->flows[chunk->count];
}

static void keep(struct lb_collection *c, struct share *share, const struct lb_flow_snapshot *f)
{
	struct lb_flow_snapshot *place = next_place(c, share);
	const char *rule = keep_name(share, f->rule);
	const char *of = f->of ? keep_name(share, f->of) : NULL;
	const char *backend = f->backend ? keep_name(share, f->backend) : NULL;

	if (!place || !rule || (f->of && !of) || (f->backend && !backend)) {
		share->missing++;
		return;
	}
	*place = *f;
	place->rule = rule;
	place->of = of;
	place->backend = backend;
	share->last->count++;
}

static unsigned int visit(void *arg, const struct lb_survey_flow *flow)
{
	struct lb_collection *c = arg;
	struct share *share = &c->shares[flow->env->carrier.worker];
	struct lb_flow_snapshot f;

	if (flow->session)
		lb_snapshot_take(flow->session, &f);
	else
		lb_snapshot_take_graft(flow->env, flow->pair, &f);
	if (!is_named(c->request, &f))
		return 1;
	/* Sockets are asked only for who is wanted. */
	if (flow->session && c->legs)
		lb_snapshot_ask(flow->session, &f);
	keep(c, share, &f);
	return LB_SURVEY_PRICE_OF_ASKING;
}

static void done(void *arg)
{
	struct lb_collection *c = arg;

	lb_admin_job_back(c->job);
}

/* --- in the admin's thread -------------------------------------------------------------------- */

int lb_admin_collect(struct lb_collection **ret, struct lb_admin_job *job, bool legs,
		     void (*next)(struct lb_admin_job *job))
{
	uint32_t count = job->opts->envs_count;
	struct lb_collection *c = calloc(1, sizeof(*c) + count * sizeof(c->shares[0]));
	const struct lb_survey_opts opts = {.visit = visit, .done = done, .arg = c};

	if (!c)
		return -ENOMEM;
	c->job = job;
	c->request = &job->request;
	c->legs = legs;
	/* What is begun is a chunk, and every worker may begin one more than it fills. */
	c->room = LB_ADMIN_FLOWS_MAX + count * CHUNK_FLOWS;
	c->shares_count = count;
	*ret = c;
	lb_admin_job_leave(job, next);
	/* Some worker could not be asked: it comes back all the same, with less. */
	if (lb_survey_start(&c->survey, job->opts->envs, count, &opts) && !c->survey) {
		lb_admin_job_stay(job);
		lb_collection_free(ret);
		return -ENOMEM;
	}
	return 0;
}

static int compare_ids(const void *a, const void *b)
{
	const struct lb_flow_snapshot *const *x = a, *const *y = b;

	return ((*x)->id > (*y)->id) - ((*x)->id < (*y)->id);
}

int lb_collection_flows(struct lb_collection *c, struct lb_flow_snapshot ***ret, size_t *count,
			uint64_t *missing)
{
	size_t all = 0, n = 0;

	*missing = 0;
	for (uint32_t i = 0; i < c->shares_count; i++) {
		*missing += c->shares[i].missing;
		for (const struct chunk *k = c->shares[i].last; k; k = k->next)
			all += k->count;
	}
	c->sorted = calloc(all + 1, sizeof(struct lb_flow_snapshot *));
	if (!c->sorted)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->shares_count; i++)
		for (struct chunk *k = c->shares[i].last; k; k = k->next)
			for (uint32_t f = 0; f < k->count; f++)
				c->sorted[n++] = &k->flows[f];
	qsort(c->sorted, n, sizeof(struct lb_flow_snapshot *), compare_ids);
	/* One that became a graft in between was met twice. */
	*count = 0;
	for (size_t i = 0; i < n; i++)
		if (!i || c->sorted[i]->id != c->sorted[i - 1]->id)
			c->sorted[(*count)++] = c->sorted[i];
	*ret = c->sorted;
	return 0;
}

static void chunks_free(struct chunk *chunk)
{
	while (chunk) {
		struct chunk *next = chunk->next;

		free(chunk);
		chunk = next;
	}
}

void lb_collection_free(struct lb_collection **pc)
{
	struct lb_collection *c = *pc;

	if (!c)
		return;
	*pc = NULL;
	lb_survey_free(&c->survey);
	for (uint32_t i = 0; i < c->shares_count; i++) {
		chunks_free(c->shares[i].last);
		tdestroy(c->shares[i].names, free);
	}
	free(c->sorted);
	free(c);
}
