/* SPDX-License-Identifier: MIT */
/*
 * version: decides from uname(2) whether a redirected stream can be trusted. It must never be the
 * only judge: distributions backport as they please, so the self-test has the last word for "yes".
 */
#include "kernel/version.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/*
 * skmsg: "bpf, sockmap: fix duplicated data transmission" and "Fix data lost during EAGAIN
 * retries". A stable series that is not listed ended before it could receive them.
 */
static const struct lb_version fixed_in_series[] = {
	{6, 1, 142},
	{6, 6, 95},
	{6, 12, 35},
};

static const struct lb_version fixed_in_mainline = {6, 16, 0};

/* Reads digits; NULL when there are none or they are absurd. */
static const char *parse_number(const char *s, unsigned int *ret)
{
	unsigned long n;
	char *end;

	if (!isdigit((unsigned char)*s))
		return NULL;
	n = strtoul(s, &end, 10);
	if (n > 100000)
		return NULL;
	*ret = (unsigned int)n;
	return end;
}

/* "6.1", "6.1.192-1", "6.6.87.2-x": the first two or three numbers. */
static int parse_dotted(const char *s, struct lb_version *ret)
{
	struct lb_version v = {};
	const char *p;

	p = parse_number(s, &v.major);
	if (!p || *p != '.')
		return -EINVAL;
	p = parse_number(p + 1, &v.minor);
	if (!p)
		return -EINVAL;
	if (*p == '.' && isdigit((unsigned char)p[1]) && !parse_number(p + 1, &v.patch))
		return -EINVAL;
	*ret = v;
	return 0;
}

/* "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-01-01)"; derivatives add an epoch, "1:6.12.47". */
static int parse_debian(const char *build, struct lb_version *ret)
{
	static const char mark[] = "Debian ";
	const char *p = strstr(build, mark);
	size_t epoch;

	if (!p)
		return -EINVAL;
	p += sizeof(mark) - 1;
	epoch = strspn(p, "0123456789");
	if (epoch && p[epoch] == ':')
		p += epoch + 1;
	return parse_dotted(p, ret);
}

int lb_version_parse(const char *release, const char *build, struct lb_version *ret)
{
	struct lb_version v, debian;
	int r;

	r = parse_dotted(release, &v);
	if (r)
		return r;
	/* Only as a finer reading of the same series: a hand-built kernel may carry any text. */
	if (!parse_debian(build, &debian) && debian.major == v.major && debian.minor == v.minor)
		v = debian;
	*ret = v;
	return 0;
}

static bool same_series(const struct lb_version *a, const struct lb_version *b)
{
	return a->major == b->major && a->minor == b->minor;
}

bool lb_version_keeps_streams(const struct lb_version *v)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(fixed_in_series); i++)
		if (same_series(v, &fixed_in_series[i]))
			return v->patch >= fixed_in_series[i].patch;
	if (v->major != fixed_in_mainline.major)
		return v->major > fixed_in_mainline.major;
	return v->minor >= fixed_in_mainline.minor;
}
