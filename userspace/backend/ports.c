/* SPDX-License-Identifier: MIT */
/*
 * Decides which local port a connection to a backend gets. The ports go round, so that a port rests
 * as long as it can before it is used again. Must never hand out a port that a graft has.
 */
#include "backend/ports.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/cleanup.h"

#define WORD_BITS 64u

struct lb_ports {
	struct lb_ports *next;
	struct lb_addr backend;
	uint16_t min;
	uint32_t count;
	uint32_t cursor;  /* atomic; counts on for ever */
	uint64_t taken[]; /* atomic words; a bit per port */
};

static uint32_t words(uint32_t count)
{
	return (count + WORD_BITS - 1) / WORD_BITS;
}

struct lb_ports *lb_ports_find(struct lb_ports *first, const struct lb_addr *backend)
{
	while (first && !lb_addr_equal(&first->backend, backend))
		first = first->next;
	return first;
}

int lb_ports_open(struct lb_ports **first, const struct lb_addr *backend, uint16_t min,
		  uint16_t max, struct lb_ports **ret)
{
	uint32_t count = (uint32_t)max - min + 1;
	struct lb_ports *p = lb_ports_find(*first, backend);

	if (!p) {
		p = calloc(1, sizeof(*p) + words(count) * sizeof(p->taken[0]));
		if (!p)
			return -ENOMEM;
		p->backend = *backend;
		p->min = min;
		p->count = count;
		/* Anywhere: after a restart the first ports are likely to be in TIME_WAIT. */
		if (getrandom(&p->cursor, sizeof(p->cursor), GRND_NONBLOCK) < 0)
			p->cursor = 0;
		p->next = *first;
		*first = p;
	}
	*ret = p;
	return 0;
}

void lb_ports_free(struct lb_ports **first)
{
	while (*first) {
		struct lb_ports *p = *first;

		*first = p->next;
		free(p);
	}
}

static bool is_taken(const struct lb_ports *p, uint32_t i)
{
	uint64_t word = __atomic_load_n(&p->taken[i / WORD_BITS], __ATOMIC_RELAXED);

	return word >> (i % WORD_BITS) & 1;
}

uint16_t lb_ports_next(struct lb_ports *p)
{
	for (uint32_t i = 0; i < p->count; i++) {
		uint32_t at = __atomic_fetch_add(&p->cursor, 1, __ATOMIC_RELAXED) % p->count;

		if (!is_taken(p, at))
			return (uint16_t)(p->min + at);
	}
	return 0;
}

/* <port>'s place in the range, or count when it is outside. */
static uint32_t place(const struct lb_ports *p, uint16_t port)
{
	return port >= p->min && (uint32_t)(port - p->min) < p->count ? (uint32_t)(port - p->min)
								      : p->count;
}

void lb_ports_take(struct lb_ports *p, uint16_t port)
{
	uint32_t i = place(p, port);

	if (i < p->count)
		__atomic_fetch_or(&p->taken[i / WORD_BITS], 1ull << i % WORD_BITS,
				  __ATOMIC_RELAXED);
}

void lb_ports_leave(struct lb_ports *p, uint16_t port)
{
	uint32_t i = place(p, port);

	if (i < p->count)
		__atomic_fetch_and(&p->taken[i / WORD_BITS], ~(1ull << i % WORD_BITS),
				   __ATOMIC_RELAXED);
}

bool lb_ports_may_graft(const struct lb_ports *p, uint16_t port)
{
	uint32_t i = place(p, port);

	return i < p->count && !is_taken(p, i);
}
