/* SPDX-License-Identifier: MIT */
/*
 * Whether a backend is up, by the answers to its checks. Knows no descriptor and no clock; the
 * owner's thread.
 *
 *              `fall` failures in a row
 *        up ---------------------------------> down
 *           <---------------------------------
 *              `rise` good answers in a row
 *
 * The very first answer decides alone, either way: nothing is known before it. Until then a backend
 * is as `initial` says.
 *
 * Answers that disagree with the state are followed up faster, and so is a backend that is down:
 * the change is made within one interval of the first of them.
 */
#ifndef LB_BACKEND_HEALTH_H
#define LB_BACKEND_HEALTH_H

#include "config/config.h"

struct lb_health {
	bool up;
	bool asked;      /* a first answer has come */
	uint32_t streak; /* answers in a row that disagree with <up> */
};

void lb_health_init(struct lb_health *h, const struct lb_health_check_config *config);
/* True when the backend has changed: h->up is new. */
bool lb_health_note(struct lb_health *h, const struct lb_health_check_config *config, bool good);
/* The time to the next check. */
uint64_t lb_health_next_ms(const struct lb_health *h, const struct lb_health_check_config *config);

#endif
