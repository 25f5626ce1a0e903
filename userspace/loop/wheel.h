/* SPDX-License-Identifier: MIT */
/*
 * The timers of one loop, ordered by due time: a hierarchical timer wheel. Pure: it knows no clock
 * and calls nobody; `now` is an argument and due timers are handed out. One thread.
 *
 * Level l is a ring of 64 slots of 64^l ms each:
 *
 *	level 0   1 ms a slot     the rest of this 64 ms
 *	level 1   64 ms a slot    the rest of this 4 s
 *	level 2   4 s a slot      the rest of this 4.4 min
 *	level 3   4.4 min a slot  the next 4.6 h
 *
 * A timer lies in the level of the highest 6-bit digit in which its due time differs from now_ms.
 * So every timer of a level is due after all timers of the levels below, the first occupied slot
 * of the lowest occupied level is the next thing to happen, and a bitmap per level finds it.
 *
 * Invariants
 *  W1  A timer never lies in a slot that begins after its due time. It may lie in an earlier one;
 *      when that slot's time comes, the timer is placed again.
 *  W2  occupied[l] has the bit of exactly the slots of level l that hold timers.
 *  W3  No slot that holds a timer begins before now_ms.
 */
#ifndef LB_LOOP_WHEEL_H
#define LB_LOOP_WHEEL_H

#include "loop/loop.h"

#define LB_WHEEL_LEVELS 4
#define LB_WHEEL_SLOTS  64
#define LB_WHEEL_NEVER  UINT64_MAX

struct lb_wheel {
	uint64_t now_ms; /* of the last advance */
	uint64_t occupied[LB_WHEEL_LEVELS];
	struct lb_list slots[LB_WHEEL_LEVELS * LB_WHEEL_SLOTS];
	struct lb_list due; /* expired in the last advance and not yet popped, by due time */
};

/* The wheel points into itself: it must not be moved afterwards. */
void lb_wheel_init(struct lb_wheel *w, uint64_t now_ms);

/*
 * (Re)arms. A due time that has passed is taken as now_ms: the next advance expires it, not the one
 * whose timers are being popped. O(1); later and later restarts of one timer only store a number.
 */
void lb_wheel_start(struct lb_wheel *w, struct lb_timer *t, uint64_t due_ms);
/* Harmless on a timer that is not armed; also ends one that is expired but not popped. O(1). */
void lb_wheel_stop(struct lb_wheel *w, struct lb_timer *t);

/*
 * Sets the time and expires what is due, at a cost that grows with the occupied slots on the way,
 * not with the time. Time does not run backwards: an earlier <now_ms> counts as the last one.
 */
void lb_wheel_advance(struct lb_wheel *w, uint64_t now_ms);
/* The next expired timer, disarmed; NULL when there is none left. */
struct lb_timer *lb_wheel_pop(struct lb_wheel *w);

/*
 * When to advance next: never after the earliest due time, sometimes before it, to place a timer of
 * a higher level again (at most once per level and restart). LB_WHEEL_NEVER: no timers.
 */
uint64_t lb_wheel_next_ms(const struct lb_wheel *w);

#endif
