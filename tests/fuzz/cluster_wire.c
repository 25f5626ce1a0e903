/* SPDX-License-Identifier: MIT */
/*
 * Any bytes as a datagram of a cluster: what is taken says the same when it is written again, and a
 * membership that hears it twice sends no datagram that is too long.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/member.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define demand(cond) ((cond) ? (void)0 : complain(#cond))

static void complain(const char *what)
{
	fprintf(stderr, "broken promise: %s\n", what);
	abort();
}

static void sent(void *arg, const struct lb_addr *to, const uint8_t *bytes, size_t len)
{
	struct lb_wire_in in;

	demand(len <= LB_WIRE_PLAIN_MAX);
	demand(lb_wire_open(&in, bytes, len) == 0);
	demand(lb_addr_port(to));
}

static void changed(void *arg, const struct lb_member_view *m, enum lb_member_event event)
{
	demand(lb_wire_name_valid(m->name));
}

static void shares(void *arg, uint64_t sender, const uint8_t *bytes, size_t len)
{
	demand(len <= LB_WIRE_BYTES_MAX);
}

static void hear(const uint8_t *data, size_t size)
{
	static const struct lb_member_ops ops = {sent, changed, shares};
	struct lb_member_params p = {
		.self.name = "fuzz", .seed = 1, .period_ms = 1000, .members_max = 4, .ops = &ops};
	struct lb_membership *g;
	struct lb_addr from;

	demand(lb_addr_parse("127.0.0.1:7946", &p.self.addr) == 0);
	demand(lb_addr_parse("127.0.0.2:7946", &from) == 0);
	demand(lb_member_new(&g, &p, 0) == 0);
	for (uint64_t now = 0; now < 4000000; now += 500000) {
		if (now < 1000000)
			lb_member_receive(g, now, &from, data, size);
		lb_member_run(g, now);
	}
	demand(lb_member_alive(g) >= 1 && lb_member_alive(g) <= 4);
	lb_member_free(&g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct lb_wire_in in;
	struct lb_wire_update u;

	hear(data, size);
	if (lb_wire_open(&in, data, size))
		return 0;
	demand(in.head.sender && in.head.kind < LB_WIRE_KINDS);
	while (lb_wire_next_update(&in, &u)) {
		struct lb_wire_head head = {.kind = LB_WIRE_GOSSIP, .sender = 1};
		struct lb_wire_out out;
		struct lb_wire_in again;
		struct lb_wire_update same;

		lb_wire_begin(&out, &head);
		demand(lb_wire_add_update(&out, &u));
		demand(lb_wire_open(&again, out.bytes, out.len) == 0);
		demand(lb_wire_next_update(&again, &same));
		demand(same.id == u.id && same.incarnation == u.incarnation);
		demand(same.state == u.state && same.has_identity == u.has_identity);
		demand(same.accusers_count == u.accusers_count);
	}
	return 0;
}
