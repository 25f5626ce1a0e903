/* SPDX-License-Identifier: MIT */
/* See descriptors.h. Must never fail: what there is is what there is. */
#include "control/descriptors.h"

#include <sys/resource.h>

uint64_t lb_descriptors_raise(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return 1024;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit))
			(void)getrlimit(RLIMIT_NOFILE, &limit);
	}
	return limit.rlim_cur;
}
