/* SPDX-License-Identifier: MIT */
/* Which kernel runs, and whether its sockmap redirect is known to keep streams intact. Pure. */
#ifndef LB_KERNEL_VERSION_H
#define LB_KERNEL_VERSION_H

#include <stdbool.h>

struct lb_version {
	unsigned int major;
	unsigned int minor;
	unsigned int patch;
};

/*
 * <release> and <build> are the two fields of uname(2). The release decides, except that Debian
 * keeps "6.1.0" there for the life of a release and names the real one in <build>. A missing patch
 * level is 0. 0, or -EINVAL with *ret untouched when <release> does not start with a version.
 */
int lb_version_parse(const char *release, const char *build, struct lb_version *ret);

/*
 * True when this version has the fix for "partial send to a full socket is sent twice" (mainline
 * 6.16 and the stable series it reached). Distributions that backport it alone are not recognised.
 */
bool lb_version_keeps_streams(const struct lb_version *v);

#endif
