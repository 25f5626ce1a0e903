/* SPDX-License-Identifier: MIT */
/* What this kernel and this process may do, before anything is loaded. */
#ifndef LB_KERNEL_PROBE_H
#define LB_KERNEL_PROBE_H

#include <stdbool.h>
#include <stddef.h>

#include "kernel/kernel.h"
#include "kernel/version.h"

/* Rights the sockmap carrier needs: bits of lb_probe.caps. */
enum lb_probe_cap {
	LB_PROBE_CAP_BPF = 1 << 0,
	LB_PROBE_CAP_NET_ADMIN = 1 << 1,
	LB_PROBE_CAP_PERFMON = 1 << 2,
	LB_PROBE_CAP_SYS_ADMIN = 1 << 3, /* contains BPF and PERFMON */
};

struct lb_probe {
	char release[65]; /* as uname -r prints it */
	struct lb_version version;
	bool version_known;
	unsigned int caps; /* effective, enum lb_probe_cap */
	int bpf_errno;     /* 0, or how bpf(2) refused to make a one-element array */
	bool btf;          /* the kernel describes its own types */
};

/* Looks; leaves nothing behind. Always fills *ret. */
void lb_probe_run(struct lb_probe *ret);

/* Pure: LB_WHY_NONE, or why there is no sockmap, with a sentence in <detail>. */
enum lb_why lb_probe_judge(const struct lb_probe *p, char *detail, size_t size);

/*
 * Looks and judges for programs that need less than sockmap's: what only that needs counts as
 * there. If this kernel is good enough, the load will tell.
 */
enum lb_why lb_probe_for_load(char *detail, size_t size);

/* Pure: the capabilities are enough, whether or not bpf(2) then agrees. */
bool lb_probe_may_use_bpf(const struct lb_probe *p);

/* Writes the names of <set> (enum lb_probe_cap), "CAP_BPF, CAP_PERFMON", into buf. Returns buf. */
const char *lb_probe_cap_names(unsigned int set, char *buf, size_t size);

#endif
