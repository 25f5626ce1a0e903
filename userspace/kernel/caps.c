/* SPDX-License-Identifier: MIT */
/*
 * caps: decides which rights the daemon keeps for the rest of its life. It must never report
 * success while more is left than was asked for.
 */
#include "kernel/kernel.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/prctl.h>

#include <cap-ng.h>

#include "base/cleanup.h"

static const unsigned int kept[] = {
	CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON,
	CAP_NET_BIND_SERVICE, /* a reload may bring a listener below 1024 */
};

static bool is_kept(unsigned int cap)
{
	for (size_t i = 0; i < LB_ARRAY_SIZE(kept); i++)
		if (kept[i] == cap)
			return true;
	return false;
}

void lb_kernel_raise_privileges(void)
{
	if (capng_get_caps_process())
		return;
	for (size_t i = 0; i < LB_ARRAY_SIZE(kept); i++)
		if (capng_have_capability(CAPNG_PERMITTED, kept[i]))
			(void)capng_update(CAPNG_ADD, CAPNG_EFFECTIVE, kept[i]);
	/* What is not there is told of by the probe. */
	(void)capng_apply(CAPNG_SELECT_CAPS);
}

/* Of the permitted set, whatever was effective. */
static int choose(void)
{
	bool have[LB_ARRAY_SIZE(kept)];

	for (size_t i = 0; i < LB_ARRAY_SIZE(kept); i++)
		have[i] = capng_have_capability(CAPNG_PERMITTED, kept[i]);
	capng_clear(CAPNG_SELECT_ALL);
	for (size_t i = 0; i < LB_ARRAY_SIZE(kept); i++)
		if (have[i] &&
		    capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_BOUNDING_SET,
				 kept[i]))
			return -EINVAL;
	return 0;
}

/* libcap-ng reports partial success in many ways; the kernel's own answer is the simpler one. */
static int verify(bool bounding)
{
	if (capng_get_caps_process())
		return -EPERM;
	for (unsigned int cap = 0; cap <= CAP_LAST_CAP; cap++) {
		if (is_kept(cap))
			continue;
		if (capng_have_capability(CAPNG_PERMITTED, cap) ||
		    capng_have_capability(CAPNG_INHERITABLE, cap) ||
		    capng_have_capability(CAPNG_AMBIENT, cap) ||
		    (bounding && capng_have_capability(CAPNG_BOUNDING_SET, cap)))
			return -EPERM;
	}
	return 0;
}

int lb_kernel_drop_privileges(void)
{
	bool bounding;
	int r;

	/* From here on an exec gains nothing, whatever the bounding set says. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	if (capng_get_caps_process())
		return -EPERM;
	/* Only with CAP_SETPCAP can the bounding set be cut; without it there was little to cut. */
	bounding = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
	r = choose();
	if (r)
		return r;
	if (capng_apply(bounding ? CAPNG_SELECT_ALL : CAPNG_SELECT_CAPS | CAPNG_SELECT_AMBIENT))
		return -EPERM;
	return verify(bounding);
}
