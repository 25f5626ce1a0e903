/* SPDX-License-Identifier: MIT */
/* See handshake_row.h. */
#include "flow/handshake_row.h"

/* A loop with somebody in the row does not sleep: all the time between two turns was work. */
static void begin_turn(struct lb_handshake_row *r, uint64_t turn_ns)
{
	uint64_t took_ns = turn_ns - r->turn_ns;

	r->others_ns = r->waiting && took_ns > r->spent_ns ? took_ns - r->spent_ns : 0;
	r->turn_ns = turn_ns;
	r->spent_ns = 0;
	r->steps = 0;
}

bool lb_handshake_row_may_step(struct lb_handshake_row *r, uint64_t turn_ns, bool waits)
{
	if (r->turn_ns != turn_ns)
		begin_turn(r, turn_ns);
	if (r->waiting && !waits)
		return false;
	return r->steps < LB_HANDSHAKE_STEPS || r->spent_ns < r->others_ns;
}

void lb_handshake_row_stepped(struct lb_handshake_row *r, uint64_t ns)
{
	r->steps++;
	r->spent_ns += ns;
}
