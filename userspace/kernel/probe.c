/* SPDX-License-Identifier: MIT */
/*
 * probe: what this kernel and this process may do: rights, bpf(2), BTF, version. It must never
 * leave anything behind, and never conclude from a version what can be tried.
 */
#include "kernel/probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <cap-ng.h>

#include "base/cleanup.h"
#include "kernel/libbpf_log.h"

static const struct {
	enum lb_probe_cap bit;
	unsigned int capability;
	const char *name;
} caps[] = {
	{LB_PROBE_CAP_BPF, CAP_BPF, "CAP_BPF"},
	{LB_PROBE_CAP_NET_ADMIN, CAP_NET_ADMIN, "CAP_NET_ADMIN"},
	{LB_PROBE_CAP_PERFMON, CAP_PERFMON, "CAP_PERFMON"},
	{LB_PROBE_CAP_SYS_ADMIN, CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
};

#define NEEDED (LB_PROBE_CAP_BPF | LB_PROBE_CAP_NET_ADMIN | LB_PROBE_CAP_PERFMON)

static unsigned int probe_caps(void)
{
	unsigned int found = 0;

	if (capng_get_caps_process())
		return 0;
	for (size_t i = 0; i < LB_ARRAY_SIZE(caps); i++)
		if (capng_have_capability(CAPNG_EFFECTIVE, caps[i].capability))
			found |= caps[i].bit;
	return found;
}

/* Capabilities of a user namespace look real and are not, and seccomp is invisible: so try. */
static int probe_bpf(void)
{
	int fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "lb_probe", sizeof(__u32), sizeof(__u32), 1,
				NULL);

	if (fd < 0)
		return -fd;
	close(fd);
	return 0;
}

static void probe_version(struct lb_probe *p)
{
	struct utsname u;

	if (uname(&u))
		return;
	snprintf(p->release, sizeof(p->release), "%.64s", u.release);
	p->version_known = !lb_version_parse(u.release, u.version, &p->version);
}

void lb_probe_run(struct lb_probe *ret)
{
	lb_libbpf_log_start();
	*ret = (struct lb_probe){};
	probe_version(ret);
	ret->caps = probe_caps();
	ret->bpf_errno = probe_bpf();
	ret->btf = !access("/sys/kernel/btf/vmlinux", R_OK);
}

const char *lb_probe_cap_names(unsigned int set, char *buf, size_t size)
{
	size_t used = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < LB_ARRAY_SIZE(caps) && used < size; i++)
		if (set & caps[i].bit)
			used += (size_t)snprintf(buf + used, size - used, "%s%s", used ? ", " : "",
						 caps[i].name);
	return buf;
}

/* The kernel takes CAP_SYS_ADMIN for CAP_BPF and CAP_PERFMON, and only for these. */
bool lb_probe_may_use_bpf(const struct lb_probe *p)
{
	unsigned int have = p->caps;

	if (have & LB_PROBE_CAP_SYS_ADMIN)
		have |= LB_PROBE_CAP_BPF | LB_PROBE_CAP_PERFMON;
	return (have & NEEDED) == NEEDED;
}

static enum lb_why judge_bpf(int err, char *detail, size_t size)
{
	if (err == ENOSYS) {
		snprintf(detail, size, "this kernel was built without bpf(2)");
		return LB_WHY_LOAD;
	}
	if (err == EPERM || err == EACCES) {
		snprintf(detail, size,
			 "bpf(2) is refused although the capabilities are there: a seccomp filter, "
			 "a security module or a user namespace stands before it");
		return LB_WHY_NO_CAP;
	}
	snprintf(detail, size, "bpf(2) cannot make a map: %s", strerror(err));
	return LB_WHY_LOAD;
}

enum lb_why lb_probe_judge(const struct lb_probe *p, char *detail, size_t size)
{
	char names[64];

	if (!lb_probe_may_use_bpf(p)) {
		snprintf(detail, size, "missing %s",
			 lb_probe_cap_names(NEEDED & ~p->caps, names, sizeof(names)));
		return LB_WHY_NO_CAP;
	}
	if (!p->version_known) {
		snprintf(detail, size, "cannot read a kernel version from \"%s\"", p->release);
		return LB_WHY_KERNEL_OLD;
	}
	if (!lb_version_keeps_streams(&p->version)) {
		snprintf(detail, size,
			 "kernel %u.%u.%u can send redirected bytes twice; fixed in 6.16, 6.12.35, "
			 "6.6.95 and 6.1.142",
			 p->version.major, p->version.minor, p->version.patch);
		return LB_WHY_KERNEL_OLD;
	}
	if (p->bpf_errno)
		return judge_bpf(p->bpf_errno, detail, size);
	if (!p->btf) {
		snprintf(detail, size,
			 "no /sys/kernel/btf/vmlinux: the kernel was built without "
			 "CONFIG_DEBUG_INFO_BTF");
		return LB_WHY_LOAD;
	}
	detail[0] = '\0';
	return LB_WHY_NONE;
}

enum lb_why lb_probe_for_load(char *detail, size_t size)
{
	struct lb_probe probe;

	lb_probe_run(&probe);
	probe.version = (struct lb_version){.major = 6, .minor = 16};
	probe.version_known = probe.btf = true;
	return lb_probe_judge(&probe, detail, size);
}
