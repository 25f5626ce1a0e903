/* SPDX-License-Identifier: MIT */
/*
 * What the traffic itself tells of a backend: `failures` of its flows within `window_ms` take it
 * out for `eject_ms`, twice as long each further time in a row, 64 times at most. After it has come
 * back and been well for as long as it was out, the count begins anew. Who may be taken out at all
 * is not decided here.
 *
 *        IN --failures--> (asks to be out) --lb_passive_eject()--> OUT --time--> IN
 *
 * Knows no descriptor and no clock; the owner's thread.
 */
#ifndef LB_BACKEND_PASSIVE_HEALTH_H
#define LB_BACKEND_PASSIVE_HEALTH_H

#include "config/config.h"

struct lb_passive {
	uint64_t *at_ms; /* of the last <failures> failures, a ring; owned */
	uint32_t next;   /* the oldest of them */
	bool out;
	uint64_t until_ms; /* out: comes back then; in: the count begins anew then */
	uint32_t times;    /* it has been out in a row */
};

/* 0 or -ENOMEM. */
int lb_passive_init(struct lb_passive *p, const struct lb_passive_health_config *config);
void lb_passive_fini(struct lb_passive *p);

/* <n> flows have failed at <now_ms>. True when it should go out. */
bool lb_passive_note(struct lb_passive *p, const struct lb_passive_health_config *config,
		     uint32_t n, uint64_t now_ms);
/* It goes out. Returns for how long, ms. */
uint64_t lb_passive_eject(struct lb_passive *p, const struct lb_passive_health_config *config,
			  uint64_t now_ms);
/* It is out until then, for the <times>th time in a row: as another daemon has decided. */
void lb_passive_restore(struct lb_passive *p, uint32_t times, uint64_t until_ms);
/* It is in again; what was before is forgotten, but for how often. */
void lb_passive_return(struct lb_passive *p, const struct lb_passive_health_config *config,
		       uint64_t now_ms);

/* How many of <total> backends may be out at once: never all of them. */
uint32_t lb_passive_most(const struct lb_passive_health_config *config, uint32_t total);

#endif
