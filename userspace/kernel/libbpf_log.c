/* SPDX-License-Identifier: MIT */
/*
 * libbpf_log: libbpf warns about things that are normal for us (a kernel without BPF rights is a
 * supported kernel), so its warnings are our information and its information is our debug output.
 * Its own debug output is dropped. It must never decide anything.
 */
#include "kernel/libbpf_log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <bpf/libbpf.h>
#include <xdp/libxdp.h>

#include "base/log.h"

static __thread char first_warning[256];
static __thread bool quiet_now;

static int print(enum libbpf_print_level level, const char *fmt, va_list args)
{
	char line[512];

	if (level == LIBBPF_DEBUG)
		return 0;
	vsnprintf(line, sizeof(line), fmt, args);
	line[strcspn(line, "\n")] = '\0';
	if (level == LIBBPF_WARN) {
		/* What follows the first only tells which steps failed because of it. */
		if (!first_warning[0])
			snprintf(first_warning, sizeof(first_warning), "%.255s", line);
		if (quiet_now)
			lb_debug("%s", line);
		else
			lb_info("%s", line);
	} else {
		lb_debug("%s", line);
	}
	return 0;
}

void lb_libbpf_log_start(void)
{
	first_warning[0] = '\0';
	libbpf_set_print(print);
}

static int print_xdp(enum libxdp_print_level level, const char *fmt, va_list args)
{
	return print(level == LIBXDP_WARN ? LIBBPF_WARN : LIBBPF_DEBUG, fmt, args);
}

void lb_libbpf_log_quiet(bool quiet)
{
	quiet_now = quiet;
	libxdp_set_print(print_xdp);
}

const char *lb_libbpf_log_cause(void)
{
	return first_warning;
}
