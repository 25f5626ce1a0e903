/* SPDX-License-Identifier: MIT */
/*
 * Names to addresses, one look-up at a time, without blocking anybody. The loop's thread only.
 *
 * By c-ares, in the loop: getaddrinfo(3) blocks for as long as a name server is silent, so it would
 * need a thread for each look-up that hangs, which nothing can end (getaddrinfo_a(3) is just that),
 * and it does not tell how long an answer may be believed. The price: names come from /etc/hosts
 * and DNS in the order of nsswitch.conf, by /etc/resolv.conf; its other modules are not asked. All
 * of these files are read anew for each look-up.
 */
#ifndef LB_BACKEND_RESOLVE_H
#define LB_BACKEND_RESOLVE_H

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "config/config.h"
#include "loop/loop.h"

/* Of an answer with more the rest is ignored, whatever the order it comes in. */
#define LB_RESOLVE_MAX 256u

struct lb_resolve;

struct lb_resolve_answer {
	const char *cause; /* NULL: there are addresses; else why not, in a few words */
	/* Best first (RFC 6724), none twice, with the port that was asked for. */
	const struct lb_addr *addrs;
	uint32_t count;
	uint32_t ttl_s; /* the answer's; 0: it does not say, or wants to be asked each time */
};

struct lb_resolve_ask {
	struct lb_loop *loop;
	const char *host; /* borrowed until the answer */
	uint16_t port;
	struct lb_resolve_config config;
	/* Called once, never from within lb_resolve_start(). The look-up is over by then. */
	void (*done)(void *arg, const struct lb_resolve_answer *answer);
	void *arg;
};

/* Before any look-up, once. 0 or -ENOMEM. */
int lb_resolve_init(void);
/* 0 or -errno, and <done> is not called then. */
int lb_resolve_start(struct lb_resolve **ret, const struct lb_resolve_ask *ask);
/* No answer comes any more. NULL inside is fine. */
void lb_resolve_cancel(struct lb_resolve **pr);

#endif
