/* SPDX-License-Identifier: MIT */
/* See select_round_robin.h for the idea. This file must never know who is picked for what. */
#include "flow/select_round_robin.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/cleanup.h"

#define CYCLE_MAX (1u << 24)

struct lb_round_robin {
	uint32_t cycle;
	uint32_t picks[];
};

/* One backend's next pick: a job with a release slot and a deadline. */
struct job {
	uint64_t weight;
	uint64_t done; /* picks so far */
	uint32_t next; /* next backend released in the same slot */
};

/* A binary heap of backends, earliest deadline on top, lower index first among equals. */
struct heap {
	uint64_t *deadline; /* by backend */
	uint32_t *at;
	size_t count;
};

static uint64_t gcd(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t r = a % b;

		a = b;
		b = r;
	}
	return a;
}

static bool heap_before(const struct heap *h, uint32_t a, uint32_t b)
{
	return h->deadline[a] < h->deadline[b] || (h->deadline[a] == h->deadline[b] && a < b);
}

static void heap_push(struct heap *h, uint32_t backend)
{
	size_t i = h->count++;

	while (i && heap_before(h, backend, h->at[(i - 1) / 2])) {
		h->at[i] = h->at[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	h->at[i] = backend;
}

static uint32_t heap_pop(struct heap *h)
{
	uint32_t top = h->at[0], last = h->at[--h->count];
	size_t i = 0;

	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= h->count)
			break;
		if (child + 1 < h->count && heap_before(h, h->at[child + 1], h->at[child]))
			child++;
		if (!heap_before(h, h->at[child], last))
			break;
		h->at[i] = h->at[child];
		i = child;
	}
	h->at[i] = last;
	return top;
}

/* Fills <picks>[0..cycle). <released> holds, per slot, the first backend released there. */
static void schedule(uint32_t *picks, uint32_t cycle, struct job *jobs, uint32_t *released,
		     struct heap *ready)
{
	for (uint32_t slot = 0; slot < cycle; slot++) {
		uint32_t backend, next;
		struct job *job;

		for (backend = released[slot]; backend != LB_SELECT_NONE; backend = next) {
			next = jobs[backend].next;
			job = &jobs[backend];
			/* Only backends with a weight are ever released. */
			ready->deadline[backend] =
				/* NOLINTNEXTLINE(clang-analyzer-core.DivideZero) */
				((job->done + 1) * cycle + job->weight - 1) / job->weight;
			heap_push(ready, backend);
		}
		/* Never empty: the weights fill the cycle exactly. */
		backend = heap_pop(ready);
		picks[slot] = backend;
		job = &jobs[backend];
		if (++job->done < job->weight) {
			uint64_t release = job->done * cycle / job->weight;

			/* A job picked in the first slot of a window that overlaps the next one
			 * is released at once; its turn comes in the next slot at the earliest. */
			if (release <= slot)
				release = slot + 1;
			job->next = released[release];
			released[release] = backend;
		}
	}
}

int lb_select_round_robin_new(struct lb_round_robin **ret, const uint32_t *weights, size_t n)
{
	LB_AUTO_FREE uint32_t *released = NULL;
	LB_AUTO_FREE uint64_t *deadline = NULL;
	LB_AUTO_FREE uint32_t *at = NULL;
	LB_AUTO_FREE struct job *jobs = NULL;
	LB_AUTO_FREE struct lb_round_robin *rr = NULL;
	uint64_t sum = 0, divisor = 0;

	for (size_t i = 0; i < n; i++) {
		sum += weights[i];
		divisor = gcd(weights[i], divisor);
	}
	if (divisor)
		sum /= divisor;
	if (sum > CYCLE_MAX || n >= LB_SELECT_NONE)
		return -E2BIG;
	rr = malloc(sizeof(*rr) + sum * sizeof(rr->picks[0]));
	jobs = calloc(n + 1, sizeof(*jobs));
	deadline = calloc(n + 1, sizeof(*deadline));
	at = calloc(n + 1, sizeof(*at));
	released = malloc((sum + 1) * sizeof(*released));
	if (!rr || !jobs || !deadline || !at || !released)
		return -ENOMEM;
	rr->cycle = (uint32_t)sum;
	for (uint64_t i = 0; i <= sum; i++)
		released[i] = LB_SELECT_NONE;
	for (size_t i = n; sum && i-- > 0;) {
		if (!weights[i])
			continue;
		/* Weights that are not 0 have a divisor. */
		/* NOLINTNEXTLINE(clang-analyzer-core.DivideZero) */
		jobs[i].weight = weights[i] / divisor;
		jobs[i].next = released[0];
		released[0] = (uint32_t)i;
	}
	schedule(rr->picks, rr->cycle, jobs, released,
		 &(struct heap){.deadline = deadline, .at = at});
	*ret = LB_TAKE_PTR(rr);
	return 0;
}

void lb_select_round_robin_free(struct lb_round_robin **rr)
{
	free(*rr);
	*rr = NULL;
}

uint32_t lb_select_round_robin_cycle(const struct lb_round_robin *rr)
{
	return rr->cycle;
}

uint32_t lb_select_round_robin_pick(const struct lb_round_robin *rr, uint64_t turn)
{
	return rr->cycle ? rr->picks[turn % rr->cycle] : LB_SELECT_NONE;
}
