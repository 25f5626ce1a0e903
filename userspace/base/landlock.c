/* SPDX-License-Identifier: MIT */
/* See landlock.h. glibc has no wrappers for its calls. */
#include "base/landlock.h"

#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/landlock.h>

#include "base/cleanup.h"

/* The rights of its first version; those of later ones need one of these first. */
#define ALL_FILES ((uint64_t)(LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1)

int lb_landlock_no_files(void)
{
	const struct landlock_ruleset_attr attr = {.handled_access_fs = ALL_FILES};
	LB_AUTO_CLOSE int ruleset =
		(int)syscall(SYS_landlock_create_ruleset, &attr, sizeof(attr.handled_access_fs), 0);

	/* No rule allows anything. */
	if (ruleset < 0 || syscall(SYS_landlock_restrict_self, ruleset, 0))
		return -errno;
	return 0;
}
