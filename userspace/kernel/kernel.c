/* SPDX-License-Identifier: MIT */
/*
 * kernel: decides whether sockmap is in service, in this order: rights and version (cheap, says the
 * most), load, self-test, pins. It must never leave a half: either all of it is in service, or
 * nothing is in the kernel and the report says why.
 */
#include "kernel/kernel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lb/limits.h>

#include "base/cleanup.h"
#include "kernel/handle.h"
#include "kernel/load.h"
#include "kernel/pin.h"
#include "kernel/probe.h"
#include "kernel/selftest.h"

static int refuse(struct lb_kernel_report *report, enum lb_why why, int err)
{
	report->why = why;
	if (!report->detail[0])
		snprintf(report->detail, sizeof(report->detail), "%s", strerror(-err));
	return err;
}

static int step_probe(struct lb_kernel_report *report)
{
	struct lb_probe probe;
	enum lb_why why;

	lb_probe_run(&probe);
	why = lb_probe_judge(&probe, report->detail, sizeof(report->detail));
	if (why == LB_WHY_NONE)
		return 0;
	return refuse(report, why, why == LB_WHY_NO_CAP ? -EPERM : -EOPNOTSUPP);
}

static int step_load(struct lb_kernel *k, uint32_t pairs, const struct lb_kernel_opts *opts,
		     struct lb_kernel_report *report)
{
	uint32_t buckets = opts->buckets < LB_BUCKETS_MAX ? opts->buckets : LB_BUCKETS_MAX;
	int r;

	/* An empty table cannot be made. */
	r = lb_load_open(&k->load, pairs, opts->workers, buckets ? buckets : 1, report->detail,
			 sizeof(report->detail));
	if (!r)
		r = lb_ring_open(k);
	return r ? refuse(report, LB_WHY_LOAD, r) : 0;
}

static int step_selftest(struct lb_kernel_report *report)
{
	struct lb_selftest test;
	int r;

	r = lb_selftest_run(0, LB_SELFTEST_HONEST, &test);
	report->selftest_ran = true;
	report->selftest_ms = test.ms;
	if (!r)
		return 0;
	snprintf(report->detail, sizeof(report->detail), "%s", test.detail);
	return refuse(report, LB_WHY_SELFTEST, r);
}

static int step_pin(struct lb_kernel *k, const char *name, struct lb_kernel_report *report)
{
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];
	size_t count = lb_load_objects(&k->load, objects);
	int r;

	r = lb_pin_open(&k->pin, LB_PIN_ROOT, name, objects, count, report->pin_note,
			sizeof(report->pin_note));
	if (r) {
		snprintf(report->detail, sizeof(report->detail), LB_PIN_ROOT ": %s",
			 report->pin_note);
		return refuse(report, LB_WHY_PINS, r);
	}
	if (k->pin.open)
		snprintf(report->pins, sizeof(report->pins), LB_PIN_ROOT "/%s", name);
	return 0;
}

int lb_kernel_open(struct lb_kernel **ret, const struct lb_kernel_opts *opts,
		   struct lb_kernel_report *report)
{
	uint32_t pairs = opts->pairs < LB_SOCKMAP_PAIRS_MAX ? opts->pairs : LB_SOCKMAP_PAIRS_MAX;
	struct lb_kernel *k;
	char name[LB_PIN_NAME_MAX];
	int r;

	*report = (struct lb_kernel_report){};
	if (!pairs || !opts->workers || opts->workers > LB_WORKERS_MAX)
		return refuse(report, LB_WHY_LOAD, -EINVAL);
	r = lb_pin_name(opts->instance, name);
	if (r) {
		snprintf(report->detail, sizeof(report->detail),
			 "an instance name has 1 to %d letters, digits, '-' and '_'",
			 LB_PIN_INSTANCE_MAX);
		return refuse(report, LB_WHY_PINS, r);
	}
	r = step_probe(report);
	if (r)
		return r;
	k = calloc(1, sizeof(*k));
	if (!k)
		return refuse(report, LB_WHY_LOAD, -ENOMEM);
	r = step_load(k, pairs, opts, report);
	if (!r)
		r = step_selftest(report);
	if (!r)
		r = step_pin(k, name, report);
	if (r) {
		lb_kernel_close(k);
		return r;
	}
	*ret = k;
	return 0;
}

void lb_kernel_close(struct lb_kernel *k)
{
	if (!k)
		return;
	/* The names first: nobody may find through a pin what is about to go. */
	lb_pin_close(&k->pin);
	lb_ring_close(k);
	lb_load_close(&k->load);
	free(k);
}

void lb_kernel_leave_pins(struct lb_kernel *k)
{
	if (k)
		lb_pin_leave(&k->pin);
}

void lb_kernel_take_pins(struct lb_kernel *k, const char *instance)
{
	struct lb_kernel_report report = {};
	char name[LB_PIN_NAME_MAX];

	/* They are for people: without them everything else works. */
	if (k && !k->pin.open && !lb_pin_name(instance, name))
		(void)step_pin(k, name, &report);
}

int lb_kernel_unload(const char *instance, void (*told)(const char *dir, const char *pin),
		     char *note, size_t size)
{
	struct lb_load_object objects[LB_LOAD_OBJECTS_MAX];
	struct lb_load names = {};
	char dir[LB_PIN_NAME_MAX];
	size_t count;
	int r;

	r = lb_pin_name(instance, dir);
	if (!r)
		r = lb_load_names(&names);
	if (r) {
		snprintf(note, size, "%s", strerror(-r));
		return r;
	}
	count = lb_load_objects(&names, objects);
	r = lb_pin_remove(LB_PIN_ROOT, dir, objects, count, told, note, size);
	lb_load_close(&names);
	return r;
}
