/* SPDX-License-Identifier: MIT */
/*
 * Admission: what a packet costs in the XDP program, in ns on this machine as it is now. Prints,
 * and fails on no time; that the packets were judged as they should be is the test.
 *
 * Two figures for each row: of one packet again and again, whose way through the tables is in the
 * caches, and of packets of many clients, each judged once. The clock's own cost, measured with a
 * packet that ends at its first byte, is taken off the latter.
 */
#include <stdlib.h>

#include "admit.h"

#include "acl_cases.h"

#define ROUND   20000u
#define ROUNDS  9u
#define CLIENTS 4096u
#define REFUSED 100000u

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static uint32_t median(uint32_t *ns, size_t count)
{
	qsort(ns, count, sizeof(*ns), by_value);
	return ns[count / 2];
}

static uint32_t run(const struct frame_bytes *f, uint32_t repeat, uint32_t *verdict)
{
	struct frame_bytes ours = *f;
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = ours.b, .data_size_in = (uint32_t)f->n,
		    .repeat = (int)repeat);

	memset(ours.b, 0, 6);
	assert_int_equal(
		bpf_prog_test_run_opts(bpf_program__fd(admit->xdp->progs.xdp_admit), &opts), 0);
	*verdict = opts.retval;
	return opts.duration;
}

/* Long rounds: the kernel waits for all CPUs before and after each (bpf_prog_change_xdp()). */
static uint32_t again_and_again(const struct frame_bytes *f, uint32_t want)
{
	uint32_t ns[ROUNDS], verdict;

	for (uint32_t i = 0; i < ROUNDS; i++) {
		ns[i] = run(f, ROUND, &verdict);
		assert_int_equal(verdict, want);
	}
	return median(ns, ROUNDS);
}

/* <vary> makes the i-th client's frame. How many of them were dropped. */
static uint32_t each_once(struct frame_bytes (*vary)(uint32_t i), uint32_t *dropped)
{
	static uint32_t ns[CLIENTS];
	uint32_t verdict;

	*dropped = 0;
	for (uint32_t i = 0; i < CLIENTS; i++) {
		struct frame_bytes f = vary(i);

		ns[i] = run(&f, 1, &verdict);
		*dropped += verdict == XDP_DROP;
	}
	return median(ns, CLIENTS);
}

static uint32_t clock_ns;

static struct frame_bytes vary_nothing(uint32_t i)
{
	struct segment s = syn_from(CLIENT, 80);
	struct frame_bytes f = build(&s);

	put16(f.b + 12, 0x0806);
	return f;
}

static void row(const char *name, const struct frame_bytes *f, uint32_t want,
		struct frame_bytes (*vary)(uint32_t i))
{
	uint32_t hot = again_and_again(f, want), dropped, cold = each_once(vary, &dropped);

	print_message("%-44s %4u %8u   %5.1f %%\n", name, hot,
		      cold > clock_ns ? cold - clock_ns : 0, 100.0 * dropped / CLIENTS);
}

static uint32_t port = 80;
static bool ipv6;

static struct frame_bytes syn_of(uint32_t number)
{
	struct segment s = syn_from(ipv6 ? CLIENT6 : CLIENT, (uint16_t)port);

	put32(s.from.addr + 12, number);
	if (ipv6)
		put32(s.from.addr, 0x20000000 | number >> 4);
	return build(&s);
}

/* Spread over all addresses. */
static struct frame_bytes vary_client(uint32_t i)
{
	return syn_of(i * 2654435761u);
}

/* One that lb_refused has. */
static struct frame_bytes vary_refused(uint32_t i)
{
	return syn_of(0x0a000000 + i * (REFUSED / CLIENTS));
}

static void deny_many(size_t count, int family)
{
	struct lb_prefix *list = calloc(count + 1, sizeof(*list));
	struct lb_acl *acl;

	assert_non_null(list);
	acl_case_many(list, count, family, 99);
	/* Hosts, as in a list of bad ones: they do not merge. */
	for (size_t i = 0; i < count; i++)
		list[i].bits = family == AF_INET ? 32 : 128;
	assert_int_equal(lb_acl_new(&acl, NULL, 0, list, count), 0);
	set_acl(RULE, acl);
	lb_acl_free(&acl);
	free(list);
}

static void heading(const char *what)
{
	uint32_t dropped;

	clock_ns = each_once(vary_nothing, &dropped);
	print_message("\n%-44s same    each   dropped\n", what);
}

static void admission_has_a_price(void **state)
{
	struct segment data = syn_from(CLIENT, 80);
	struct frame_bytes f;

	room_required();
	lb_admit_set_rate_limit(admit, RULE, true, 64);
	for (uint32_t i = 0; i < REFUSED; i++) {
		struct lb_addr a = {
			.in4 = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000000 + i)}};

		lb_admit_refuse(admit, RULE, &a, lb_clock_ns() + HOUR_NS);
	}
	deny_many(1000, AF_INET);
	heading("1000 prefixes, 100000 refused clients");
	f = vary_nothing(0);
	row("a frame that is not IP (the clock's share)", &f, XDP_PASS, vary_nothing);
	data.flags = ACK;
	f = build(&data);
	row("a packet of an established connection", &f, XDP_PASS, vary_nothing);
	port = 443;
	f = vary_client(1);
	row("a SYN that is not for us", &f, XDP_PASS, vary_client);
	port = 80;
	f = vary_client(1);
	row("a SYN that may pass", &f, XDP_PASS, vary_client);
	f = vary_refused(1);
	row("a SYN of a refused client", &f, XDP_DROP, vary_refused);
}

static void access_lists_have_a_curve(void **state)
{
	static const size_t counts[] = {0, 10, 100, 1000, 10000, 100000, 1000000};

	room_required();
	for (int v6 = 0; v6 < 2; v6++) {
		ipv6 = v6;
		heading(v6 ? "IPv6, denied hosts" : "IPv4, denied hosts");
		for (size_t i = 0; i < LB_ARRAY_SIZE(counts); i++) {
			struct frame_bytes f = vary_client(1);
			char name[32];

			deny_many(counts[i], v6 ? AF_INET6 : AF_INET);
			snprintf(name, sizeof(name), "%zu", counts[i]);
			row(name, &f, XDP_PASS, vary_client);
		}
	}
	ipv6 = false;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(admission_has_a_price, admit_fresh),
		cmocka_unit_test_setup(access_lists_have_a_curve, admit_fresh),
	};

	return cmocka_run_group_tests(tests, admit_setup, admit_teardown);
}
