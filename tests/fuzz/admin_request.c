/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a request to the admin socket: what is taken is within its ranges and points into
 * the request, what is refused comes with a sentence.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/admin_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

/* The carriers' names are all that is wanted of them. */
const struct lb_carrier lb_relay = {.name = "relay", .id = LB_CARRIER_RELAY};
const struct lb_carrier lb_sockmap = {.name = "sockmap", .id = LB_CARRIER_SOCKMAP};
const struct lb_carrier lb_graft = {.name = "graft", .id = LB_CARRIER_GRAFT};

static int is_inside(const struct lb_admin_request *r, const char *text)
{
	return !text || (text >= r->text && text <= r->text + LB_ADMIN_LINE_MAX && *text &&
			 memchr(text, 0, (size_t)(r->text + sizeof(r->text) - text)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char why[LB_ADMIN_WHY_MAX] = "";
	struct lb_admin_request r;

	if (lb_admin_request_parse(&r, (const char *)data, size, why)) {
		demand(*why && memchr(why, 0, sizeof(why)));
		return 0;
	}
	demand(r.verb < LB_ADMIN_VERB_MAX_ && size <= LB_ADMIN_LINE_MAX + 1);
	demand(is_inside(&r, r.rule) && is_inside(&r, r.backend));
	demand(r.limit >= 1 && r.limit <= LB_ADMIN_FLOWS_MAX && r.over_ms <= 10000);
	demand(r.sort <= LB_ADMIN_SORT_BACKLOG && r.carrier < LB_CARRIER_MAX_);
	demand(r.verb != LB_ADMIN_WEIGHT || (r.weight >= 1 && r.weight <= 256));
	demand(r.verb != LB_ADMIN_DRAIN || (r.rule && r.backend));
	demand(r.level <= LB_LOG_DEBUG);
	if (r.by_client)
		demand(r.client.bits <= (r.client.family == AF_INET ? 32 : 128));
	return 0;
}
