/* SPDX-License-Identifier: MIT */
/* See budget.h. Must never charge a byte twice, nor keep a place in the queue without bytes. */
#include "flow/budget.h"

#define TURN_NS   10000000ull
#define TURN_MOST (256u * 1024u)
/* Below, a segment would be mostly headers; but not at rates where that many take their time. */
#define TURN_LEAST    128u
#define TURN_LEAST_NS (LB_BUCKET_BURST_NS / 4)
#define TURN_FIRST    16
#define SECOND_NS     1000000000ull

static uint64_t rate_of(const struct lb_bucket *b)
{
	return __atomic_load_n(&b->rate, __ATOMIC_RELAXED);
}

/* How often the rates have changed, of all its buckets together. */
static uint32_t changes_of(const struct lb_budget *b)
{
	uint32_t sum = 0;

	for (unsigned int i = 0; i < LB_BUDGET_BUCKETS; i++)
		sum += __atomic_load_n(&b->bucket[i]->changes, __ATOMIC_ACQUIRE);
	return sum;
}

static uint64_t bytes_in(uint64_t rate, uint64_t ns)
{
	return (uint64_t)((unsigned __int128)rate * ns / SECOND_NS);
}

/* A turn of bucket <b> for who asks now; UINT32_MAX without a limit. */
static uint32_t turn_of(const struct lb_bucket *b, uint64_t now)
{
	uint64_t rate = rate_of(b), queue = lb_bucket_queue_ns(b, now), turn, least;

	if (!rate)
		return UINT32_MAX;
	turn = bytes_in(rate, TURN_NS * TURN_NS / (queue > TURN_NS ? queue : TURN_NS));
	least = bytes_in(rate, TURN_LEAST_NS);
	if (least > TURN_LEAST)
		least = TURN_LEAST;
	if (turn < least)
		turn = least;
	if (turn > TURN_MOST)
		return TURN_MOST;
	return turn ? (uint32_t)turn : 1;
}

uint32_t lb_budget_turn(const struct lb_budget *b, uint64_t now)
{
	uint32_t least = UINT32_MAX;
	uint64_t ramp;

	for (unsigned int i = 0; i < LB_BUDGET_BUCKETS; i++) {
		uint32_t turn = turn_of(b->bucket[i], now);

		if (turn < least)
			least = turn;
	}
	ramp = 2ull * b->last > least / TURN_FIRST ? 2ull * b->last : least / TURN_FIRST;
	if (ramp < TURN_LEAST)
		ramp = TURN_LEAST;
	return least < ramp ? least : (uint32_t)ramp;
}

uint64_t lb_budget_room(struct lb_budget *b, uint64_t now)
{
	uint64_t credit = UINT64_MAX;
	uint32_t turn;

	if (!b)
		return UINT64_MAX;
	/* The queue it stood in is not the same any more. */
	if (b->reserved && b->changes != changes_of(b))
		lb_budget_return(b);
	if (b->reserved)
		return now >= b->start_ns ? b->reserved : 0;
	for (unsigned int i = 0; i < LB_BUDGET_BUCKETS; i++) {
		uint64_t one = lb_bucket_credit(b->bucket[i], now);

		if (one < credit)
			credit = one;
	}
	if (credit == UINT64_MAX)
		return credit;
	/* Not crumb by crumb. */
	turn = lb_budget_turn(b, now);
	return credit >= turn ? turn : 0;
}

uint32_t lb_budget_reserve(struct lb_budget *b, uint32_t waiting, uint64_t now)
{
	uint32_t turn = lb_budget_turn(b, now), bytes = waiting < turn ? waiting : turn;

	b->changes = changes_of(b);
	b->start_ns = 0;
	for (unsigned int i = 0; i < LB_BUDGET_BUCKETS; i++) {
		uint64_t start = lb_bucket_reserve(b->bucket[i], bytes, now, &b->price[i]);

		if (start > b->start_ns)
			b->start_ns = start;
	}
	b->reserved = bytes;
	if (now >= b->start_ns)
		return bytes;
	b->waits++;
	b->waited_ns += b->start_ns - now;
	return 0;
}

uint64_t lb_budget_wait_ns(const struct lb_budget *b, uint64_t now)
{
	return b && b->reserved && b->start_ns > now ? b->start_ns - now : 0;
}

static void give_back(struct lb_budget *b, uint32_t bytes)
{
	for (unsigned int i = 0; i < LB_BUDGET_BUCKETS; i++)
		lb_bucket_give_back(b->bucket[i], bytes, b->price[i]);
}

void lb_budget_charge(struct lb_budget *b, uint64_t bytes, uint64_t now)
{
	if (!b)
		return;
	b->last = (uint32_t)bytes;
	if (bytes < b->reserved)
		give_back(b, b->reserved - (uint32_t)bytes);
	bytes -= bytes < b->reserved ? bytes : b->reserved;
	b->reserved = 0;
	for (unsigned int i = 0; bytes && i < LB_BUDGET_BUCKETS; i++)
		lb_bucket_charge(b->bucket[i], (uint32_t)bytes, now);
}

void lb_budget_return(struct lb_budget *b)
{
	if (!b || !b->reserved)
		return;
	give_back(b, b->reserved);
	b->reserved = 0;
}

uint64_t lb_budget_rate(const struct lb_budget *b)
{
	uint64_t least = 0;

	for (unsigned int i = 0; b && i < LB_BUDGET_BUCKETS; i++) {
		uint64_t rate = rate_of(b->bucket[i]);

		if (rate && (!least || rate < least))
			least = rate;
	}
	return least;
}
