/* SPDX-License-Identifier: MIT */
/* See backend_row.h. */
#include "control/backend_row.h"

#include <inttypes.h>
#include <stdio.h>

#include "control/backend_state.h"
#include "flow/env.h"

static json_int_t read_count(const uint64_t *counter)
{
	return (json_int_t)__atomic_load_n(counter, __ATOMIC_RELAXED);
}

json_t *lb_backend_row(const struct lb_rule *rule, const struct lb_backend *b)
{
	const struct lb_backend_counts *c = &b->counts;
	char addr[LB_ADDR_STR_MAX], state[LB_BACKEND_STATE_MAX], id[24];
	uint8_t out = __atomic_load_n(&b->out, __ATOMIC_RELAXED);

	/* What tells two of one address apart. */
	(void)snprintf(id, sizeof(id), "%" PRIu64, b->id);
	return json_pack(
		"{s:s,s:s,s:s?,s:s,s:s,s:s,s:b,s:b,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "id", id,
		"rule", rule->config->name, "of", rule->of ? rule->of->config->name : NULL,
		"backend", b->config->addr, "address", lb_addr_format(&b->addr, addr), "state",
		lb_backend_state_format(out, state), "eligible", !out, "backup", b->backup,
		"weight", (json_int_t)(b->whole_weight / LB_WEIGHT_UNIT), "flows",
		read_count(&b->active), "limit", (json_int_t)b->limit, "connections",
		read_count(&c->connections), "connect_failures", read_count(&c->connect_failures),
		"checks", read_count(&c->checks), "check_failures", read_count(&c->check_failures),
		"bytes_up", read_count(&c->bytes[0]), "bytes_down", read_count(&c->bytes[1]));
}
