/* SPDX-License-Identifier: MIT */
/*
 * report: `layer4-lb --selftest`. Prints what each step of lb_kernel_open() finds, one line each,
 * and goes on where the daemon would stop, so that one run shows everything that is missing. It
 * must never touch pins: a daemon may be running.
 */
#include "kernel/kernel.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>

#include <linux/magic.h>

#include "base/log.h"
#include "kernel/graft_load.h"
#include "kernel/load.h"
#include "kernel/pin.h"
#include "kernel/probe.h"
#include "kernel/selftest.h"

/* CONTRACT: 3 means that the system refused something. */
#define EXIT_REFUSED 3

static void __attribute__((format(printf, 3, 4)))
line(const char *what, bool good, const char *fmt, ...)
{
	va_list args;

	printf("  %-14s %-4s ", what, good ? "yes" : "no");
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

static void print_probe(const struct lb_probe *p)
{
	char names[64];

	line("kernel", p->version_known && lb_version_keeps_streams(&p->version),
	     "%s, that is %u.%u.%u (wanted: 6.16, 6.12.35, 6.6.95 or 6.1.142)", p->release,
	     p->version.major, p->version.minor, p->version.patch);
	line("BTF", p->btf, "/sys/kernel/btf/vmlinux");
	lb_probe_cap_names(p->caps, names, sizeof(names));
	line("capabilities", lb_probe_may_use_bpf(p), "%s", names[0] ? names : "none of ours");
	line("bpf(2)", !p->bpf_errno, "%s", p->bpf_errno ? strerror(p->bpf_errno) : "makes a map");
}

static bool print_load(void)
{
	struct lb_load load;
	char detail[256];
	bool good = !lb_load_open(&load, 1, 1, 1, detail, sizeof(detail));

	line("program", good, "%s", good ? "sk_verdict passes the verifier" : detail);
	if (good)
		lb_load_close(&load);
	return good;
}

/* Whatever keeps sockmap out of service says nothing about this. */
static void print_graft(void)
{
	struct lb_graft_load load;
	char detail[256];
	bool good = !lb_graft_load_open(&load, 1, NULL, detail, sizeof(detail));

	line("graft", good, "%s", good ? "tc_graft passes the verifier" : detail);
	if (good)
		lb_graft_load_close(&load);
}

static bool print_redirect(void)
{
	struct lb_selftest test;
	bool good = !lb_selftest_run(0, LB_SELFTEST_HONEST, &test);

	if (good)
		line("redirect", good,
		     "%u bytes through a stalled sink arrived as they were sent (%.1f ms)",
		     LB_SELFTEST_BYTES, test.ms);
	else
		line("redirect", good, "%s (%.1f ms)", test.detail, test.ms);
	return good;
}

static void print_pins(void)
{
	struct statfs fs;
	bool good = !statfs(LB_PIN_ROOT, &fs) && fs.f_type == BPF_FS_MAGIC;

	line("pins", good, "%s",
	     good ? LB_PIN_ROOT " is a BPF file system"
		  : LB_PIN_ROOT " is no BPF file system; the daemon will try to mount one");
}

int lb_kernel_print_selftest(void)
{
	enum lb_log_level level = lb_log_get_level();
	struct lb_probe probe;
	char detail[256];
	enum lb_why why;

	/* What libbpf has to say stands in the list already. */
	lb_log_set_level(LB_LOG_ERROR);
	puts("What this kernel can do:");
	lb_probe_run(&probe);
	print_probe(&probe);
	why = lb_probe_judge(&probe, detail, sizeof(detail));
	if (!print_load() && why == LB_WHY_NONE)
		why = LB_WHY_LOAD;
	if (!print_redirect() && why == LB_WHY_NONE)
		why = LB_WHY_SELFTEST;
	print_graft();
	print_pins();
	lb_log_set_level(level);
	if (why == LB_WHY_NONE) {
		puts("In service: sockmap, relay");
		return 0;
	}
	printf("In service: relay (%s: %s)\n", lb_why_word(why), lb_why_help(why));
	return EXIT_REFUSED;
}
