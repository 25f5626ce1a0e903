/* SPDX-License-Identifier: MIT */
/*
 * Host names that stand for backends: when they are looked up, and which addresses they stand for.
 *
 *            an answer                          its time to live, interval_ms at most
 *   ASKING ------------> addresses, in a set ---------------------------------------> ASKING
 *          ------------> the last ones stay  ---------------------------------------> ASKING
 *            no answer                          RETRY_MS, interval_ms at most
 *
 * A set is compared, not an order: name servers rotate. Of `addresses: first` the one that is in
 * use stays while the answer has it. At most LB_NAME_LOOKUPS_MAX are looked up at a time.
 *
 * The loop's thread only, or before it runs. Knows no pool and no rule.
 */
#ifndef LB_BACKEND_NAME_H
#define LB_BACKEND_NAME_H

#include "backend/resolve.h"

#define LB_NAME_LOOKUPS_MAX 32u

struct lb_names;
struct lb_name;

/* What an answer has changed. */
enum lb_name_event {
	LB_NAME_CHANGED,   /* the addresses are others now */
	LB_NAME_FAILED,    /* no answer, the first one after good ones or the start */
	LB_NAME_RECOVERED, /* an answer again; CHANGED follows if the addresses are others */
};

struct lb_names_opts {
	struct lb_loop *loop;
	/* <cause> when FAILED. From the loop; must not remove a name. */
	void (*event)(void *owner, enum lb_name_event event, const char *cause);
	/* Told of the end of each look-up, after its events; must not remove a name either. */
	void (*asked)(void *owner, bool good);
};

/* 0 or -ENOMEM. */
int lb_names_new(struct lb_names **ret, const struct lb_names_opts *opts);
/* Ends all. NULL is fine. */
void lb_names_free(struct lb_names **names);

/* <host> must outlive the name. It has no addresses and is looked up in the next turn. 0 or
 * -ENOMEM. */
int lb_name_add(struct lb_names *names, const char *host, uint16_t port,
		const struct lb_resolve_config *config, void *owner, struct lb_name **ret);
/* No event comes any more. NULL inside is fine. */
void lb_name_remove(struct lb_name **pn);
/* Somebody else's now, and looked up as <config> says: which may differ in its times only. */
void lb_name_move(struct lb_name *n, void *owner, const struct lb_resolve_config *config);
/* In an order of their own, which says nothing; valid until the next event. */
uint32_t lb_name_addresses(const struct lb_name *n, const struct lb_addr **ret);

#endif
