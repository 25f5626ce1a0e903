/* SPDX-License-Identifier: MIT */
/* probe: from what was found to the word and the sentence the operator reads. */
#include "kernel/probe.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"

#define ALL (LB_PROBE_CAP_BPF | LB_PROBE_CAP_NET_ADMIN | LB_PROBE_CAP_PERFMON)

static struct lb_probe sound(void)
{
	return (struct lb_probe){
		.release = "6.18.0",
		.version = {6, 18, 0},
		.version_known = true,
		.caps = ALL,
		.btf = true,
	};
}

static void expect(const struct lb_probe *p, enum lb_why why, const char *word)
{
	char detail[256] = "stale";

	assert_int_equal(lb_probe_judge(p, detail, sizeof(detail)), why);
	if (!word)
		assert_string_equal(detail, "");
	else if (!strstr(detail, word))
		fail_msg("\"%s\" does not say \"%s\"", detail, word);
}

static void a_sound_kernel_has_nothing_to_say(void **state)
{
	struct lb_probe p = sound();

	expect(&p, LB_WHY_NONE, NULL);
}

static void every_missing_capability_is_named_and_no_other(void **state)
{
	static const struct {
		unsigned int caps;
		const char *detail;
	} cases[] = {
		{0, "missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON"},
		{LB_PROBE_CAP_BPF, "missing CAP_NET_ADMIN, CAP_PERFMON"},
		{ALL & ~LB_PROBE_CAP_BPF, "missing CAP_BPF"},
		{ALL & ~LB_PROBE_CAP_NET_ADMIN, "missing CAP_NET_ADMIN"},
		{ALL & ~LB_PROBE_CAP_PERFMON, "missing CAP_PERFMON"},
	};

	for (size_t i = 0; i < LB_ARRAY_SIZE(cases); i++) {
		struct lb_probe p = sound();
		char detail[256];

		p.caps = cases[i].caps;
		assert_int_equal(lb_probe_judge(&p, detail, sizeof(detail)), LB_WHY_NO_CAP);
		assert_string_equal(detail, cases[i].detail);
	}
}

static void sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin(void **state)
{
	struct lb_probe p = sound();

	p.caps = LB_PROBE_CAP_SYS_ADMIN | LB_PROBE_CAP_NET_ADMIN;
	expect(&p, LB_WHY_NONE, NULL);
	p.caps = LB_PROBE_CAP_SYS_ADMIN;
	expect(&p, LB_WHY_NO_CAP, "CAP_NET_ADMIN");
}

static void an_old_kernel_is_named_with_the_cure(void **state)
{
	struct lb_probe p = sound();

	p.version = (struct lb_version){6, 1, 140};
	expect(&p, LB_WHY_KERNEL_OLD, "6.1.140");
	expect(&p, LB_WHY_KERNEL_OLD, "6.1.142");
}

static void an_unreadable_version_is_not_trusted(void **state)
{
	struct lb_probe p = sound();

	p.version_known = false;
	strcpy(p.release, "garden");
	expect(&p, LB_WHY_KERNEL_OLD, "garden");
}

static void refused_although_capable_points_at_the_sandbox(void **state)
{
	struct lb_probe p = sound();

	p.bpf_errno = EPERM;
	expect(&p, LB_WHY_NO_CAP, "seccomp");
	p.bpf_errno = EACCES;
	expect(&p, LB_WHY_NO_CAP, "seccomp");
}

static void a_kernel_without_bpf_or_btf_is_a_load_failure(void **state)
{
	struct lb_probe p = sound();

	p.bpf_errno = ENOSYS;
	expect(&p, LB_WHY_LOAD, "without bpf(2)");
	p.bpf_errno = ENOMEM;
	expect(&p, LB_WHY_LOAD, "Cannot allocate memory");
	p.bpf_errno = 0;
	p.btf = false;
	expect(&p, LB_WHY_LOAD, "CONFIG_DEBUG_INFO_BTF");
}

/* Whoever lacks the rights cannot act on the rest. */
static void rights_come_before_everything_else(void **state)
{
	struct lb_probe p = {.release = "5.4.0", .version = {5, 4, 0}, .version_known = true};

	p.bpf_errno = EPERM;
	expect(&p, LB_WHY_NO_CAP, "missing CAP_BPF");
}

static void names_are_cut_where_the_buffer_ends(void **state)
{
	char buf[10];

	assert_string_equal(lb_probe_cap_names(ALL, buf, sizeof(buf)), "CAP_BPF, ");
	assert_string_equal(lb_probe_cap_names(0, buf, sizeof(buf)), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_sound_kernel_has_nothing_to_say),
		cmocka_unit_test(every_missing_capability_is_named_and_no_other),
		cmocka_unit_test(sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin),
		cmocka_unit_test(an_old_kernel_is_named_with_the_cure),
		cmocka_unit_test(an_unreadable_version_is_not_trusted),
		cmocka_unit_test(refused_although_capable_points_at_the_sandbox),
		cmocka_unit_test(a_kernel_without_bpf_or_btf_is_a_load_failure),
		cmocka_unit_test(rights_come_before_everything_else),
		cmocka_unit_test(names_are_cut_where_the_buffer_ends),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
