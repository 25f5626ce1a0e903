/* SPDX-License-Identifier: MIT */
/*
 * Whose turn it is to make a step of a TLS handshake. A step costs a hundred times what a relayed
 * message costs: in one turn of the loop only a few are made, or as many as take no longer than all
 * else took in the turn before; the rest waits in a row, and established flows go on in between.
 * So neither starves the other: each gets half of a worker that has too much to do.
 *
 * Of one worker; its thread.
 */
#ifndef LB_FLOW_HANDSHAKE_ROW_H
#define LB_FLOW_HANDSHAKE_ROW_H

#include <stdbool.h>
#include <stdint.h>

#define LB_HANDSHAKE_STEPS 8 /* in any turn */

struct lb_handshake_row {
	uint64_t turn_ns;   /* the last turn in which somebody asked */
	uint64_t others_ns; /* what the turn before that took beside steps, when somebody waited */
	uint64_t spent_ns;  /* on the steps of that turn */
	uint32_t steps;
	uint32_t waiting;
};

/*
 * Whether a step may be made in the turn that began at <turn_ns>. <waits>: it comes from the row;
 * whoever does not is behind all who wait.
 */
bool lb_handshake_row_may_step(struct lb_handshake_row *r, uint64_t turn_ns, bool waits);
/* It was made, and took <ns>. */
void lb_handshake_row_stepped(struct lb_handshake_row *r, uint64_t ns);

#endif
