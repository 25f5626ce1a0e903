/* SPDX-License-Identifier: MIT */
/* The kernel's twin of userspace/flow/bucket.c, on the same cases. */
#include "flow/bucket.h"

#include <bpf/bpf.h>
#include <pthread.h>

#include "bucket.skel.h"
#include "bucket_cases.h"
#include "room.h"

static struct bucket *skel;

static int setup(void **state)
{
	if (room_enter(state) || room_missing[0])
		return 0;
	skel = bucket__open_and_load();
	return skel ? 0 : -1;
}

static int teardown(void **state)
{
	bucket__destroy(skel);
	return 0;
}

static void run(void)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);

	assert_int_equal(bpf_prog_test_run_opts(bpf_program__fd(skel->progs.bucket), &opts), 0);
	assert_int_equal(opts.retval, 0);
}

static void set(uint64_t rate, int64_t tat)
{
	lb_bucket_init(&skel->bss->the_bucket, rate);
	skel->bss->the_bucket.tat = BUCKET_NOW + (uint64_t)tat;
	skel->bss->now = BUCKET_NOW;
}

static void every_case_is_as_the_contract_says(void **state)
{
	room_required();
	for (size_t i = 0; i < LB_ARRAY_SIZE(bucket_cases); i++) {
		const struct bucket_case *c = &bucket_cases[i];

		set(c->rate, c->tat);
		skel->bss->bytes = c->bytes;
		run();
		if (skel->bss->admits != c->admits)
			fail_msg("%s: admits %d", c->claim, skel->bss->admits);
		if (skel->bss->the_bucket.tat != BUCKET_NOW + (uint64_t)c->after)
			fail_msg("%s: tat %lld", c->claim,
				 (long long)(skel->bss->the_bucket.tat - BUCKET_NOW));
	}
}

#define CHARGES 100000

static void *charge_many(void *arg)
{
	for (int i = 0; i < CHARGES; i++)
		lb_bucket_charge(arg, 5, BUCKET_NOW);
	return NULL;
}

static void kernel_and_daemon_lose_no_charge_of_each_other(void **state)
{
	pthread_t thread;

	room_required();
	set(1000000000, -5000 * BUCKET_MS);
	skel->bss->bytes = 3;
	assert_int_equal(pthread_create(&thread, NULL, charge_many, &skel->bss->the_bucket), 0);
	for (int i = 0; i < CHARGES; i++)
		run();
	pthread_join(thread, NULL);
	assert_int_equal(skel->bss->the_bucket.tat - BUCKET_NOW, 8 * CHARGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_case_is_as_the_contract_says),
		cmocka_unit_test(kernel_and_daemon_lose_no_charge_of_each_other),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
