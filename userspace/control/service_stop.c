/* SPDX-License-Identifier: MIT */
/* Decides what comes to rest first, and how the end is told. See service.h. */
#include <inttypes.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "control/admin.h"
#include "control/admission.h"
#include "control/backends.h"
#include "control/service_parts.h"
#include "worker.h"

void lb_service_halt(struct lb_service *s)
{
	lb_admin_close(&s->admin);
	lb_backends_stop(s->backends);
	lb_admission_stop(s->admission);
	/* The one with the keeper last: the others may still have work for it. */
	for (uint32_t i = s->workers ? s->workers_count : 0; i-- > 0;)
		if (s->workers[i])
			lb_worker_stop(s->workers[i]);
}

struct lb_ends lb_service_ends(const struct lb_service *s)
{
	struct lb_ends sum = {0};

	for (uint32_t i = 0; i < s->workers_count; i++)
		lb_account_add_ends(&sum, &s->envs[i]->ends);
	return sum;
}

bool lb_service_tell_ends(const struct lb_ends *before, const struct lb_ends *after, char *text,
			  size_t size)
{
	const char *const names[] = {lb_relay.name, lb_sockmap.name, lb_graft.name,
				     "not yet carried"};
	uint64_t all = after->all - before->all, sum = 0;
	char by[192] = ""; /* four names and numbers fit */
	size_t at = 0;

	_Static_assert(LB_ARRAY_SIZE(names) == LB_ARRAY_SIZE(after->cut), "one for each");
	for (size_t i = 0; i < LB_ARRAY_SIZE(names); i++) {
		uint64_t n = after->cut[i] - before->cut[i];

		sum += n;
		if (n)
			at += (size_t)snprintf(by + at, sizeof(by) - at, "%s%s %" PRIu64,
					       at ? ", " : " (", names[i], n);
	}
	snprintf(text, size,
		 "of %" PRIu64 " flows %" PRIu64 " ended by themselves, %" PRIu64 " were cut%s%s",
		 all, all - sum, sum, by, sum ? ")" : "");
	return !sum;
}
