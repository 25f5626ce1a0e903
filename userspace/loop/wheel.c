/* SPDX-License-Identifier: MIT */
/*
 * Decides when a timer is due. Hashed by the digits of the due time (Varghese and Lauck's scheme 7,
 * without overflow counters: levels are chosen by the highest digit that differs from the time).
 * Must never call a timer's function, read a clock or allocate.
 */
#include "loop/wheel.h"

#include "base/cleanup.h"

#define DIGIT_BITS 6
#define TOP        (LB_WHEEL_LEVELS - 1)

/* The longest way round the top level that does not come back to the slot where it began. */
#define HORIZON_MS ((uint64_t)(LB_WHEEL_SLOTS - 1) << (DIGIT_BITS * TOP))

_Static_assert(1u << DIGIT_BITS == LB_WHEEL_SLOTS, "a slot per digit value");
_Static_assert(LB_WHEEL_SLOTS == 64, "a bitmap of one word");

void lb_wheel_init(struct lb_wheel *w, uint64_t now_ms)
{
	w->now_ms = now_ms;
	for (size_t i = 0; i < LB_ARRAY_SIZE(w->occupied); i++)
		w->occupied[i] = 0;
	for (size_t i = 0; i < LB_ARRAY_SIZE(w->slots); i++)
		lb_list_init(&w->slots[i]);
	lb_list_init(&w->due);
}

static unsigned digit(uint64_t ms, unsigned level)
{
	return (unsigned)(ms >> (DIGIT_BITS * level)) % LB_WHEEL_SLOTS;
}

/* The level of a due time at most HORIZON_MS ahead. The top level is a ring: it takes the carry. */
static unsigned level_of(const struct lb_wheel *w, uint64_t due_ms)
{
	uint64_t differs = due_ms ^ w->now_ms;
	unsigned level;

	if (!differs)
		return 0;
	level = (unsigned)(63 - __builtin_clzll(differs)) / DIGIT_BITS;
	return level < TOP ? level : TOP;
}

/* Puts an unlinked timer, due now or later, into its slot. */
static void place(struct lb_wheel *w, struct lb_timer *t)
{
	uint64_t ahead = t->due_ms - w->now_ms;
	uint64_t at = ahead < HORIZON_MS ? t->due_ms : w->now_ms + HORIZON_MS;
	unsigned level = level_of(w, at), slot = digit(at, level);

	lb_list_append(&w->slots[level * LB_WHEEL_SLOTS + slot], &t->node);
	w->occupied[level] |= 1ull << slot;
}

static void clear_occupied(struct lb_wheel *w, size_t index)
{
	w->occupied[index / LB_WHEEL_SLOTS] &= ~(1ull << (index % LB_WHEEL_SLOTS));
}

/* Unlinks an armed timer from wherever it lies and keeps W2. */
static void unlink_timer(struct lb_wheel *w, struct lb_timer *t)
{
	struct lb_list *neighbour = t->node.next;

	lb_list_remove(&t->node);
	/* A neighbour that is alone now can only be the head of the list; which one, tells W2. */
	if (lb_list_empty(neighbour) && neighbour != &w->due)
		clear_occupied(w, (size_t)(neighbour - w->slots));
}

void lb_wheel_start(struct lb_wheel *w, struct lb_timer *t, uint64_t due_ms)
{
	if (due_ms < w->now_ms)
		due_ms = w->now_ms;
	/*
	 * W1 allows to stay where we are, and that spares the cache lines of four neighbours: an
	 * idle timer is pushed back with every burst of its flow. Expired timers (those of w->due)
	 * are never due in the future, so this one lies in a slot.
	 */
	if (t->armed && t->due_ms > w->now_ms && due_ms >= t->due_ms) {
		t->due_ms = due_ms;
		return;
	}
	if (t->armed)
		unlink_timer(w, t);
	t->armed = true;
	t->due_ms = due_ms;
	place(w, t);
}

void lb_wheel_stop(struct lb_wheel *w, struct lb_timer *t)
{
	if (!t->armed)
		return;
	unlink_timer(w, t);
	t->armed = false;
}

/* Finds the occupied slot that begins first. False, outputs untouched: there is none. */
static bool next_slot(const struct lb_wheel *w, size_t *ret_index, uint64_t *ret_ms)
{
	for (unsigned level = 0; level < LB_WHEEL_LEVELS; level++) {
		uint64_t bits = w->occupied[level], turned;
		unsigned here = digit(w->now_ms, level), ahead, shift = DIGIT_BITS * level;

		if (!bits)
			continue;
		/* Turned so that bit 0 is the slot of now_ms. By W3 all others lie ahead of it. */
		turned = bits >> here | bits << (-here % 64);
		ahead = (unsigned)__builtin_ctzll(turned);
		*ret_index = level * LB_WHEEL_SLOTS + (here + ahead) % LB_WHEEL_SLOTS;
		*ret_ms = ((w->now_ms >> shift) + ahead) << shift;
		return true;
	}
	return false;
}

/* The slot's time has come (= now_ms): its timers are due or move to a lower level. */
static void empty_slot(struct lb_wheel *w, size_t index)
{
	struct lb_list moved;

	lb_list_init(&moved);
	lb_list_splice(&moved, &w->slots[index]);
	clear_occupied(w, index);
	while (!lb_list_empty(&moved)) {
		struct lb_timer *t = lb_container_of(moved.next, struct lb_timer, node);

		lb_list_remove(&t->node);
		if (t->due_ms <= w->now_ms)
			lb_list_append(&w->due, &t->node);
		else
			place(w, t);
	}
}

void lb_wheel_advance(struct lb_wheel *w, uint64_t now_ms)
{
	uint64_t at;
	size_t index;

	if (now_ms < w->now_ms)
		now_ms = w->now_ms;
	/* Slot by slot in time order, so that w->due is sorted and W3 holds at each step. */
	while (next_slot(w, &index, &at) && at <= now_ms) {
		w->now_ms = at;
		empty_slot(w, index);
	}
	/*
	 * No slot begins before or at <now_ms> any more, so no digit that chose a level has
	 * changed: every timer still lies where it belongs.
	 */
	w->now_ms = now_ms;
}

struct lb_timer *lb_wheel_pop(struct lb_wheel *w)
{
	struct lb_timer *t;

	if (lb_list_empty(&w->due))
		return NULL;
	t = lb_container_of(w->due.next, struct lb_timer, node);
	lb_list_remove(&t->node);
	t->armed = false;
	return t;
}

uint64_t lb_wheel_next_ms(const struct lb_wheel *w)
{
	uint64_t at;
	size_t index;

	if (!lb_list_empty(&w->due))
		return w->now_ms;
	return next_slot(w, &index, &at) ? at : LB_WHEEL_NEVER;
}
