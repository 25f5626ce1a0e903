/* SPDX-License-Identifier: MIT */
/*
 * Decides which local port a connection to a backend gets. The ports go round, so that a port rests
 * before it is used again, the longer the fewer are in use. Must never hand out a port that a graft
 * has.
 */
#include "backend/ports.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/cleanup.h"
#include "base/list.h"

#define WORD_BITS 64u

struct lb_ports {
	struct lb_list node; /* on the shelf, under its lock */
	struct lb_ports_shelf *shelf;
	struct lb_addr backend;
	uint32_t holders; /* atomic; one that has none left is on its way out */
	uint16_t min;
	uint32_t count;
	uint32_t cursor;  /* atomic; counts on for ever */
	uint64_t taken[]; /* atomic words; a bit per port */
};

struct lb_ports_shelf {
	pthread_mutex_t lock;
	struct lb_list books;
};

static uint32_t words(uint32_t count)
{
	return (count + WORD_BITS - 1) / WORD_BITS;
}

static struct lb_ports *book_of(struct lb_list *node)
{
	return lb_container_of(node, struct lb_ports, node);
}

int lb_ports_shelf_new(struct lb_ports_shelf **ret)
{
	struct lb_ports_shelf *shelf = calloc(1, sizeof(*shelf));

	if (!shelf)
		return -ENOMEM;
	pthread_mutex_init(&shelf->lock, NULL);
	lb_list_init(&shelf->books);
	*ret = shelf;
	return 0;
}

void lb_ports_shelf_free(struct lb_ports_shelf **shelf)
{
	struct lb_ports_shelf *s = *shelf;

	if (!s)
		return;
	*shelf = NULL;
	while (!lb_list_empty(&s->books)) {
		struct lb_ports *p = book_of(s->books.next);

		lb_list_remove(&p->node);
		free(p);
	}
	pthread_mutex_destroy(&s->lock);
	free(s);
}

uint32_t lb_ports_shelf_count(struct lb_ports_shelf *shelf)
{
	uint32_t n = 0;

	pthread_mutex_lock(&shelf->lock);
	lb_list_for_each (node, &shelf->books)
		n++;
	pthread_mutex_unlock(&shelf->lock);
	return n;
}

/* False: its last holder is letting it go. */
static bool hold_if_held(struct lb_ports *p)
{
	uint32_t n = __atomic_load_n(&p->holders, __ATOMIC_RELAXED);

	while (n && !__atomic_compare_exchange_n(&p->holders, &n, n + 1, true, __ATOMIC_ACQUIRE,
						 __ATOMIC_RELAXED))
		;
	return n;
}

/* Under the lock. */
static struct lb_ports *find(struct lb_ports_shelf *shelf, const struct lb_addr *backend)
{
	lb_list_for_each (node, &shelf->books)
		if (lb_addr_equal(&book_of(node)->backend, backend) && hold_if_held(book_of(node)))
			return book_of(node);
	return NULL;
}

static struct lb_ports *make(struct lb_ports_shelf *shelf, const struct lb_addr *backend,
			     uint16_t min, uint16_t max)
{
	uint32_t count = (uint32_t)max - min + 1;
	struct lb_ports *p = calloc(1, sizeof(*p) + words(count) * sizeof(p->taken[0]));

	if (!p)
		return NULL;
	p->shelf = shelf;
	p->backend = *backend;
	p->holders = 1;
	p->min = min;
	p->count = count;
	/* Anywhere: after a restart the first ports are likely to be in TIME_WAIT. */
	if (getrandom(&p->cursor, sizeof(p->cursor), GRND_NONBLOCK) < 0)
		p->cursor = 0;
	lb_list_append(&shelf->books, &p->node);
	return p;
}

int lb_ports_open(struct lb_ports_shelf *shelf, const struct lb_addr *backend, uint16_t min,
		  uint16_t max, struct lb_ports **ret)
{
	struct lb_ports *p;

	pthread_mutex_lock(&shelf->lock);
	p = find(shelf, backend);
	if (!p)
		p = make(shelf, backend, min, max);
	pthread_mutex_unlock(&shelf->lock);
	if (!p)
		return -ENOMEM;
	*ret = p;
	return 0;
}

struct lb_ports *lb_ports_hold(struct lb_ports *p)
{
	__atomic_fetch_add(&p->holders, 1, __ATOMIC_RELAXED);
	return p;
}

void lb_ports_close(struct lb_ports **ports)
{
	struct lb_ports *p = *ports;
	struct lb_ports_shelf *shelf;

	if (!p)
		return;
	*ports = NULL;
	shelf = p->shelf;
	if (__atomic_sub_fetch(&p->holders, 1, __ATOMIC_ACQ_REL))
		return;
	/* Nobody finds it any more, and whoever looks at it does so under the lock. */
	pthread_mutex_lock(&shelf->lock);
	lb_list_remove(&p->node);
	pthread_mutex_unlock(&shelf->lock);
	free(p);
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

void lb_ports_skip(struct lb_ports *p)
{
	__atomic_fetch_add(&p->cursor, p->count / 7, __ATOMIC_RELAXED);
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
